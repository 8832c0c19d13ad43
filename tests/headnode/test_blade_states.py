"""`headnode blades list` and `show`, and what `rollout run` writes down."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.load import load
from headnode.cli import run
from headnode.commands.bladestates import ago
from schedules.ledger.ledger import Ledger
from schedules.site import Site

CONFIG = """\
[state]
path = "state"

[signing]
mode = "off"

[rollout]
transport = "exec"
exec_command = "{enter} %h"
timeout_s = 1.0
waves = ["100%"]
max_failed = "100%"
settle_s = 0

[ledger]
busy_s = 0.1

[classes.blade]
packages = ["app-misc/hello"]
rings = {{ canary = "blade1", fleet = "blade[2-4]" }}
"""
SAID = {
    "result": "updated",
    "generation": 7,
    "sequence": 9,
    "packages": 11,
    "changes": ["+app-misc/a-2"],
    "emerge": True,
    "error": "",
    "kernel": "6.12.1",
    "kernel_due": "6.12.2",
    "source_builds": 0,
    "fetched_bytes": 1234,
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Four blades: one is well, one fails, one is off, one hangs."""
    monkeypatch.chdir(tmp_path)
    enter = tmp_path / "enter"
    failed = json.dumps({**SAID, "result": "failed", "error": "no room"})
    enter.write_text(
        "#!/bin/sh\n"
        "case $1 in\n"
        f"blade1) echo '{json.dumps(SAID)}';;\n"
        f"blade2) echo merging; echo '{failed}'; exit 1;;\n"
        "blade3) echo off >&2; exit 255;;\n"
        "blade4) exec sleep 60;;\n"
        "esac\n"
    )
    enter.chmod(enter.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "cluster.toml").write_text(CONFIG.format(enter=enter))
    return Site(cluster=load(tmp_path / "cluster.toml"))


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert run(["blades", "list", "--json", *words]) == 0
    return list(json.loads(capsys.readouterr().out))


def test_before_the_first_rollout_nobody_was_heard_of_and_asking_makes_no_ledger(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(each["name"], each["result"]) for each in listed(capsys)] == [
        (f"blade{number}", None) for number in (1, 2, 3, 4)
    ]
    assert not (site.state / "headnode.sqlite").exists()


def test_a_rollout_is_in_the_ledger_with_every_blade_however_it_fared(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rollout", "run"]) == 3
    found = {str(each["name"]): each for each in listed(capsys)}
    keys = ("result", "generation", "kernel", "kernel_due", "source_builds", "fetched_bytes")
    assert {name: tuple(each[key] for key in keys) for name, each in found.items()} == {
        "blade1": ("updated", 7, "6.12.1", "6.12.2", 0, 1234),
        "blade2": ("failed", None, "6.12.1", "6.12.2", 0, 1234),
        "blade3": ("unreached", None, "", "", None, None),
        "blade4": ("timed out", None, "", "", None, None),
    }
    assert [bool(each["contact"]) for each in found.values()] == [True, True, False, False]
    assert [bool(each["success"]) for each in found.values()] == [True, False, False, False]
    assert [each["name"] for each in listed(capsys, "--nodes", "blade[3-4]")] == [
        "blade3",
        "blade4",
    ]


def test_show_has_the_last_error_with_its_log(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["rollout", "run", "--nodes", "blade2"])
    capsys.readouterr()
    assert run(["blades", "show", "blade2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["error"] == "no room"
    assert shown["error_log"].startswith("merging\n")
    assert [each["result"] for each in shown["reports"]] == ["failed"]
    assert run(["blades", "show", "blade2"]) == 0
    text = capsys.readouterr().out
    assert "\nresult           failed\n" in text
    (row,) = (line for line in text.splitlines() if "  failed  " in line)
    assert row.split("failed")[1].split()[:4] == ["7", "1", "0", "0.0"]
    assert "no room\n\nIts log:\nmerging\n" in text


def test_show_wants_one_blade(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["blades", "show", "blade[1-2]"]) == 2
    assert capsys.readouterr().err == "headnode: blade[1-2] names 2 blades. Name one.\n"


def test_a_locked_ledger_does_not_stop_a_rollout(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["rollout", "run", "--nodes", "blade1"])
    capsys.readouterr()
    with Ledger.of(site) as ledger, ledger.store.writing():
        assert run(["rollout", "run", "--nodes", "blade1"]) == 0
    assert (
        f"WARNING: 1 reports are not in the ledger. The ledger {site.state}/headnode.sqlite is "
        "locked. Somebody has been writing in it for longer than [ledger] busy_s. Try again.\n"
    ) in capsys.readouterr().err


def test_a_person_reads_how_long_ago_something_was() -> None:
    now = datetime(2026, 3, 3, tzinfo=UTC)
    moments = [None, now, *(now - timedelta(minutes=each) for each in (1, 2, 119, 120, 2880))]
    assert [ago(each, now) for each in moments] == [
        *("never", "0 s ago", "60 s ago", "2 min ago", "119 min ago", "2 h ago", "2 d ago")
    ]
