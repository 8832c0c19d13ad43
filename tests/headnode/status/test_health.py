"""How a blade is, from its last pull, its last good one, and its ring."""

from datetime import UTC, datetime

import pytest

from blades.inventory import Blade as Place
from headnode.status.health import blade, pulled
from headnode.status.model import Health, Pull, Ring

PLACE = Place(name="blade07", class_name="blade", ring="fleet")
EARLY, LATE = datetime(2026, 3, 3, 2, tzinfo=UTC), datetime(2026, 3, 4, 2, tzinfo=UTC)


def pull(generation: int, result: str = "updated", at: datetime = LATE, error: str = "") -> Pull:
    good = result in ("updated", "unchanged")
    return Pull(at=at, result=result, good=good, generation=generation, error=error)


def test_a_blade_with_what_its_ring_has_is_good() -> None:
    found = blade(PLACE, 5, last=pull(5), reached=pull(5))
    assert (found.health, found.generation, found.wanted, found.seen, found.note) == (
        *(Health.GOOD, 5, 5),
        *(LATE, ""),
    )


@pytest.mark.parametrize("has", [4, 6])
def test_a_blade_with_another_generation_is_behind_also_after_a_rollback(has: int) -> None:
    found = blade(PLACE, 5, last=pull(has), reached=pull(has))
    assert found.health is Health.BEHIND
    assert found.note == f"has generation {has}, its ring 5"


def test_a_blade_that_failed_still_has_what_it_had_before() -> None:
    found = blade(PLACE, 5, last=pull(5, "failed", error="disk full"), reached=pull(4, at=EARLY))
    assert (found.health, found.generation, found.note) == (Health.FAILED, 4, "disk full")
    assert found.seen == LATE  # it answered, to say so


@pytest.mark.parametrize("result", ["unreached", "timed out"])
def test_a_blade_that_did_not_answer_was_seen_when_it_last_did(result: str) -> None:
    found = blade(PLACE, 5, last=pull(5, result, error="no answer"), reached=pull(5, at=EARLY))
    assert (found.health, found.seen, found.note) == (Health.UNREACHED, EARLY, "")


def test_a_blade_that_nobody_heard_of_is_never_and_not_good() -> None:
    found = blade(PLACE, None, last=None, reached=None)
    assert (found.health, found.generation, found.seen) == (Health.NEVER, None, None)


def test_drained_counts_before_anything_else_and_says_why() -> None:
    found = blade(
        PLACE, 5, last=pull(5, "failed"), reached=None, drained="new memory", pulling=True
    )
    assert (found.health, found.note) == (Health.DRAINED, "new memory")
    assert blade(PLACE, 5, last=None, reached=None, pulling=True).health is Health.PULLING


def test_a_ring_counts_its_own_blades_only_and_nothing_where_it_has_nothing() -> None:
    ring = Ring(
        class_name="blade",
        name="fleet",
        nodes="blade[07-08]",
        generation=5,
        sequence=1,
        since=LATE,
        expires=None,
        blades=2,
        pulled=0,
    )
    blades = [
        blade(PLACE, 5, last=pull(5), reached=pull(5)),
        blade(Place(name="blade08", class_name="blade", ring="fleet"), 5, last=None, reached=None),
        blade(
            Place(name="blade01", class_name="blade", ring="canary"),
            5,
            last=pull(5),
            reached=pull(5),
        ),
    ]
    assert pulled(ring, blades).pulled == 1
    assert pulled(ring.model_copy(update={"generation": None}), blades).pulled == 0
