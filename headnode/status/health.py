"""How a blade is, from what is known of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from blades.inventory import Blade as Place
from headnode.status.model import Blade, Health, Pull, Ring
from headnode.status.sources.fleet import Fleet

SAYS_NOTHING = "no answer"
NO_ANSWER = frozenset({"unreached", "timed out"})  # schedules.rollout.Result


def blades(
    places: Iterable[Place], wanted: Mapping[tuple[str, str], int | None], fleet: Fleet
) -> list[Blade]:
    """Every blade; `wanted` is the generation of each ring, by class and name."""
    return [
        blade(
            place,
            wanted.get((place.class_name, place.ring)),
            last=fleet.last.get(place.name),
            reached=fleet.reached.get(place.name),
            drained=fleet.drained.get(place.name),
            pulling=place.name in fleet.pulling,
        )
        for place in places
    ]


def blade(
    place: Place,
    wanted: int | None,
    *,
    last: Pull | None,
    reached: Pull | None,
    drained: str | None = None,
    pulling: bool = False,
) -> Blade:
    """One blade; `last` is its last pull, `reached` the last that was good."""
    has = reached.generation if reached else None
    health = _health(last, has, wanted, drained is not None, pulling)
    return Blade(
        name=place.name,
        class_name=place.class_name,
        ring=place.ring,
        health=health,
        generation=has,
        wanted=wanted,
        seen=_seen(last, reached),
        note=_note(health, last, has, wanted, drained or ""),
    )


def _health(
    last: Pull | None, has: int | None, wanted: int | None, is_drained: bool, pulling: bool
) -> Health:
    if is_drained:
        return Health.DRAINED
    if pulling:
        return Health.PULLING
    if last is None:
        return Health.NEVER
    if not last.good:
        return Health.UNREACHED if last.result in NO_ANSWER else Health.FAILED
    return Health.GOOD if has == wanted else Health.BEHIND


def _seen(last: Pull | None, reached: Pull | None) -> datetime | None:
    answered = [each.at for each in (last, reached) if each and each.result not in NO_ANSWER]
    return max(answered, default=None)


def _note(
    health: Health, last: Pull | None, has: int | None, wanted: int | None, drained: str
) -> str:
    match health:
        case Health.DRAINED:
            return drained
        case Health.FAILED | Health.UNREACHED if last:
            return "" if last.error == SAYS_NOTHING else last.error
        case Health.BEHIND:
            return f"has generation {has}, its ring {wanted}"
    return ""


def pulled(ring: Ring, blades: Iterable[Blade]) -> Ring:
    """The ring with the number of its blades that have what it has."""
    having = sum(
        (each.class_name, each.ring) == (ring.class_name, ring.name)
        and each.generation is not None
        and each.generation == ring.generation
        for each in blades
    )
    return ring.model_copy(update={"pulled": having})
