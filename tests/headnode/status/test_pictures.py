"""The rack and the timeline: what is drawn where, before any HTML."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headnode.status.gather import Gatherer
from headnode.status.page.rack import rack, short_names
from headnode.status.page.timeline import LEFT, RIGHT, WIDTH, Event, draw, ticks, window
from headnode.status.page.words import ago, duration

START = datetime(2026, 3, 4, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "names, short",
    [
        (["blade01", "blade02", "blade10"], ["01", "02", "10"]),
        (["rack1-a", "rack1-b"], ["a", "b"]),
        (["a", "ab"], ["a", "b"]),  # one that all others begin with stays whole
        (["blade01", "blade011"], ["01", "011"]),
        (["blade"], ["blade"]),
        (["node1", "blade1"], ["node1", "blade1"]),
        ([], []),
    ],
)
def test_a_cell_shows_what_a_name_does_not_share(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


def test_every_blade_is_once_in_its_ring_with_colour_and_mark(look: Callable[..., Any]) -> None:
    looked = look(58)
    found = rack(Gatherer(looked.site).status(START + timedelta(hours=6)))
    assert [(shelf.ring, len(shelf.cells)) for shelf in found.shelves] == [
        ("canary", 2),
        ("fleet", 56),
    ]
    cells = {cell.name: cell for shelf in found.shelves for cell in shelf.cells}
    assert len(cells) == 58
    shown = {name: (cells[name].shade, cells[name].mark, cells[name].health) for name in cells}
    assert shown["blade01"] == ("g0", "", "good")
    assert shown["blade17"] == ("g1", "F", "failed")
    assert shown["blade31"] == ("g2", "U", "unreached")
    assert shown["blade44"] == ("g1", "B", "behind")
    assert shown["blade50"] == ("g0", "D", "drained")
    assert cells["blade44"].title == ("blade44, generation 4, behind: has generation 4, its ring 5")
    assert found.shades == (
        ("g0", "generation 5", 54),
        ("g1", "generation 4", 2),
        ("g2", "generation 3", 2),
    )
    assert not found.is_dense


def event(row: str, start_min: float, end_min: float | None, state: str = "good") -> Event:
    end = None if end_min is None else START + timedelta(minutes=end_min)
    return Event(
        row=row, start=START + timedelta(minutes=start_min), end=end, state=state, text=row
    )


def test_bars_lie_where_their_times_are() -> None:
    found = draw([event("build", 0, 30), event("mirror-sync", 30, 60)], START + timedelta(hours=5))
    assert found is not None
    assert [row.name for row in found.rows] == ["mirror-sync", "build"]  # in the night's order
    [sync], [build] = (row.bars for row in found.rows)
    assert build.x + build.width == pytest.approx(sync.x, abs=0.2)
    assert build.width == pytest.approx(sync.width, abs=0.2)
    assert build.x > LEFT
    assert sync.x + sync.width < WIDTH - RIGHT
    assert found.now_x is None  # long after, and so not in the picture


def test_what_runs_goes_up_to_now() -> None:
    now = START + timedelta(minutes=40)
    found = draw([event("mirror-sync", 0, 10), event("build", 10, None, "running")], now)
    assert found is not None
    [bar] = found.rows[1].bars
    assert (bar.state, bar.x + bar.width) == ("running", found.now_x)


def test_a_short_step_is_still_seen_and_nothing_draws_nothing() -> None:
    found = draw([event("mirror-sync", 0, 0), event("build", 0, 300)], START + timedelta(hours=6))
    assert found is not None
    assert found.rows[0].bars[0].width == 5.0
    assert draw([], START) is None


def test_the_window_holds_all_with_room_on_both_sides() -> None:
    start, end = window([event("mirror-sync", 0, 100)], START + timedelta(days=1))
    assert start == START - timedelta(minutes=3)
    assert end == START + timedelta(minutes=103)
    start, end = window([event("mirror-sync", 0, 0)], START + timedelta(days=1))
    assert end - start == timedelta(minutes=20)


@pytest.mark.parametrize(
    "minutes, expected",
    [
        (30, ["01:30", "01:35", "01:40", "01:45", "01:50", "01:55", "02:00"]),
        (240, ["01:30", "02:00", "02:30", "03:00", "03:30", "04:00", "04:30", "05:00", "05:30"]),
        (1440, ["03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "00:00"]),
    ],
)
def test_the_axis_has_round_times(minutes: int, expected: list[str]) -> None:
    found = ticks(START, START + timedelta(minutes=minutes))
    assert [f"{at:%H:%M}" for at in found] == expected


@pytest.mark.parametrize(
    "seconds, words",
    [(4.21, "4.2 s"), (42, "42 s"), (720, "12 min"), (7200, "2 h"), (400_000, "5 days")],
)
def test_lengths_are_rounded_to_what_counts(seconds: float, words: str) -> None:
    assert duration(seconds) == words
    assert ago(START, START + timedelta(seconds=seconds)) == (
        f"{words} ago" if seconds >= 60 else "just now"
    )
    assert ago(None, START) == duration(None) == "never"
