"""Advisories, news and messages of ebuilds, for the fleet: worked out once for each change.

To read a few thousand advisories takes seconds, so what came of it is kept, for the page, the
command and after a restart::

    <state>/security.json    for each class: what was looked at (`key`), and what was found
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ClusterShell.NodeSet import NodeSet
from pydantic import TypeAdapter, ValidationError

from headnode.files import write_atomic
from headnode.status.model import Advisory, Blade, Fact, Unread
from mirror import tree
from schedules.security import ELOG, Known, read_names, security_once
from schedules.site import Site

log = logging.getLogger(__name__)
FILE = "security.json"


class Found(Fact):
    """What is known of a class: unread or not, and without the blades, which change more often."""

    key: str
    advisories: tuple[Advisory, ...] = ()
    unread: tuple[Unread, ...] = ()


KEPT = TypeAdapter(dict[str, Found])


def look(site: Site, blades: Iterable[Blade]) -> list[Found]:
    """What is to be known of each class; of one that has nothing yet, nothing.

    Raises:
        HeadnodeError: it cannot be told.
    """
    kept, known = _read(site.state / FILE), list(blades)
    found = {name: _of_class(site, name, kept.get(name), known) for name in site.cluster.classes}
    worth = {name: each for name, each in found.items() if each.key}
    if worth != kept:
        with suppress(OSError):  # then the next look takes as long
            write_atomic(site.state / FILE, KEPT.dump_json(worth))
    read = read_names(site.state)
    return [_for_now(each, known, read) for each in found.values()]


def _read(path: Path) -> dict[str, Found]:
    try:
        return KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}


def _of_class(site: Site, name: str, kept: Found | None, blades: list[Blade]) -> Found:
    has = {
        each.name: each.generation for each in blades if each.class_name == name and each.generation
    }
    key = _key(site, name, has)
    if kept is not None and kept.key == key:
        return kept
    if not key:
        return Found(key="")
    log.info("looking for advisories about what the class %s has", name)
    return Found(key=key, **_facts(name, security_once(site, name, blades=has)))


def _key(site: Site, name: str, blades: Mapping[str, int]) -> str:
    """What the answer depends on; empty where nothing was published or synced."""
    binhost = site.binhost(name)
    numbers = binhost.generations.numbers()
    trees = {repo: tree.current_snapshot(site.state, repo) for repo in site.cluster.mirror.repos}
    if not numbers or not all(trees.values()):
        return ""
    rings = {ring.name: ring.current() for ring in binhost.rings()}
    elog = binhost.build_folder / "logs" / ELOG
    said = {
        "trees": {repo: each.stamp for repo, each in trees.items() if each},
        "newest": numbers[-1],
        "rings": {ring: each.generation for ring, each in rings.items() if each},
        "blades": sorted({*blades.values()} & {*numbers}),
        "messages": sorted(path.name for path in elog.glob("*.log")),
        "profile": site.klass(name).profile,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _facts(class_name: str, known: Known) -> dict[str, tuple[Fact, ...]]:
    advisories = [
        Advisory(
            class_name=class_name,
            name=each.advisory.name,
            severity=each.advisory.severity,
            title=each.advisory.title,
            packages=each.advisory.affected,
            generations=each.generations,
            rings=each.rings,
            fixed=each.advisory.fixed,
        )
        for each in known.exposures
    ]
    unreadable = [
        Advisory(
            class_name=class_name,
            name=each.name,
            severity="unknown",
            title=f"cannot be read, so nobody knows what it affects: {each.why}",
        )
        for each in known.unreadable
    ]
    return {
        "advisories": (*unreadable, *advisories),
        "unread": tuple(_unread(class_name, known)),
    }


def _unread(class_name: str, known: Known) -> Iterator[Unread]:
    for item in known.news:
        yield Unread(
            class_name=class_name,
            kind="news",
            name=item.name,
            about=item.posted,
            title=item.title,
            text=item.text,
        )
    for each in known.messages:
        yield Unread(
            class_name=class_name,
            kind="message",
            name=each.name,
            about=each.package,
            title=each.text.partition("\n")[2].partition("\n")[0] or each.text,
            text=each.text,
        )


def _for_now(found: Found, blades: list[Blade], read: set[str]) -> Found:
    """With the blades that have what each advisory is about, and without what was read."""
    return found.model_copy(
        update={
            "advisories": tuple(_with_blades(each, blades) for each in found.advisories),
            "unread": tuple(each for each in found.unread if each.name not in read),
        }
    )


def _with_blades(advisory: Advisory, blades: list[Blade]) -> Advisory:
    names = [
        each.name
        for each in blades
        if each.class_name == advisory.class_name and each.generation in advisory.generations
    ]
    return advisory.model_copy(update={"nodes": str(NodeSet.fromlist(names))})
