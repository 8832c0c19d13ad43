"""Keeps deployments from expiring while `headnode serve` runs: each is renewed in good time."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime

from headnode.errors import BusyError
from schedules.moving import renew_once
from schedules.site import Site

log = logging.getLogger(__name__)
EVERY_S = 3600.0
AGAIN_S = 60.0  # after a publish was in the way, or something failed


class Renewal:
    """Looks once an hour, in a thread of its own: the servers are watched meanwhile."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._next_s = 0.0

    def watch(self, site: Site) -> None:
        """Start a look, if it is time for one and none is at work."""
        if time.monotonic() < self._next_s or (self._thread and self._thread.is_alive()):
            return
        self._next_s = time.monotonic() + AGAIN_S  # if no thread can be had just now
        self._thread = threading.Thread(target=self._look, args=(site,), daemon=True)
        self._thread.start()

    def _look(self, site: Site) -> None:
        self._next_s = time.monotonic() + EVERY_S
        renewed = renew_once(site, now=datetime.now(UTC))
        for done in renewed.done:
            log.info(
                "renewed: ring %s, generation %d, deployment %d",
                done.deployment.ring,
                done.generation.number,
                done.deployment.sequence,
            )
        for ring, error in renewed.failed.items():
            level = logging.INFO if isinstance(error, BusyError) else logging.ERROR
            log.log(level, "%s is not renewed, and its blades will refuse it: %s", ring, error)
            self._next_s = time.monotonic() + AGAIN_S
