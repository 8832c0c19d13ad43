"""A status on a terminal: the same sentence, points, rings, blades and tables as on the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headnode.status.model import Generation, Health, Level, Point, Status
from headnode.status.page.rack import Rack, rack
from headnode.status.page.words import NEVER, URGENCY, ago, clock, duration
from headnode.wording import counted

COLOURS = {Level.GOOD: "green", Level.NOTE: "blue", Level.WARN: "yellow", Level.BAD: "bold red"}
# A letter says the same as the colour, for whoever sees none.
MARKED = {
    Health.GOOD: ("green", "●"),
    Health.PULLING: ("blue", "P"),
    Health.BEHIND: ("cyan", "B"),
    Health.FAILED: ("bold red", "F"),
    Health.UNREACHED: ("yellow", "U"),
    Health.DRAINED: ("dim", "D"),
    Health.NEVER: ("dim", "·"),
}
SIGNS = {"up": "↑", "added": "+", "rebuilt": "↻", "down": "↓", "removed": "−"}  # noqa: RUF001
GENERATIONS = 5
MOST_UNREAD = 8


def render(status: Status) -> RenderableType:
    """All of it, top to bottom."""
    return Group(*_parts(status))


def _parts(status: Status) -> Iterator[RenderableType]:
    yield Text(status.verdict.headline, style=COLOURS[status.verdict.level])
    yield from (_point(each) for each in status.verdict.points)
    yield Text(f"{status.host}, as of {clock(status.now)}", style="dim")
    yield Text()
    yield _rings(status)
    yield Text()
    yield from _blades(rack(status))
    yield Text()
    yield _generations(status)
    yield Text()
    if status.advisories:
        yield _advisories(status)
        yield Text()
    if status.unread:
        yield _unread(status)
        yield Text()
    yield from _work(status)


def _point(point: Point) -> Text:
    text = Text("  ")
    text.append(f"{URGENCY[point.level]:5}", style=COLOURS[point.level])
    text.append(point.text)
    if point.remedy:
        text.append(f"  {point.remedy}", style="dim")
    return text


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _rings(status: Status) -> Table:
    table = _table("ring", "generation", "since", "blades", "have it")
    for ring in status.rings:
        table.add_row(
            _named(ring.class_name, ring.name, status),
            str(ring.generation or "-"),
            ago(ring.since, status.now),
            Text(ring.nodes),
            f"{ring.pulled} of {ring.blades}",
        )
    return table


def _named(class_name: str, name: str, status: Status) -> Text:
    return Text(f"{class_name}/{name}" if len(status.classes) > 1 else name)


def _blades(found: Rack) -> Iterator[RenderableType]:
    """A mark a blade, ring by ring, and what the marks mean."""
    for shelf in found.shelves:
        marks = Text()
        for cell in shelf.cells:
            colour, letter = MARKED[Health(cell.health)]
            marks.append(letter, style=colour)
        yield Text(f"{shelf.ring}:", style="bold")
        yield Padding(marks, (0, 0, 0, 2))
    legend = Text()
    for health, _, count in found.marks:
        colour, letter = MARKED[Health(health)]
        legend.append(f"{letter} ", style=colour).append(f"{health} {count}   ", style="dim")
    yield legend


def _generations(status: Status) -> Table:
    table = _table("generation", "made", "packages", "changes", "rings", "what")
    for each in status.generations[:GENERATIONS]:
        table.add_row(
            _named(each.class_name, str(each.number), status),
            ago(each.made, status.now),
            str(each.packages),
            changes_in_signs(each),
            Text(", ".join(each.rings) or "-"),
            Text(each.why or ", ".join(each.news)),
        )
    if not status.generations:
        table.add_row(NEVER)
    return table


def _advisories(status: Status) -> Table:
    table = _table("advisory", "severity", "package", "rings", "blades", "title")
    for each in status.advisories:
        table.add_row(
            Text(f"GLSA-{each.name}"),
            Text(each.severity),
            Text(", ".join(each.packages)),
            Text(", ".join(each.rings) or "-"),
            Text(each.nodes or "-"),
            Text(each.title),
        )
    return table


def _unread(status: Status) -> Table:
    table = _table("unread", "of", "what")
    for each in status.unread[:MOST_UNREAD]:
        table.add_row(Text(each.kind), Text(each.about), Text(each.title))
    if (more := len(status.unread) - MOST_UNREAD) > 0:
        table.add_row(f"and {more} more", "", "headnode security")
    return table


def changes_in_signs(generation: Generation) -> str:
    """As in `↑2 +1`; nothing for the first that is kept."""
    counts = generation.changes.model_dump()
    return " ".join(f"{sign}{counts[kind]}" for kind, sign in SIGNS.items() if counts[kind])


def _work(status: Status) -> Iterator[RenderableType]:
    table = _table("", "", "")
    table.show_header = False
    for row in _rows(status):
        table.add_row(*(Text(cell) for cell in row))
    yield table


def _rows(status: Status) -> Iterable[tuple[str, str, str]]:
    now = status.now
    for build in status.builds:
        if build.holder:
            far = f"{build.done} of {counted(build.total, 'package')}" if build.total else ""
            yield "build", build.holder, far
            for job in build.jobs:
                yield "", job.package, f"{job.phase} {duration(job.seconds) if job.seconds else ''}"
        else:
            much = (
                f"{counted(build.built or 0, 'package')} in {duration(build.seconds)}"
                if build.finished
                else ""
            )
            yield "build", ago(build.finished, now), much
    for repo in status.repos:
        far = f"{repo.percent} %" if repo.percent is not None else ago(repo.last_good, now)
        yield "mirror", repo.name, f"synced {far}" if repo.percent is None else f"syncing {far}"
    if status.rollout:
        done = sum(wave.state == "done" for wave in status.rollout.waves)
        waves = f"{done} of {len(status.rollout.waves)} waves"
        yield "rollout", f"{status.rollout.state}, {ago(status.rollout.started, now)}", waves
    for run in status.next_runs:
        yield "next", run.job, f"{ago(run.at, now)} ({clock(run.at)})"
    if not status.next_runs:
        yield "next", NEVER, ""


def line(status: Status) -> str:
    """The verdict in one line, for a log."""
    said = [status.verdict.headline, *(point.text for point in status.verdict.points)]
    return f"{clock(status.now)} {' '.join(said)}"
