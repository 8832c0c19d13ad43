"""How a blade is, from its last pull, its last good one, and its ring."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from blades.inventory import Blade as Place
from headnode.status.health import blade, pulled
from headnode.status.model import Health, Ring
from headnode.status.sources.fleet import Heard

PLACE = Place(name="blade07", class_name="blade", ring="fleet")
EARLY, LATE = datetime(2026, 3, 3, 2, tzinfo=UTC), datetime(2026, 3, 4, 2, tzinfo=UTC)


def heard(generation: int | None, result: str = "updated", **facts: Any) -> Heard:
    good = result in ("updated", "unchanged")
    usual = {"tried": LATE, "seen": LATE, "generation": generation}
    return Heard(result=result, good=good, **(usual | facts))


def test_a_blade_with_what_its_ring_has_is_good() -> None:
    found = blade(PLACE, 5, heard(5))
    assert (found.health, found.generation, found.wanted, found.seen, found.note) == (
        *(Health.GOOD, 5, 5),
        *(LATE, ""),
    )


@pytest.mark.parametrize("has", [4, 6])
def test_a_blade_with_another_generation_is_behind_also_after_a_rollback(has: int) -> None:
    found = blade(PLACE, 5, heard(has))
    assert found.health is Health.BEHIND
    assert found.note == f"has generation {has}, its ring 5"


def test_a_blade_that_failed_still_has_what_it_had_before() -> None:
    found = blade(PLACE, 5, heard(4, "failed", error="disk full"))
    assert (found.health, found.generation, found.note) == (Health.FAILED, 4, "disk full")
    assert found.seen == LATE  # it answered, to say so


@pytest.mark.parametrize("result", ["unreached", "timed out"])
def test_a_blade_that_did_not_answer_was_seen_when_it_last_did(result: str) -> None:
    found = blade(PLACE, 5, heard(5, result, error="no answer", seen=EARLY))
    assert (found.health, found.seen, found.note) == (Health.UNREACHED, EARLY, "")


def test_a_blade_that_nobody_heard_of_is_never_and_not_good() -> None:
    found = blade(PLACE, None, None)
    assert (found.health, found.generation, found.seen) == (Health.NEVER, None, None)


def test_drained_counts_before_anything_else_and_says_why() -> None:
    found = blade(PLACE, 5, heard(4, "failed"), drained="new memory", pulling=True)
    assert (found.health, found.note) == (Health.DRAINED, "new memory")
    assert blade(PLACE, 5, None, pulling=True).health is Health.PULLING


def test_a_ring_counts_its_own_blades_only_and_nothing_where_it_has_nothing() -> None:
    ring = Ring(
        class_name="blade",
        name="fleet",
        nodes="blade[07-08]",
        generation=5,
        sequence=1,
        since=LATE,
        issued=LATE,
        expires=None,
        blades=2,
        pulled=0,
    )
    blades = [
        blade(PLACE, 5, heard(5)),
        blade(replace(PLACE, name="blade08"), 5, None),
        blade(replace(PLACE, ring="canary"), 5, heard(5)),
    ]
    assert pulled(ring, blades).pulled == 1
    assert pulled(ring.model_copy(update={"generation": None}), blades).pulled == 0
