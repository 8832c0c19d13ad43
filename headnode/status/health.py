"""How a blade is, from what is known of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blades.inventory import Blade as Place
from headnode.status.model import Blade, Health, Ring
from headnode.status.sources.fleet import Fleet, Heard
from schedules.ledger.pulls import is_pending

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
            fleet.heard.get(place.name),
            drained=fleet.drained.get(place.name),
            pulling=place.name in fleet.pulling,
        )
        for place in places
    ]


def blade(
    place: Place,
    wanted: int | None,
    heard: Heard | None,
    *,
    drained: str | None = None,
    pulling: bool = False,
) -> Blade:
    """One blade; `heard` is None where nothing ever was."""
    health = _health(heard, wanted, drained is not None, pulling)
    return Blade(
        name=place.name,
        class_name=place.class_name,
        ring=place.ring,
        health=health,
        generation=heard.generation if heard else None,
        wanted=wanted,
        seen=heard.seen if heard else None,
        kernel=heard.kernel if heard else "",
        kernel_due=heard.kernel_due if heard else "",
        reboot_pending=heard is not None and is_pending(heard.kernel, heard.kernel_due),
        note=_note(health, heard, wanted, drained or ""),
    )


def _health(heard: Heard | None, wanted: int | None, is_drained: bool, pulling: bool) -> Health:
    if is_drained:
        return Health.DRAINED
    if pulling:
        return Health.PULLING
    if heard is None:
        return Health.NEVER
    if not heard.good:
        return Health.UNREACHED if heard.result in NO_ANSWER else Health.FAILED
    return Health.GOOD if heard.generation == wanted else Health.BEHIND


def _note(health: Health, heard: Heard | None, wanted: int | None, drained: str) -> str:
    if health is Health.DRAINED or heard is None:
        return drained
    if health in (Health.FAILED, Health.UNREACHED):
        return "" if heard.error == SAYS_NOTHING else heard.error
    if health is Health.BEHIND:
        return f"has generation {heard.generation}, its ring {wanted}"
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
