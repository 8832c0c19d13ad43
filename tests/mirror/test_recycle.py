"""The recycle bin: what is no longer named goes there, waits, comes back or is removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from config.model import Distfiles
from mirror import lookup, validators
from mirror.distfiles import Report, fetch
from mirror.layout import path_of
from mirror.recycle import RecyclePlan, plan_recycle, recycle
from mirror.store import Store

MakeTree = Callable[..., dict[str, Path]]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEEP = 30 * DAY


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def put(state: Path, name: str, content: bytes, folder: str = "distfiles") -> Path:
    path = state / "mirror" / folder / path_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def lying(state: Path, folder: str) -> dict[str, bytes]:
    top = state / "mirror" / folder
    return {path.name: path.read_bytes() for path in top.glob("??/*")}


def plan(**others: Any) -> RecyclePlan:
    return plan_recycle(
        **{"present": (), "recycled": {}, "named": (), **others}, now=NOW, keep=KEEP
    )


def test_what_no_tree_names_goes_into_the_bin_and_what_one_names_stays() -> None:
    assert plan(present=["b", "a", "kept"], named={"kept"}) == RecyclePlan(drop=("a", "b"))


def test_what_lay_there_long_enough_is_removed_to_the_second() -> None:
    recycled = {"over": NOW - KEEP, "not yet": NOW - KEEP + timedelta(seconds=1)}
    assert plan(recycled=recycled) == RecyclePlan(remove=("over",))


def test_what_is_named_again_comes_back_however_long_it_lay_there() -> None:
    recycled = {"old": NOW - 2 * KEEP, "new": NOW, "there": NOW}
    named = {"old", "new", "there"}
    assert plan(recycled=recycled, named=named, present=["there"]) == RecyclePlan(
        back=("new", "old")
    )


def test_a_clock_that_was_set_back_removes_nothing() -> None:
    assert plan(recycled={"later": NOW + 400 * DAY}) == RecyclePlan()


def test_a_file_stays_while_any_tree_in_use_names_it_then_waits_and_is_removed(
    state: Path, make_tree: MakeTree
) -> None:
    old = make_tree(state, {"old": b"o", "both": b"b"}, stamp="20260101T000000Z")
    new = make_tree(state, {"new": b"n", "both": b"b"}, stamp="20260102T000000Z")
    for name in ("old", "new", "both"):
        put(state, name, name[:1].encode())
    assert recycle(state, [new, old], now=NOW, keep=KEEP) == RecyclePlan()
    assert recycle(state, [new], now=NOW, keep=KEEP) == RecyclePlan(drop=("old",))
    assert lying(state, "distfiles") == {"new": b"n", "both": b"b"}
    assert lying(state, "recycle") == {"old": b"o"}
    almost = NOW + KEEP - timedelta(seconds=1)
    assert recycle(state, [new], now=almost, keep=KEEP) == RecyclePlan()
    assert recycle(state, [new], now=NOW + KEEP, keep=KEEP) == RecyclePlan(remove=("old",))
    assert lying(state, "recycle") == {}


def test_what_a_tree_names_again_is_served_again(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x": b"content"})
    put(state, "x", b"content", "recycle")
    assert recycle(state, [tree], now=NOW, keep=KEEP) == RecyclePlan(back=("x",))
    assert lying(state, "distfiles") == {"x": b"content"}
    assert lying(state, "recycle") == {}


def test_what_was_damaged_in_the_bin_does_not_come_back(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x": b"content"})
    put(state, "x", b"damaged", "recycle")
    assert recycle(state, [tree], now=NOW, keep=KEEP) == RecyclePlan()
    assert lying(state, "distfiles") == {}


def test_a_sync_that_wants_a_recycled_file_takes_it_from_the_bin(
    state: Path, make_tree: MakeTree
) -> None:
    tree = make_tree(state, {"x": b"content"}, RESTRICT="fetch")
    put(state, "x", b"content", "recycle")
    wanted = lookup.find(state, [tree], "x")
    assert wanted is not None
    assert fetch(state, [wanted], Distfiles(upstreams=())) == Report(recycled=("x",))
    assert lying(state, "distfiles") == {"x": b"content"}


def test_without_a_tree_nothing_is_known_and_nothing_is_done(state: Path) -> None:
    put(state, "x", b"content")
    assert recycle(state, [], now=NOW, keep=KEEP) == RecyclePlan()
    assert lying(state, "distfiles") == {"x": b"content"}


def test_no_days_at_all_remove_at_once(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x": b"x"})
    put(state, "dropped", b"content")
    done = recycle(state, [tree], now=NOW, keep=timedelta())
    assert done == RecyclePlan(drop=("dropped",), remove=("dropped",))
    assert (lying(state, "distfiles"), lying(state, "recycle")) == ({}, {})


def test_quarantine_is_emptied_after_the_same_time(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x": b"x"})
    path = put(state, "x", b"damaged", "quarantine")
    since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    recycle(state, [tree], now=since + KEEP - timedelta(seconds=1), keep=KEEP)
    assert path.exists()
    recycle(state, [tree], now=since + KEEP + timedelta(seconds=1), keep=KEEP)
    assert not path.exists()


def test_what_is_not_in_our_layout_is_left_alone(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x": b"x"})
    folder = state / "mirror/distfiles"
    (folder / ".partial").mkdir(parents=True)
    for path in (folder / "layout.conf", folder / "flat", folder / ".partial/x"):
        path.write_text("mine")
    assert recycle(state, [tree], now=NOW, keep=KEEP) == RecyclePlan()
    assert sorted(path.name for path in folder.iterdir()) == [".partial", "flat", "layout.conf"]


def test_what_was_fetched_in_part_and_is_named_no_more_is_removed_after_the_same_time(
    state: Path, make_tree: MakeTree
) -> None:
    tree = make_tree(state, {"x": b"x"})
    partials = Store(state).partials
    partials.mkdir(parents=True)
    for name in ("x", "gone"):
        (partials / name).write_bytes(b"half")
        validators.note(partials / name, "http://h/", Message())
    since = datetime.fromtimestamp((partials / "gone").stat().st_mtime, UTC)
    recycle(state, [tree], now=since + KEEP - timedelta(seconds=1), keep=KEEP)
    assert (partials / "gone").exists()
    recycle(state, [tree], now=since + KEEP + timedelta(seconds=1), keep=KEEP)
    assert {path.name for path in partials.iterdir() if path.is_file()} == {"x"}
    assert len(list((partials / ".validators").iterdir())) == 1


def test_a_name_that_is_no_text_ends_nothing_and_is_left_alone(
    state: Path, make_tree: MakeTree
) -> None:
    tree = make_tree(state, {"x": b"x"})
    for folder in ("distfiles/0a", "recycle/0a", "quarantine/0a", "distfiles/.partial"):
        path = state / "mirror" / folder / os.fsdecode(b"caf\xe9.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert recycle(state, [tree], now=NOW + 2 * KEEP, keep=KEEP) == RecyclePlan()
    assert len(list((state / "mirror").rglob("caf*"))) == 4
