"""What a blade says of the command that is to restart it."""

from pathlib import Path
from typing import Any

import pytest

from blades import places, restart


def test_a_command_for_a_restart_that_does_not_end_may_have_begun_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(places, "STATE", tmp_path)
    monkeypatch.setattr(restart.deadman, "waiting", dict)
    monkeypatch.setattr(restart, "COMMAND_S", 0.2)
    monkeypatch.setattr(restart, "_settle", lambda *_: {"pending": True, "fell_back": False})
    limits = {**restart.blade_of({})["pull"], "reboot_command": "sleep 60"}
    monkeypatch.setattr(restart, "_limits", lambda: limits)
    report: dict[str, Any] = {}
    restart.restart({}, report)
    assert report == {"result": "restarting", "error": "`sleep 60` did not end within 0.2 s"}
