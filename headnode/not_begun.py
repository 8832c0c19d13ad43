"""Tells the administrator of a night that could not begin, which no run can do itself.

A job that meets a locked ledger, a full disk or a typo in cluster.toml ends before its run stands
in the ledger, and each look starts it again, for as long as `catch_up_h`. Nothing here needs the
ledger, room on the disk, or a cluster.toml that can be read: `headnode serve` has the one before.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import datetime

from headnode.errors import HeadnodeError
from headnode.files import holder
from headnode.process import last_lines
from schedules import notices
from schedules.due import Known, Start, plan
from schedules.ledger.ledger import Ledger
from schedules.runner import headnode_name, holder_name, lock_path
from schedules.site import Site

log = logging.getLogger(__name__)

LINES = 5
AGAIN_S = 3600.0  # a way that says it failed may have told somebody all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child: its exit code, its process, and what it said."""

    code: int
    process: int
    said: str

    @property
    def why(self) -> str:
        """The end of what it said."""
        said = last_lines(self.said, LINES).removeprefix("headnode: ")
        return said or f"it ended with exit code {self.code} and said nothing."


class NotBegun:
    """Remembers what was told, and since when it is not known what is due."""

    def __init__(self, now: datetime) -> None:
        self._known = now
        self._quiet_until_s = -math.inf

    def looked(self, now: datetime) -> None:
        """Take note that it was known what is due."""
        self._known = now

    def unknown(self, site: Site, why: str, now: datetime) -> None:
        """Tell why nobody knows what is due, if anything has been since it was known."""
        options = site.cluster.schedule
        known = Known(since=dict.fromkeys(options.jobs, self._known), last_due={})
        for start in plan(options, known, now)[:1]:
            self.tell(site, start.job, why, now)

    def ended(self, site: Site, start: Start, child: Ended, now: datetime) -> None:
        """Tell of a child that failed, unless it had its run, which tells how that went."""
        if not _had_its_run(site, start, child) and not holder(lock_path(site.state)):
            self.tell(site, start.job, child.why, now)

    def tell(self, site: Site, job: str, why: str, now: datetime) -> None:
        """Send a notice, once a night whatever the reason."""
        if time.monotonic() < self._quiet_until_s:
            return
        try:
            if errors := notices.tell_not_begun(site, job, why, now=now):
                log.error("not everybody could be told: %s", "; ".join(errors))
                self._quiet_until_s = time.monotonic() + AGAIN_S
        except OSError as error:  # a full disk: it is remembered here, then
            log.error("that a notice was sent cannot be noted: %s", error)
            self._quiet_until_s = time.monotonic() + notices.NIGHT.total_seconds()


def _had_its_run(site: Site, start: Start, child: Ended) -> bool:
    try:
        with Ledger.of(site) as ledger:
            newest = ledger.runs(headnode_name(), job=start.job)
    except HeadnodeError as error:
        log.error("whether %s has begun cannot be told: %s", start.job, error)
        return False
    mine = holder_name(child.process)
    return any(run.due == start.due and run.holder == mine for run in newest)
