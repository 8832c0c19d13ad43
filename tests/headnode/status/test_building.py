"""How far a build is, from what emerge prints and from the file that it keeps for observers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headnode.files import holder, locked
from headnode.status.model import Build, Helper, Job
from headnode.status.sources.building import Progress, builds, helped, helpers, jobs, progress

DATA = Path(__file__).parents[2] / "data/emerge/3.0.83"
NOW = datetime(2026, 3, 4, 2, tzinfo=UTC)


def lines_until(name: str, end: str) -> list[str]:
    lines = (DATA / name).read_text().splitlines()
    return lines[: lines.index(end) + 1]


def test_a_running_emerge_tells_how_far_it_is() -> None:
    lines = lines_until("build_good.txt", ">>> Emerging (3 of 3) sys-apps/bladeinfo-1.0::gentoo")
    assert progress(lines) == Progress(
        done=1,
        total=3,
        working={"app-misc/bladecount-1.0": "emerging", "sys-apps/bladeinfo-1.0": "emerging"},
    )


def test_when_all_is_done_nothing_is_at_work() -> None:
    lines = (DATA / "build_good.txt").read_text().splitlines()
    assert progress(lines) == Progress(done=3, total=3, working={})


def test_the_count_is_right_where_only_the_end_is_read() -> None:
    lines = [">>> Jobs: 812 of 900 complete, 1 running   Load avg: 2.1, 2.2, 2.3"]
    assert progress(lines) == Progress(done=812, total=900, working={})


def test_a_package_that_failed_is_no_longer_at_work() -> None:
    lines = (DATA / "build_failed.txt").read_text().splitlines()
    assert "app-misc/broken-1" not in progress(lines).working


def test_phases_and_ages_come_from_the_observers_file_where_there_is_one() -> None:
    at = Progress(done=1, total=3, working={"a/b-1": "emerging", "c/d-2": "installing"})
    observed = {"a/b-1": {"cpv": "a/b-1", "phase": "compile", "start_time": 100.0}}
    assert list(jobs(at, observed, 160.5)) == [
        Job(package="a/b-1", phase="compile", seconds=60.5),
        Job(package="c/d-2", phase="installing", seconds=None),
    ]


def test_a_lock_is_held_only_as_long_as_its_holder_lives(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert holder(lock) == ""
    with locked(lock, "headnode build"):
        assert holder(lock) == f"headnode build (process {os.getpid()})"
    lock.write_text("headnode build (process 1)\n")  # as one that was killed leaves it
    assert holder(lock) == ""


Place = Callable[..., Any]


def test_a_build_that_runs_is_shown_with_its_packages_and_phases(empty: Place) -> None:
    site = empty(4)
    folder = site.state / "build/blade"
    with locked(folder / ".lock", "headnode build"):
        assert builds(site, NOW) == [
            Build(class_name="blade", holder=f"headnode build (process {os.getpid()})")
        ]
        (folder / "logs").mkdir()
        lines = lines_until(
            "build_good.txt", ">>> Emerging (3 of 3) sys-apps/bladeinfo-1.0::gentoo"
        )
        lines.append(">>> Emerging \x1b]0;owned\x07\x1b[2J\u202e")
        (folder / "logs/emerge.out").write_text("\n".join(lines) + "\n")
        (folder / "run").mkdir()
        tasks = [{"cpv": "app-misc/bladecount-1.0", "phase": "\x1b[1mcompile", "start_time": 0}]
        (folder / "run/emerge-77.json").write_text(
            json.dumps({"type": "snapshot", "schema": 1, "tasks": tasks})
        )
        [build] = builds(site, NOW)
    assert (build.done, build.total) == (1, 3)
    assert build.jobs == (
        Job(package="app-misc/bladecount-1.0", phase="compile", seconds=NOW.timestamp()),
        Job(package="sys-apps/bladeinfo-1.0", phase="emerging", seconds=None),
    )
    assert build.lines[-2:] == (
        "Emerging (3 of 3) sys-apps/bladeinfo-1.0::gentoo",
        "Emerging \ufffd",
    )


def test_the_output_of_an_earlier_build_is_not_taken_for_this_one_s(empty: Place) -> None:
    site = empty(4)
    folder = site.state / "build/blade"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/emerge.out").write_text((DATA / "build_good.txt").read_text())
    os.utime(folder / "logs/emerge.out", (1, 1))
    with locked(folder / ".lock", "headnode build"):
        [build] = builds(site, NOW)
    assert (build.total, build.jobs) == (None, ())


def test_nonsense_in_the_observers_file_is_left_alone(empty: Place) -> None:
    site = empty(4)
    folder = site.state / "build/blade"
    with locked(folder / ".lock", "headnode build"):
        (folder / "logs").mkdir()
        (folder / "logs/emerge.out").write_text(">>> Emerging (1 of 1) a/b-1::gentoo\n")
        (folder / "run").mkdir()
        for text in ("", "[]", '{"type": "other"}', '{"type": "snapshot", "tasks": [1, {}]}'):
            (folder / "run/emerge-1.json").write_text(text)
            [build] = builds(site, NOW)
            assert build.jobs == (Job(package="a/b-1", phase="emerging", seconds=None),)


def test_helpers_are_shown_with_what_they_made_or_why_they_did_not() -> None:
    said = SimpleNamespace(
        jobs={"blade01": 120, "blade02": 80},
        failures={"blade02": 3},
        left_out={"blade03": "another compiler (gcc 13)"},
    )
    assert list(helped(said, 4)) == [
        Helper(name="blade01", slots=4, jobs=120, well=True),
        Helper(name="blade02", slots=4, jobs=80, well=False, note="3 jobs not finished"),
        Helper(name="blade03", slots=4, jobs=0, well=False, note="another compiler (gcc 13)"),
    ]


def test_a_build_that_nobody_helped_with_shows_no_helpers(empty: Place) -> None:
    assert helpers(empty(4)) == []
