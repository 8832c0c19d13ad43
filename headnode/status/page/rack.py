"""The rack: every blade a cell, its colour the generation, its mark the health. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from headnode.status.model import Blade, Health, Status

MARKS: Mapping[Health, str] = {
    Health.GOOD: "",
    Health.PULLING: "P",
    Health.BEHIND: "B",
    Health.FAILED: "F",
    Health.UNREACHED: "U",
    Health.DRAINED: "D",
    Health.NEVER: "·",
}
SHADES = 4  # generations with a colour of their own; all older ones share the last
ROOMY = 128  # blades that are shown with their number; more of them are small cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A blade in the rack. `label` is what its name does not share with the others."""

    name: str
    label: str
    mark: str
    generation: str
    shade: str
    health: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The blades of a ring."""

    class_name: str
    ring: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """All shelves, and what is on them.

    A shade is (class of CSS, words, blades), a mark (health, letter, blades).
    """

    shelves: tuple[Shelf, ...]
    shades: tuple[tuple[str, str, int], ...]
    marks: tuple[tuple[str, str, int], ...]
    is_dense: bool


def rack(status: Status) -> Rack:
    """The rack of a status."""
    ranks = {name: _ranks(status, name) for name in status.classes}
    labels = short_names([each.name for each in status.blades])
    shelves = [
        Shelf(
            class_name=ring.class_name,
            ring=ring.name,
            cells=tuple(
                _cell(each, labels[each.name], ranks[each.class_name])
                for each in status.blades
                if (each.class_name, each.ring) == (ring.class_name, ring.name)
            ),
        )
        for ring in status.rings
    ]
    cells = [cell for shelf in shelves for cell in shelf.cells]
    return Rack(
        shelves=tuple(shelves),
        shades=tuple(_shades(cells)),
        marks=tuple(_marks(status.blades)),
        is_dense=len(status.blades) > ROOMY,
    )


def _ranks(status: Status, class_name: str) -> dict[int, int]:
    """How old each generation that counts is: 0 for the newest that there is, then those in use."""
    known = {each.number for each in status.generations if each.class_name == class_name}
    used = {each.generation for each in status.blades if each.class_name == class_name}
    wanted = {each.generation for each in status.rings if each.class_name == class_name}
    newest = {max(known)} if known else set[int]()
    numbers = {number for number in used | wanted | newest if number is not None}
    return {number: rank for rank, number in enumerate(sorted(numbers, reverse=True))}


def shade_of(generation: int | None, ranks: Mapping[int, int]) -> str:
    """The CSS class of a generation's colour."""
    if generation is None:
        return "gx"
    return f"g{min(ranks.get(generation, SHADES - 1), SHADES - 1)}"


def _cell(blade: Blade, label: str, ranks: Mapping[int, int]) -> Cell:
    has = "no generation known" if blade.generation is None else f"generation {blade.generation}"
    note = f": {blade.note}" if blade.note else ""
    return Cell(
        name=blade.name,
        label=label,
        mark=MARKS[blade.health],
        generation="?" if blade.generation is None else str(blade.generation),
        shade=shade_of(blade.generation, ranks),
        health=blade.health.value,
        title=f"{blade.name}, {has}, {blade.health.value}{note}",
    )


def _shades(cells: Iterable[Cell]) -> Iterable[tuple[str, str, int]]:
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        numbers = found.setdefault(cell.shade, {})
        numbers[cell.generation] = numbers.get(cell.generation, 0) + 1
    for shade, numbers in sorted(found.items()):
        if shade == "gx":
            words = "no generation known"
        elif len(numbers) == 1:
            words = f"generation {next(iter(numbers))}"
        else:
            words = f"generation {max(numbers, key=int)} and older"
        yield shade, words, sum(numbers.values())


def _marks(blades: Sequence[Blade]) -> Iterable[tuple[str, str, int]]:
    for health in (Health.GOOD, *(each for each in Health if each is not Health.GOOD)):
        if count := sum(each.health is health for each in blades):
            yield health.value, MARKS[health], count


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name without what all share, as in `07` for `blade07`; whole where that leaves nothing.

    A number at its end is not cut in two: the shared part ends before its first digit.
    """
    if len(names) < 2:
        return {name: name for name in names}
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    shared = "".join(letter for letter, _ in same).rstrip("0123456789")
    return {name: name[len(shared) :] or name for name in names}
