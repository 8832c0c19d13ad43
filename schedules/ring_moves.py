"""What a rollout does to rings: one gets what another has, one goes back.

Who holds them just then, as `headnode serve` does when it renews a deployment, is waited for; and
what they have is looked at again each time, since whoever it was may have moved them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from binhost.rings import Ring
from headnode.errors import BusyError, PublishError
from schedules.moving import Asked, promote_once, rollback_once
from schedules.observer import Observer
from schedules.runner import BUSY_PAUSE_S, BUSY_TRIES
from schedules.site import Site
from schedules.waves import Stage

Done = TypeVar("Done")


def lacks(site: Site, stage: Stage, before: Stage) -> bool:
    """Whether a ring would get what one before it has: newer, not what it went back from."""
    host = site.binhost(stage.class_name)
    given, ring = host.ring(before.ring).current(), host.ring(stage.ring)
    if given is None:
        return False
    has = ring.current()
    number = given.generation
    return (has is None or has.generation < number) and not ring.went_back_from(number)


def before(ring: Ring) -> int | None:
    """The generation that the blades of a ring came from: the last older one that it had.

    Not the newest older one: that may be one which an earlier rollout went back from.
    """
    current = ring.current()
    had = (ring.deployment(sequence).generation for sequence in reversed(ring.sequences()))
    return next((number for number in had if current and number < current.generation), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingMoves:
    """Moves the rings of a site; `sleep` is how it waits for who holds them."""

    site: Site
    watch: Observer
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]

    def promote(self, stage: Stage, number: int) -> None:
        """Put a generation in front of a ring, unless it has that or a newer one meanwhile.

        Raises:
            PublishError, BusyError: the ring is as it was.
        """
        self._patiently(lambda: self._give(stage, number))

    def rollback(self, stage: Stage, bad: int, why: str) -> int:
        """Have a ring go back from generation `bad`, if it has not yet; what it has then.

        Raises:
            PublishError, BusyError: the ring is as it was, or was given something newer.
        """
        return self._patiently(lambda: self._take_back(stage, bad, why))

    def _give(self, stage: Stage, number: int) -> None:
        has = self._ring(stage).current()
        if has is None or has.generation < number:
            name, ring = stage.class_name, stage.ring
            promote_once(self.site, name, ring, number, now=self.clock(), watch=self.watch)

    def _take_back(self, stage: Stage, bad: int, why: str) -> int:
        ring = self._ring(stage)
        current = ring.current()
        has = current.generation if current else bad
        if has > bad:
            raise PublishError(
                f"The ring {stage.ring} was given generation {has} meanwhile.",
                remedy="headnode rollout run tries it.",
            )
        if has < bad:
            return has
        done = rollback_once(
            *(self.site, stage.class_name, stage.ring, before(ring)),
            now=self.clock(),
            asked=Asked(note=why),
            watch=self.watch,
        )
        return done.generation.number

    def _ring(self, stage: Stage) -> Ring:
        return self.site.binhost(stage.class_name).ring(stage.ring)

    def _patiently(self, move: Callable[[], Done]) -> Done:
        for left in reversed(range(BUSY_TRIES)):
            try:
                return move()
            except BusyError as error:
                if not left:
                    raise
                self.watch.say(f"The rollout waits: {error.what}")
            self.sleep(BUSY_PAUSE_S)
        raise AssertionError("the last try returns or raises")
