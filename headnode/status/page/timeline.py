"""The night as a picture: what ran when, in rows over an axis of time. Pure geometry.

Lengths are in the units of the SVG's view box, in which the picture is WIDTH wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headnode.status.model import Status
from headnode.status.page.words import duration
from headnode.wording import counted

WIDTH = 1000.0
LEFT = 92.0  # room for the rows' names
RIGHT = 24.0
TOP = 26.0  # room for the hours
ROW = 34.0
BAR = 16.0
GAP = 7.0  # between a bar and its label
LETTER = 6.6  # a label's, at most
LEAST_BAR = 5.0  # so that a short step is seen
NIGHT = timedelta(hours=24)
LEAST_SPAN = timedelta(minutes=20)
MOST_TICKS = 8
STEPS_MIN = (5, 10, 15, 30, 60, 120, 180, 240, 360, 720)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that took its time (`end` None: it still does), or only a moment (`end` = `start`).

    `state` is good, failed, running or moment.
    """

    row: str
    start: datetime
    end: datetime | None
    state: str
    text: str
    label: str = ""
    is_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An event as a rectangle, or a moment as a mark; `is_whole` spans the bars of other rows."""

    x: float
    width: float
    state: str
    text: str
    is_moment: bool
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The events of one name; `y` is its middle. A label is (x, where it is, words)."""

    name: str
    y: float
    bars: tuple[Bar, ...]
    labels: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The picture; a tick is (x, words)."""

    start: datetime
    end: datetime
    height: float
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    now_x: float | None
    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bar: float = BAR


def timeline(status: Status) -> Timeline | None:
    """The last night of a status; None if nothing happened."""
    return draw(list(events(status)), status.now)


def events(status: Status) -> Iterator[Event]:
    """What happened in the last day and night, whoever remembers it."""
    for event in _all_events(status):
        if status.now - (event.end or status.now) < NIGHT:
            yield event


def _all_events(status: Status) -> Iterator[Event]:
    for run in status.runs:
        state = "running" if run.ended is None else "good" if run.result == "good" else "failed"
        text = f"{run.step or run.job}: {run.note or run.result}"
        yield Event(
            row=run.step or run.job,
            start=run.started,
            end=run.ended,
            state=state,
            text=text,
            label=duration(((run.ended or status.now) - run.started).total_seconds()),
            is_whole=not run.step,
        )
    known = {run.step or run.job for run in status.runs}
    yield from (event for event in _remembered(status) if event.row not in known)
    for generation in status.generations:
        text = f"generation {generation.number} was made"
        yield _moment("publish", generation.made, text, str(generation.number))
    for ring in status.rings:
        if ring.since is not None and ring.generation is not None:
            text = f"{ring.name} got generation {ring.generation}"
            yield _moment("rings", ring.since, text, ring.name)


def _remembered(status: Status) -> Iterator[Event]:
    """What steps leave behind, whether or not a run is on record."""
    if it := status.rollout:
        state = "running" if it.ended is None else "good" if it.state == "done" else "failed"
        yield Event(
            row="rollout",
            start=it.started,
            end=it.ended,
            state=state,
            text=f"rollout: {it.state} {it.note}".rstrip(),
            label=duration(((it.ended or status.now) - it.started).total_seconds()),
        )
    for repo in status.repos:
        if repo.last_good is not None:
            yield _moment("mirror-sync", repo.last_good, f"{repo.name} was synced", repo.name)
    for build in status.builds:
        if build.finished is not None and build.seconds is not None:
            start = build.finished - timedelta(seconds=build.seconds)
            text = f"{build.class_name}: {counted(build.built or 0, 'package')} built"
            yield Event(
                row="build",
                start=start,
                end=build.finished,
                state="good",
                text=text,
                label=duration(build.seconds),
            )


def _moment(row: str, at: datetime, text: str, label: str) -> Event:
    return Event(row=row, start=at, end=at, state="moment", text=text, label=label)


ROWS = ("nightly", "mirror-sync", "build", "gates", "publish", "rings", "rollout")


def draw(found: Sequence[Event], now: datetime) -> Timeline | None:
    """The picture of some events."""
    if not found:
        return None
    start, end = window(found, now)

    def x_of(at: datetime) -> float:
        share = (at - start) / (end - start)
        return round(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT), 1)

    names = _in_order(event.row for event in found)
    rows = tuple(
        _row(name, TOP + ROW * (number + 0.5), [e for e in found if e.row == name], x_of, now)
        for number, name in enumerate(names)
    )
    return Timeline(
        start=start,
        end=end,
        height=TOP + ROW * len(rows) + 6,
        rows=rows,
        ticks=tuple((x_of(at), f"{at:%H:%M}") for at in ticks(start, end)),
        now_x=x_of(now) if start <= now <= end else None,
    )


def _in_order(rows: Iterable[str]) -> list[str]:
    known = dict.fromkeys(rows)
    return sorted(known, key=lambda name: ROWS.index(name) if name in ROWS else len(ROWS))


def _row(
    name: str, y: float, found: Sequence[Event], x_of: Callable[[datetime], float], now: datetime
) -> Row:
    inside = sorted(found, key=lambda event: event.start)
    bars = [_bar(event, x_of, now) for event in inside]
    labels = []
    for number, (event, bar) in enumerate(zip(inside, bars, strict=True)):
        after = bar.x + bar.width + (GAP + 4 if bar.is_moment else GAP)
        room = bars[number + 1].x - 10 if number + 1 < len(bars) else WIDTH - 4
        length = LETTER * len(event.label)
        if after + length <= room:
            labels.append((after, "after", event.label))
        elif bar.width > length + 2 * GAP and not bar.is_moment:
            side = "over" if bar.is_whole else "inside"
            labels.append((bar.x + bar.width - GAP, side, event.label))
    return Row(name=name, y=y, bars=tuple(bars), labels=tuple(labels))


def _bar(event: Event, x_of: Callable[[datetime], float], now: datetime) -> Bar:
    x, until = x_of(event.start), x_of(event.end or now)
    return Bar(
        x=x,
        width=max(LEAST_BAR, round(until - x, 1)),
        state=event.state,
        text=f"{event.start:%H:%M} {event.text}",
        is_moment=event.state == "moment",
        is_whole=event.is_whole,
    )


def window(found: Sequence[Event], now: datetime) -> tuple[datetime, datetime]:
    """From when to when the picture shows: all events, with a little room on both sides."""
    start = max(min(event.start for event in found), now - 2 * NIGHT)
    end = max(event.end or now for event in found)
    room = max((end - start) * 0.03, (LEAST_SPAN - (end - start)) / 2)
    return start - room, end + room


def ticks(start: datetime, end: datetime) -> list[datetime]:
    """Round times in between, in UTC."""
    span_min = (end - start).total_seconds() / 60
    step = next((each for each in STEPS_MIN if span_min / each <= MOST_TICKS), STEPS_MIN[-1])
    step_s = step * 60
    first = -(-int(start.timestamp()) // step_s) * step_s
    return [
        datetime.fromtimestamp(at, UTC) for at in range(first, int(end.timestamp()) + 1, step_s)
    ]
