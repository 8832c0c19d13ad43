"""What an administrator should know of what blades have: advisories, news, messages of ebuilds.

Once for the fleet: a generation is looked at, and not 58 machines.

::

    <state>/read.json   the news items and messages that were read
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from binhost.advisories import Advisory, News, Unreadable, advisories, news, slots_of
from binhost.kept import cpv_of_name
from binhost.records import Generation
from headnode.errors import PublishError
from headnode.files import write_atomic
from schedules.cycle import newest_set
from schedules.observer import Observer, Silent
from schedules.site import Site

ELOG = "elog"
SILENT = Silent()
NO_BLADES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """An advisory, and the generations, rings and blades that it is about."""

    advisory: Advisory
    generations: tuple[int, ...]
    rings: tuple[str, ...]
    blades: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What an ebuild said to the administrator when it was built."""

    name: str
    package: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything that there is to know of some generations; `unreadable` advisories may hide more.

    News and messages are those of the newest of these generations.
    """

    exposures: tuple[Exposure, ...]
    unreadable: tuple[Unreadable, ...]
    news: tuple[News, ...]
    messages: tuple[Message, ...]


def security_once(
    site: Site,
    class_name: str,
    words: Iterable[str] = (),
    *,
    blades: Mapping[str, int] = NO_BLADES,
    watch: Observer = SILENT,
) -> Known:
    """Look at generations (numbers or tags; none: what rings and blades have, and the newest).

    The advisories are those of the newest tree, whatever tree the generation was built from.
    `blades` are those of the class with the generation that each has.

    Raises:
        PublishError: there is no such generation.
        MirrorError: nothing was synced yet.
    """
    binhost = site.binhost(class_name)
    rings: dict[int, list[str]] = {}
    for name in site.klass(class_name).rings:
        if current := binhost.ring(name).current():
            rings.setdefault(current.generation, []).append(name)
    chosen = [binhost.generations.find(word) for word in words]
    if not chosen:
        kept = binhost.generations.numbers()
        there = {*blades.values()} & {*kept}
        numbers = sorted({*rings, *there, *kept[-1:]})
        chosen = [binhost.generations.read(number) for number in numbers]
    if not chosen:
        raise PublishError("There is no generation yet.", remedy="headnode publish makes one.")
    tree = site.repos_of(newest_set(site))[site.cluster.mirror.main_repo]
    arch = chosen[-1].header.get("ARCH", "")
    found: dict[Advisory | Unreadable, list[int]] = {}
    for generation in chosen:
        slots = slots_of(binhost.generations.entries(generation))
        shown = partial(_show, watch, f"advisories for generation {generation.number}")
        for each in advisories(tree, slots, arch, shown):
            found.setdefault(each, []).append(generation.number)
    slots = slots_of(binhost.generations.entries(chosen[-1]))
    items = news(tree, slots, arch, site.klass(class_name).profile)
    said = messages(binhost.build_folder, chosen)
    return Known(
        exposures=tuple(
            Exposure(
                advisory=each,
                generations=tuple(numbers),
                rings=tuple(ring for number in numbers for ring in rings.get(number, ())),
                blades=tuple(name for name, has in blades.items() if has in numbers),
            )
            for each, numbers in found.items()
            if isinstance(each, Advisory)
        ),
        unreadable=tuple(each for each in found if isinstance(each, Unreadable)),
        news=tuple(items),
        messages=tuple(said),
    )


def unread(known: Known, read: Collection[str]) -> Known:
    """The same without the news and messages of these names. Pure."""
    return replace(
        known,
        news=tuple(each for each in known.news if each.name not in read),
        messages=tuple(each for each in known.messages if each.name not in read),
    )


def _show(watch: Observer, what: str, done: int, total: int) -> None:
    watch.amount(what, done, total, "advisories")


def messages(build_folder: Path, generations: Iterable[Generation]) -> Iterator[Message]:
    """What ebuilds said of the packages of these generations, the newest first.

    Source: make.conf(5), PORTAGE_ELOG_SYSTEM=save: files `<category>:<pf>:<stamp>.log`.
    """
    packages = {cpv_of_name(name) for each in generations for name in each.packages}
    found = (build_folder / "logs" / ELOG).glob("*:*:*.log")
    for path in sorted(found, key=lambda path: path.name.rpartition(":")[2], reverse=True):
        category, version, _ = path.name.split(":", 2)
        if (package := f"{category}/{version}") in packages:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            yield Message(name=path.name, package=package, text=text)


def read_names(state: Path) -> set[str]:
    """The names of what was read; damaged: nothing was."""
    try:
        return set(json.loads((state / "read.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return set()


def mark_read(state: Path, known: Known) -> None:
    """Have the news and messages of `known` count as read."""
    now_read = {each.name for each in known.news} | {each.name for each in known.messages}
    names = read_names(state) | now_read
    write_atomic(state / "read.json", json.dumps(sorted(names), indent=1) + "\n")
