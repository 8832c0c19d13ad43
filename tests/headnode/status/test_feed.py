"""The feed of generations, read back as a feed reader does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from headnode.status import feed
from headnode.status.gather import Gatherer
from headnode.status.model import Status

NAMES = {"a": feed.ATOM}
HOSTILE = "]]><script>alert(1)</script>&\x00\x1b[31m\ufffe"


def parse(status: Status) -> ElementTree.Element:
    return ElementTree.fromstring(feed.render(status, "http://headnode:8080/"))  # noqa: S314 (ours)


def test_every_generation_is_an_entry_newest_first(
    look: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    root = parse(Gatherer(look(58).site).status(clock()))
    assert root.tag == f"{{{feed.ATOM}}}feed"
    assert root.findtext("a:updated", "", NAMES) == "2026-03-04T02:10:00+00:00"
    entries = root.findall("a:entry", NAMES)
    assert [each.findtext("a:title", "", NAMES) for each in entries] == [
        f"Generation {number} of blade" for number in (5, 4, 3, 2, 1)
    ]
    fourth = entries[1]
    assert fourth.findtext("a:id", "", NAMES) == "tag:headnode,2026-03-03:headnode/blade/4"
    [link] = fourth.findall("a:link", NAMES)
    assert link.get("href") == "http://headnode:8080/status/generations/blade/4"
    assert fourth.findtext("a:summary", "", NAMES).splitlines() == [
        "kernel with the patch for the network cards",
        "Since generation 3: 1 up.",
        "sys-kernel/blade-kernel 6.12.8-1 → 6.12.16-1",
    ]


def test_hostile_notes_leave_the_feed_well_formed(
    look: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    status = Gatherer(look(58).site).status(clock())
    first = status.generations[0]
    attacked = type(first)(**{**dict(first), "why": HOSTILE, "news": (HOSTILE,)})
    root = parse(status.model_copy(update={"generations": (attacked,)}))
    summary = root.findtext("a:entry/a:summary", "", NAMES)
    assert summary.startswith("]]><script>alert(1)</script>&\ufffd\ufffd\n")


def test_a_feed_of_nothing_is_still_a_feed(
    empty: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    root = parse(Gatherer(empty(2)).status(clock()))
    assert root.findall("a:entry", NAMES) == []
    assert root.findtext("a:updated", "", NAMES) == "1970-01-01T00:00:00+00:00"
