"""A night that could not begin is told once, whatever the ways say. The rest: test_scheduler.py."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.model import Cluster
from headnode import not_begun
from headnode.not_begun import NotBegun
from schedules.site import Site

NOW = datetime(2026, 3, 1, 1, 15, tzinfo=UTC)


def test_a_way_that_tells_and_says_that_it_failed_is_not_asked_each_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    command = f"cat >> {told}; echo END >> {told}; exit 1"
    site = Site(
        cluster=Cluster.model_validate(
            {"state": {"path": str(tmp_path / "state")}, "notices": {"command": command}}
        )
    )
    site.state.mkdir()
    not_yet = NotBegun(NOW)
    for minute in range(5):
        not_yet.tell(site, "nightly", "the ledger is locked", NOW + timedelta(minutes=minute))
    assert told.read_text().count("END\n") == 1
    later = time.monotonic() + not_begun.AGAIN_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    not_yet.tell(site, "nightly", "the ledger is locked", NOW + timedelta(hours=1))
    assert told.read_text().count("END\n") == 2
