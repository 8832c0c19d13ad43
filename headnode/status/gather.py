"""Collects a status. What one source cannot tell is a point of the verdict, and not the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from blades.inventory import all_blades
from headnode.errors import ConfigError, HeadnodeError, PublishError
from headnode.status import health
from headnode.status.model import (
    BladeDetail,
    GenerationDetail,
    Level,
    Point,
    Status,
)
from headnode.status.sources import binhost, building, mirror, security
from headnode.status.sources.fleet import Fleet, pulls_of, read_fleet
from headnode.status.verdict import judge
from schedules.site import Site

log = logging.getLogger(__name__)
Found = TypeVar("Found")


class Problems:
    """What could not be gathered, as `points` of a verdict."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def all_of(self, what: str, source: Callable[[], list[Found]]) -> list[Found]:
        """What `source` finds; nothing, and a point, where it cannot be told."""
        try:
            return source()
        except (HeadnodeError, OSError) as error:
            log.warning("%s cannot be told: %s", what, error)
            text = f"{what} cannot be told: {error}"
            self.points.append(Point(level=Level.BAD, text=text))
            return []


class Gatherer:
    """Looks at one cluster, again and again; it keeps what cannot change meanwhile."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._archive = binhost.Archive(site)
        self._places = all_blades(site.cluster)
        self._version = version("headnode")

    def status(self, now: datetime) -> Status:
        """Everything, as it is at this moment."""
        site, problems = self._site, Problems()
        rings = problems.all_of("What the rings have", lambda: binhost.rings(site))
        generations = [
            each
            for name in site.cluster.classes
            for each in problems.all_of(
                f"What was published of {name}", partial(self._archive.newest, name)
            )
        ]
        repos = problems.all_of("How fresh the mirror is", lambda: mirror.repos(site, now))
        builds = problems.all_of("What is built", lambda: building.builds(site, now))
        helpers = problems.all_of("Who helped to build", lambda: building.helpers(site))
        [known] = problems.all_of("What blades did", lambda: [read_fleet(site, now)]) or [Fleet()]
        wanted = {(ring.class_name, ring.name): ring.generation for ring in rings}
        blades = health.blades(self._places, wanted, known)
        notes = problems.all_of("What is insecure or unread", lambda: security.look(site, blades))
        advisories = [each for found in notes for each in found.advisories]
        unread = [each for found in notes for each in found.unread]
        return Status(
            version=self._version,
            now=now,
            host=site.cluster.serve.host,
            verdict=judge(
                now=now,
                blades=blades,
                rings=rings,
                generations=generations,
                repos=repos,
                runs=known.runs,
                rollout=known.rollout,
                advisories=advisories,
                unread=unread,
                problems=problems.points,
            ),
            classes=tuple(site.cluster.classes),
            blades=tuple(blades),
            rings=tuple(health.pulled(ring, blades) for ring in rings),
            generations=tuple(generations),
            repos=tuple(repos),
            builds=tuple(builds),
            runs=known.runs,
            next_runs=known.next_runs,
            rollout=known.rollout,
            helpers=tuple(helpers),
            advisories=tuple(advisories),
            unread=tuple(unread),
        )

    def blade(self, status: Status, name: str) -> BladeDetail | None:
        """All about one blade of a status; None: there is none of that name."""
        found = next((each for each in status.blades if each.name == name), None)
        if found is None:
            return None
        try:
            pulls, text = pulls_of(self._site, name)
        except (HeadnodeError, OSError) as error:
            log.warning("the pulls of %s cannot be told: %s", name, error)
            pulls, text = (), f"This cannot be told: {error}"
        return BladeDetail(blade=found, pulls=pulls, log=text)

    def generation(self, class_name: str, number: str) -> GenerationDetail | None:
        """All about one generation, by its number in digits; None: there is none (any more)."""
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            return None
        try:
            return self._archive.detail(class_name, int(number))
        except (ConfigError, PublishError) as error:
            log.debug("no generation to show: %s", error)
            return None
