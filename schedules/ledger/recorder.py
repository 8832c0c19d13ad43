"""Writes pulls down while a rollout goes on, in a thread of its own.

Whoever runs many pulls at once must not wait for a ledger that another process is writing in; and
a ledger that cannot be used at all stops no rollout: that is said once, and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from datetime import datetime
from types import TracebackType
from typing import Self

from headnode.errors import LedgerError
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import Pulled
from schedules.rollout import BladeReport

log = logging.getLogger(__name__)


class Recorder:
    """Takes reports for the block; at its end all that were taken are written, or `lost`.

    `error` is why the first of the lost ones could not be written.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.lost = 0
        self.error: LedgerError | None = None
        self._ledger = ledger
        self._coming: queue.SimpleQueue[Pulled | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def pulled(self, report: BladeReport, at: datetime) -> None:
        """Have a pull written down; returns at once."""
        self._coming.put(Pulled(report=report, at=at))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._coming.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = [self._coming.get()]
            while not self._coming.empty():
                batch.append(self._coming.get())
            ended = None in batch
            self._write([each for each in batch if each is not None])

    def _write(self, batch: list[Pulled]) -> None:
        try:
            if batch:
                self._ledger.pulled_all(batch, batch[-1].at)
        except LedgerError as error:
            self.lost += len(batch)
            if self.error is None:
                self.error = error
                log.error("what blades report is not written down: %s", error)
