"""Which blades catch up after they were off, and which are left alone."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blades.inventory import Blade
from headnode.cli import run
from schedules.ledger.pulls import BladeState
from schedules.missed import missed
from schedules.rollout import Result

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BLADES = [
    Blade(name=name, class_name="blade", ring=ring)
    for name, ring in (("blade1", "canary"), ("blade2", "fleet"), ("blade3", "fleet"))
]
WANTED = {("blade", "canary"): 7, ("blade", "fleet"): 7}
GOOD = BladeState(
    name="",
    ring="",
    result=Result.UPDATED,
    tried=NOW,
    first_tried=NOW,
    generation=7,
    sequence=9,
    packages=3,
    kernel="",
    kernel_due="",
    source_builds=0,
    seconds=1.0,
    fetched_bytes=0,
    contact=NOW,
    success=NOW,
    error="",
    error_at=None,
    error_log="",
)
OFF = replace(GOOD, result=Result.UNREACHED, generation=6)


def found(known: dict[str, BladeState], drained: dict[str, str] | None = None) -> list[str]:
    return [each.name for each in missed(BLADES, known, WANTED, drained or {})]


def test_a_blade_that_was_off_catches_up_with_what_its_ring_came_through_with() -> None:
    assert found({"blade1": GOOD, "blade2": GOOD, "blade3": OFF}) == ["blade3"]


@pytest.mark.parametrize("result", sorted(set(Result) - {Result.UNREACHED}))
def test_one_that_answered_does_not(result: Result) -> None:
    known = {"blade1": GOOD, "blade2": GOOD, "blade3": replace(OFF, result=result)}
    assert found(known) == []


def test_nobody_is_the_first_of_a_ring_by_himself() -> None:
    assert found({"blade1": GOOD, "blade2": OFF, "blade3": OFF}) == []
    before = replace(GOOD, generation=6)  # the ring was moved since
    assert found({"blade1": GOOD, "blade2": before, "blade3": OFF}) == []
    assert found({"blade1": OFF, "blade2": GOOD, "blade3": GOOD}) == []


def test_a_drained_blade_is_left_alone_and_so_is_one_that_was_never_tried() -> None:
    known = {"blade1": GOOD, "blade2": GOOD, "blade3": OFF}
    assert found(known, {"blade3": "memory test"}) == []
    assert found({"blade1": GOOD, "blade2": GOOD}) == []


def test_the_blades_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '[state]\npath = "state"\n[classes.blade]\npackages = ["a/b"]\n'
    Path("cluster.toml").write_text(text + 'rings = { canary = "blade[1-3]" }\n')
    assert run(["rollout", "run", "--missed", "--nodes", "blade1"]) == 2
    assert capsys.readouterr().err == (
        "headnode: --missed finds the blades itself. Leave out --nodes.\n"
    )
    assert run(["rollout", "run", "--missed"]) == 0
    assert capsys.readouterr().out == "No blade that missed a rollout answers now.\n"
