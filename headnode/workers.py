"""The processes of the HTTP server: started on one listening socket, watched, replaced.

The socket is the daemon's and stays open, so that no client is ever refused while workers come and
go: what nobody has accepted yet, the next worker does. Workers are programs of their own, not
forks: they are small, and a reload runs the code that is installed now.
"""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

from headnode.errors import HeadnodeError
from headnode.process import environment
from headnode.worker import Order, Settings

log = logging.getLogger(__name__)

READY_S = 30.0
STOP_S = 15.0  # more than Limits.stop_s, after which a worker cuts its transfers off
# What ends sooner than this after its start (a worker, rsyncd) is not started again at once.
SETTLE_S = 5.0
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Worker:
    """A process; `started_s` is monotonic."""

    process: subprocess.Popen[str]
    started_s: float

    def tell(self, order: Order) -> None:
        """Give an order; a process that has ended needs none."""
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None  # noqa: S101 (asked for a pipe)
            self.process.stdin.write(f"{order.value}\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Wait for a process that has ended, or is about to, and give its pipes back."""
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()


@dataclass(slots=True)
class Slot:
    """A worker's place: who holds it now, and when a dead one is started anew."""

    worker: Worker | None
    pause_s: float = 0.0
    due_s: float = 0.0


def next_pause_s(pause_s: float, lived_s: float) -> float:
    """How long to wait before a worker that lived for so long is started again. Pure."""
    if lived_s >= SETTLE_S:
        return 0.0
    return min(LONGEST_PAUSE_S, max(PAUSE_S, 2 * pause_s))


@dataclass(slots=True)
class Workers:
    """So many workers on `listener`, and those that a reload has replaced and that still send."""

    listener: socket.socket
    settings: Settings
    slots: list[Slot] = field(default_factory=list)
    leaving: list[Worker] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start `count` workers, wait until they serve, and let those go that there were before.

        Raises:
            HeadnodeError: one did not come up. Those before go on.
        """
        new: list[Worker] = []
        try:
            for _ in range(count):
                new.append(self._begin())
            for worker in new:
                _await_ready(worker)
        except BaseException:
            for worker in new:
                worker.kill()
            raise
        old = [slot.worker for slot in self.slots if slot.worker is not None]
        self.slots = [Slot(worker) for worker in new]
        for worker in old:
            worker.tell(Order.DRAIN)
        self.leaving += old

    def watch(self) -> None:
        """Start again who has died, and forget who has left. To be called every second."""
        for worker in [each for each in self.leaving if each.process.poll() is not None]:
            worker.close()
            self.leaving.remove(worker)
        now = time.monotonic()
        for slot in self.slots:
            if slot.worker is not None and slot.worker.process.poll() is not None:
                self._bury(slot, slot.worker, now)
            if slot.worker is None and now >= slot.due_s:
                self._fill(slot, now)

    def _bury(self, slot: Slot, worker: Worker, now: float) -> None:
        slot.pause_s = next_pause_s(slot.pause_s, now - worker.started_s)
        slot.due_s, slot.worker = now + slot.pause_s, None
        worker.close()
        log.warning(
            "HTTP worker %d ended with exit code %d, starting another in %g s",
            *(worker.process.pid, worker.process.returncode, slot.pause_s),
        )

    def _fill(self, slot: Slot, now: float) -> None:
        try:
            slot.worker = self._begin()
        except OSError as error:  # no memory, no processes left
            slot.due_s = now + LONGEST_PAUSE_S
            log.error("no HTTP worker can be started just now: %s", error)

    def reopen_logs(self) -> None:
        """Have all go on in a new access log."""
        for worker in self._all():
            worker.tell(Order.REOPEN)

    def stop(self) -> None:
        """Have all finish what they send, within a time, and end."""
        for worker in self._all():
            worker.tell(Order.STOP)
        deadline = time.monotonic() + STOP_S
        for worker in self._all():
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            worker.kill()
        self.slots, self.leaving = [], []

    def _all(self) -> list[Worker]:
        return [slot.worker for slot in self.slots if slot.worker is not None] + self.leaving

    def _begin(self) -> Worker:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headnode.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            pass_fds=[self.listener.fileno()],
            start_new_session=True,
        )
        worker = Worker(process=process, started_s=time.monotonic())
        assert process.stdin is not None  # noqa: S101 (asked for a pipe)
        with suppress(OSError):  # it ended at once, which whoever waits for it finds out
            process.stdin.write(replace(self.settings, listener=self.listener.fileno()).line())
            process.stdin.flush()
        return worker


def _await_ready(worker: Worker) -> None:
    output = worker.process.stdout
    assert output is not None  # noqa: S101 (asked for a pipe)
    there, _, _ = select.select([output], [], [], READY_S)
    if there and output.readline() == "ready\n":
        return
    worker.kill()
    raise HeadnodeError(
        f"An HTTP worker did not start: it ended with exit code {worker.process.returncode}.",
        remedy="What it said stands above.",
    )
