"""Generations and rings, from the binhost's folders.

A generation never changes under its number, so what was worked out of it is kept: to look at it
again costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ClusterShell.NodeSet import NodeSet

from binhost.diff import Difference, PackageChange
from binhost.publish import Binhost
from binhost.records import GateReport
from binhost.tags import names_of, read_tags
from headnode.status.model import (
    Change,
    Counts,
    FileChange,
    Gate,
    Generation,
    GenerationDetail,
    Ring,
)
from schedules.site import Site
from schedules.upkeep import diff_once

SHOWN = 12  # generations; `headnode generations list` has the older ones
NEWS = 4  # packages that a generation is summed up by
MOST_CHANGES = 2000  # of a generation in full
MOST_DIFF = 20_000  # letters of a file's diff


def rings(site: Site) -> list[Ring]:
    """Every configured ring, in the order in which generations reach them.

    Raises:
        PublishError: a record is damaged.
    """
    return [
        _ring(site.binhost(class_name), name, str(nodes))
        for class_name, cls in site.cluster.classes.items()
        for name, nodes in cls.rings.items()
    ]


def _ring(binhost: Binhost, name: str, nodes: str) -> Ring:
    ring = binhost.ring(name)
    current, first = ring.current(), ring.first_of_row()
    return Ring(
        class_name=binhost.class_name,
        name=name,
        nodes=nodes,
        generation=current.generation if current else None,
        sequence=current.sequence if current else None,
        since=first.issued if first else None,
        issued=current.issued if current else None,
        expires=current.expires if current and current.keys else None,
        blades=len(NodeSet(nodes)),
        pulled=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What may have changed since the last look: which generations there are, and where."""

    binhost: Binhost
    numbers: list[int]
    rings: Mapping[int, tuple[str, ...]]
    tags: Mapping[str, int]

    @classmethod
    def at(cls, binhost: Binhost) -> _Look:
        placed: dict[int, tuple[str, ...]] = {}
        for ring in binhost.rings():
            if current := ring.current():
                placed[current.generation] = (*placed.get(current.generation, ()), ring.name)
        return cls(
            binhost=binhost,
            numbers=binhost.generations.numbers(),
            rings=placed,
            tags=read_tags(binhost.folder),
        )


class Archive:
    """The generations of a cluster."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kept: dict[tuple[str, int, int | None], GenerationDetail] = {}

    def newest(self, class_name: str, most: int = SHOWN) -> list[Generation]:
        """The newest generations of a class in short, newest first.

        Raises:
            PublishError: a record is damaged.
        """
        look = _Look.at(self._site.binhost(class_name))
        return [self._detail(look, number).generation for number in reversed(look.numbers[-most:])]

    def detail(self, class_name: str, number: int) -> GenerationDetail:
        """All about one generation.

        Raises:
            ConfigError: there is no such class.
            PublishError: there is no such generation, or a record is damaged.
        """
        self._site.klass(class_name)
        return self._detail(_Look.at(self._site.binhost(class_name)), number)

    def _detail(self, look: _Look, number: int) -> GenerationDetail:
        before = max((each for each in look.numbers if each < number), default=None)
        key = (look.binhost.class_name, number, before)
        if key not in self._kept:
            self._kept[key] = self._work_out(look.binhost, number, before)
        kept = self._kept[key]
        now = {"rings": look.rings.get(number, ()), "tags": tuple(names_of(look.tags, number))}
        generation = kept.generation.model_copy(update=now)
        return kept.model_copy(update={"generation": generation})

    def _work_out(self, binhost: Binhost, number: int, before: int | None) -> GenerationDetail:
        record = binhost.generations.read(number)
        if before is None:
            found = _first(number)
        else:
            found = diff_once(self._site, binhost.class_name, str(before), str(number), None)
        generation = Generation(
            class_name=binhost.class_name,
            number=number,
            made=record.made,
            why=record.why,
            packages=len(record.packages),
            rings=(),
            tags=(),
            before=before,
            changes=counts(found.packages),
            news=tuple(news(each) for each in found.packages[:NEWS]),
            gates=tuple(_gate(each) for each in record.gates),
        )
        return _detail(generation, found)


def _first(number: int) -> Difference:
    """The first generation that is kept: nothing to compare it with."""
    return Difference(
        old=0,
        new=number,
        packages=(),
        trees=(),
        configuration=(),
        atoms_added=(),
        atoms_removed=(),
    )


def counts(changes: Iterable[PackageChange]) -> Counts:
    """How many packages differ, by kind. Pure."""
    return Counts(**Counter(each.kind.value for each in changes))


def news(change: PackageChange) -> str:
    """A package that differs, in a few words: `app-misc/hello 2.10-1 → 2.12-1`. Pure."""
    name = change.name
    if not change.old or not change.new:
        return f"{name} {change.old or change.new} {change.kind.value}"
    return f"{name} {change.old} → {change.new}"


def _gate(report: GateReport) -> Gate:
    return Gate(
        name=report.gate,
        passed=report.passed,
        waived=report.waived,
        report=report.report,
    )


def _detail(generation: Generation, found: Difference) -> GenerationDetail:
    return GenerationDetail(
        generation=generation,
        changes=tuple(
            Change(
                name=each.name,
                slot=each.slot,
                kind=each.kind.value,
                old=each.old,
                new=each.new,
                why=each.why,
            )
            for each in found.packages[:MOST_CHANGES]
        ),
        trees=tuple((t.repo, t.old, t.new) for t in found.trees),
        configuration=tuple(
            FileChange(path=f.path, kind=f.kind, text=f.text[:MOST_DIFF])
            for f in found.configuration
        ),
        atoms_added=found.atoms_added,
        atoms_removed=found.atoms_removed,
    )
