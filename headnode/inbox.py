"""Brings the reports that the server took into the ledger, while `headnode serve` runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from blades.inventory import all_blades
from headnode.errors import LedgerError
from headnode.files import locked
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import Pulled
from schedules.ledger.spool import Letter, Spool
from schedules.rollout import PULL_RESULTS, read_said
from schedules.site import Site

log = logging.getLogger(__name__)

MOST = 2000  # reports in a transaction: a second or two
EVERY_S = 5.0  # a transaction for many reports costs little more than for one
AGAIN_S = 30.0  # after the ledger could not be written


def rings_of(site: Site) -> dict[str, str]:
    """The ring of each blade: asked once, since a node set of 10,000 takes a while to read."""
    return {blade.name: blade.ring for blade in all_blades(site.cluster)}


def drain(state: Path, ledger: Ledger, rings: Mapping[str, str]) -> int:
    """Bring all reports that wait into the ledger; how many were new.

    Raises:
        LedgerError: it cannot be written; the reports wait on.
    """
    spool, new = Spool.of(state), 0
    while paths := spool.waiting(MOST):
        new += _write(ledger, spool, paths, rings)
    return new


def _write(ledger: Ledger, spool: Spool, paths: list[Path], rings: Mapping[str, str]) -> int:
    read = {path: spool.read(path) for path in paths}
    known = {path: pulled_of(letter, rings) for path, letter in read.items() if letter}
    good = {path: pulled for path, pulled in known.items() if pulled}
    new = ledger.pulled_all(good.values(), datetime.now(UTC))
    spool.forget(list(good))
    for path in paths:
        if path not in good:
            log.error("%s is no report, and is kept in %s", path.name, spool.folder / "odd")
            spool.set_aside(path)
    return new


def pulled_of(letter: Letter, rings: Mapping[str, str]) -> Pulled | None:
    """What a report says; None if that is no pull's result. Pure."""
    said: Mapping[str, object] = letter.said
    if said.get("result") not in PULL_RESULTS:
        return None
    seconds, text = said.get("seconds"), said.get("log")
    report = read_said(
        letter.blade,
        rings.get(letter.blade, str(said.get("ring", ""))),
        said,
        float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else 0.0,
        text if isinstance(text, str) else "",
    )
    return Pulled(report=report, at=letter.arrived, number=letter.number)


def begin_anew(ledger: Ledger, now: datetime) -> Path | None:
    """Move a damaged SQLite ledger aside, so that the next use makes a new one; where it is now.

    None, and nothing is done, if it is not damaged: another process has just moved it.
    """
    path = ledger.store.file
    if path is None:
        return None
    with locked(path.with_name("ledger.lock"), "headnode"):
        if not ledger.store.is_damaged():
            return None
        ledger.store.close()
        aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
        path.replace(aside)
        for more in ("-wal", "-shm"):  # SQLite would take them for the new one's
            part = path.with_name(path.name + more)
            if part.exists():
                part.replace(aside.with_name(aside.name + more))
    return aside


class Inbox:
    """Looks for reports, in a thread of its own: the servers are watched meanwhile."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._next_s = 0.0
        self._site: Site | None = None
        self._ledger: Ledger | None = None
        self._rings: dict[str, str] = {}

    def watch(self, site: Site) -> None:
        """Start bringing in what there is, if it is time to look and that is not at work."""
        if time.monotonic() < self._next_s or (self._thread and self._thread.is_alive()):
            return
        self._next_s = time.monotonic() + EVERY_S
        if not Spool.of(site.state).waiting(1):
            return
        self._thread = threading.Thread(target=self._bring, args=(site,), daemon=True)
        self._thread.start()

    def _bring(self, site: Site) -> None:
        try:
            ledger = self._open(site)
            try:
                drain(site.state, ledger, self._rings)
            except LedgerError as error:
                self._next_s = time.monotonic() + AGAIN_S
                log.error("reports wait in files: %s", error)
                if error.damaged and (aside := begin_anew(ledger, datetime.now(UTC))):
                    log.error("a new ledger is begun, the damaged one is %s", aside)
                    self._next_s = 0.0
        except Exception:
            self._next_s = time.monotonic() + AGAIN_S
            log.exception("reports wait in files")

    def _open(self, site: Site) -> Ledger:
        """The ledger of a site, kept open until the configuration is another."""
        if self._ledger is None or self._site is not site:
            if self._ledger is not None:
                self._ledger.store.close()
            self._site, self._rings = site, rings_of(site)
            self._ledger = Ledger.of(site)
        return self._ledger
