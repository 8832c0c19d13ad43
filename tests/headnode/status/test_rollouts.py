"""What a rollout keeps on disk, as the status has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from headnode.files import locked
from headnode.status.gather import Gatherer
from headnode.status.model import Health, Level, Wave
from headnode.status.page.timeline import timeline
from headnode.status.sources.rollouts import rollout


def blade(ring: str, wave: int, result: str) -> dict[str, object]:
    return {
        "ring": ring,
        "wave": wave,
        "result": result,
        "generation": 5,
        "error": "",
        "seconds": 9.5,
    }


def said(phase: str = "running", why: str = "") -> dict[str, Any]:
    return {
        "started": "2026-03-04T06:42:00Z",
        "changed": "2026-03-04T06:50:00Z",
        "nodes": None,
        "phase": phase,
        "why": why,
        "deployments": {"blade/canary": 5},
        "blades": {
            "blade01": blade("canary", 1, "updated"),
            "blade02": blade("canary", 1, "failed"),
            "blade03": blade("fleet", 1, "unchanged"),
            "blade04": blade("fleet", 1, ""),
            "blade05": blade("fleet", 2, ""),
            "blade06": blade("fleet", 2, ""),
        },
    }


def test_a_rollout_that_runs_has_its_waves_and_who_is_at_it() -> None:
    found, pulling = rollout(said(), is_held=True)
    assert found is not None
    assert (found.state, found.ended, pulling) == ("running", None, {"blade04"})
    assert found.waves == (
        Wave(number=1, ring="canary", state="done", blades=2, good=1, failed=1),
        Wave(number=1, ring="fleet", state="running", blades=2, good=1, failed=0),
        Wave(number=2, ring="fleet", state="pending", blades=2, good=0, failed=0),
    )


def test_one_whose_process_has_gone_was_interrupted_and_nobody_is_at_it() -> None:
    found, pulling = rollout(said(), is_held=False)
    assert found is not None
    assert (found.state, pulling) == ("interrupted", frozenset())
    assert found.ended == datetime.fromisoformat("2026-03-04T06:50:00Z")


@pytest.mark.parametrize(
    "nonsense", [{}, {"started": 1, "changed": 2}, {"started": "x", "changed": "y"}]
)
def test_nonsense_is_no_rollout(nonsense: dict[str, Any]) -> None:
    assert rollout(nonsense, is_held=True) == (None, frozenset())


Place = Callable[..., Any]
Clock = Callable[[], datetime]


def test_the_status_shows_what_runs_and_who_is_drained(empty: Place, clock: Clock) -> None:
    site = empty(4)
    (site.state / "binhost/blade").mkdir(parents=True)
    (site.state / "rollout.json").write_text(json.dumps(said()))
    (site.state / "binhost/blade/drained.json").write_text(
        json.dumps({"blade03": {"since": "2026-03-01T00:00:00Z", "why": "new memory"}})
    )
    with locked(site.state / "rollout.lock", "headnode rollout run"):
        status = Gatherer(site).status(clock())
    health = {each.name: (each.health, each.note) for each in status.blades}
    assert health["blade03"] == (Health.DRAINED, "new memory")
    assert health["blade04"] == (Health.PULLING, "")
    picture = timeline(status)
    assert picture is not None
    assert [(row.name, row.bars[0].state) for row in picture.rows] == [("rollout", "running")]


def test_a_rollout_that_stopped_itself_wants_somebody(empty: Place, clock: Clock) -> None:
    site = empty(4)
    site.state.mkdir()
    text = json.dumps(said("stopped", "2 of 2 canaries failed"))
    (site.state / "rollout.json").write_text(text)
    status = Gatherer(site).status(clock())
    first = status.verdict.points[0]
    assert (first.level, first.text, first.remedy) == (
        Level.BAD,
        "The last rollout was stopped (2 of 2 canaries failed).",
        "headnode rollout status",
    )
