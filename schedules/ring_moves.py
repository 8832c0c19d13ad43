"""What a rollout wants of rings: whether one would get what another has."""

from __future__ import annotations

from schedules.site import Site
from schedules.waves import Stage


def lacks(site: Site, stage: Stage, before: Stage) -> bool:
    """Whether a ring would get what one before it has: newer, not what it went back from."""
    host = site.binhost(stage.class_name)
    given, ring = host.ring(before.ring).current(), host.ring(stage.ring)
    if given is None:
        return False
    has = ring.current()
    number = given.generation
    return (has is None or has.generation < number) and not ring.went_back_from(number)
