"""The rollout that runs, or ran last, and who is drained, from the files that rollouts keep.

::

    <state>/rollout.json                   what it is at: its phase, and each blade with its wave
    <state>/rollout.lock                   held while it runs, and while blades are restarted
    <state>/binhost/<class>/drained.json   blade: since when, why, and until when
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from blades.drained import drained as blades_drained
from headnode.status.model import Rollout, Wave
from schedules.progress import is_running
from schedules.rollout import GOOD
from schedules.site import Site

RUNNING = frozenset({"running", "going back"})
UNTRIED = frozenset({"", "not tried", "drained"})


def drained(site: Site, now: datetime) -> dict[str, str]:
    """The blades that rollouts leave alone, and why."""
    found: dict[str, str] = {}
    for name in site.cluster.classes:
        found |= blades_drained(site.binhost(name).folder, now)
    return found


def read_rollout(site: Site) -> tuple[Rollout | None, frozenset[str]]:
    """The last rollout, and the blades that are at it just now."""
    said = _read(site.state / "rollout.json")
    return rollout(said, is_held=is_running(site.state))


def rollout(said: Mapping[str, Any], *, is_held: bool) -> tuple[Rollout | None, frozenset[str]]:
    """What the file says; `is_held`: its process lives. Pure."""
    try:
        started = datetime.fromisoformat(said["started"])
        changed = datetime.fromisoformat(said["changed"])
    except (KeyError, TypeError, ValueError):
        return None, frozenset()
    phase = str(said.get("phase", ""))
    runs = is_held and phase in RUNNING
    blades = {name: _table(each) for name, each in _table(said.get("blades")).items()}
    waves = [
        (ring, number, dict(found)) for (ring, number), found in groupby(blades.items(), _place)
    ]
    # All blades of a ring are on the list from its start, and waves are tried one after another.
    at = next((found for _, _, found in waves if "" in _results(found)), {}) if runs else {}
    found = Rollout(
        id=f"{started:%Y%m%dT%H%M%SZ}",
        state="interrupted" if phase in RUNNING and not runs else phase,
        started=started,
        ended=None if runs else changed,
        note=str(said.get("why", "")),
        waves=tuple(_wave(ring, number, blades, blades is at) for ring, number, blades in waves),
    )
    return found, frozenset(name for name, each in at.items() if not each.get("result"))


def _place(named: tuple[str, Mapping[str, Any]]) -> tuple[str, int]:
    _, each = named
    return str(each.get("ring", "")), int(each.get("wave") or 0)


def _results(blades: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [str(each.get("result", "")) for each in blades.values()]


def _wave(ring: str, number: int, blades: Mapping[str, Mapping[str, Any]], is_at: bool) -> Wave:
    results = _results(blades)
    good = sum(result in GOOD for result in results)
    untried = sum(result in UNTRIED for result in results)
    return Wave(
        number=number,
        ring=ring,
        state="running" if is_at else "pending" if untried == len(results) else "done",
        blades=len(results),
        good=good,
        failed=len(results) - good - untried,
    )


def _read(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        return _table(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
