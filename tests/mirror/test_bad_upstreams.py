"""Servers that misbehave: what was served before still is, and the message says what to do.

Each case goes through a sync and through pull-through.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.model import Distfiles
from headnode.errors import BusyError, MirrorError
from headnode.files import locked
from mirror import download, lookup
from mirror.distfiles import DistfilesError, fetch
from mirror.layout import path_of
from mirror.pull_through import PullThrough
from mirror.wanted import Package, plan

Site = Any
Answer = Callable[[Any], None]
MakeTree = Callable[..., dict[str, Path]]

CONTENT = bytes(range(256)) * 2000
SIZE = len(CONTENT)
NAME = "new-1.tar.gz"
GOOD = "good-1.tar.gz"
REMEDY = (
    "Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
    "or sync the tree if the files changed upstream."
)


def short(content: bytes) -> str:
    return hashlib.blake2b(content).hexdigest()[:16]


def sends(head: dict[str, object], *parts: bytes, pause: threading.Event | None = None) -> Answer:
    """Answer 200 with these headers, then the parts; then hang until `pause` if there is one."""

    def answer(handler: Any) -> None:
        handler.head(200, **head)
        for part in parts:
            handler.wfile.write(part)
        handler.wfile.flush()
        if pause:
            pause.wait(60)

    return answer


def endless(handler: Any) -> None:
    handler.head(200)
    while True:
        handler.wfile.write(CONTENT)


def to(address: str) -> Answer:
    return lambda handler: handler.head(302, Location=address, Content_Length=0)


def silent(handler: Any) -> None:
    handler.rfile.read(1)


def drips(handler: Any) -> None:
    handler.head(200, Content_Length=SIZE)
    for _ in range(1000):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def elsewhere(handler: Any) -> None:
    """Answer the first time with half, and then go on from another byte than was asked."""
    if "Range" in handler.headers:
        handler.head(206, Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}", Content_Length=SIZE - 7)
        handler.wfile.write(CONTENT[7:])
    else:
        handler.head(200, Content_Length=SIZE)
        handler.wfile.write(CONTENT[:1000])


EVIL = bytes(SIZE)
PAGE = b"<html>404 Not Found</html>"
WHOLE = {"Content_Length": SIZE}
PAUSE = threading.Event()

BAD: dict[str, tuple[Answer, str]] = {
    "wrong content": (
        sends(WHOLE, EVIL),
        f"wrong content: its BLAKE2B is {short(EVIL)}…, the Manifest says {short(CONTENT)}…",
    ),
    "a body without end": (endless, f"it goes on after the {SIZE} bytes it should have"),
    "a longer file": (
        sends({"Content_Length": 10 * SIZE}, CONTENT),
        f"it has {10 * SIZE} bytes and should have {SIZE}",
    ),
    "a shorter file": (
        sends({"Content_Length": 9}, b"shortened"),
        f"it has 9 bytes and should have {SIZE}",
    ),
    "a shorter file that does not say so": (
        sends({}, b"shortened"),
        f"cut off after 9 of {SIZE} bytes",
    ),
    "an empty answer": (sends({}), f"cut off after 0 of {SIZE} bytes"),
    "a redirect loop": (to(f"/{NAME}"), "HTTP 302 redirects without end"),
    "a redirect to a file": (
        to("file:///etc/passwd"),
        "HTTP 302 Found - Redirection to url 'file:///etc/passwd' is not allowed",
    ),
    "a redirect to data": (
        to("data:,hello"),
        "HTTP 302 Found - Redirection to url 'data:,hello' is not allowed",
    ),
    "a redirect to ftp": (to("ftp://127.0.0.1/x"), "unknown url type: ftp"),
    "a page that says 404 and is sent as 200": (
        sends({"Content_Type": "text/html", "Content_Length": len(PAGE)}, PAGE),
        f"a web page came in its place: it has 26 bytes and should have {SIZE}",
    ),
    "silence in mid-file": (
        sends(WHOLE, CONTENT[:1000], pause=PAUSE),
        "the connection broke: timed out",
    ),
    "silence from the start": (silent, "timed out"),
    "a connection that is cut again and again": (
        sends(WHOLE, CONTENT[:1000]),
        f"cut off after 1000 of {SIZE} bytes",
    ),
    "no HTTP at all": (
        lambda handler: handler.wfile.write(b"nonsense\n"),
        "its answer is not HTTP",
    ),
    "a part that was not asked for": (
        elsewhere,
        f"cut off after 1000 of {SIZE} bytes",  # and so it was when it was tried from zero
    ),
}


@pytest.fixture
def state(tmp_path: Path, make_tree: MakeTree) -> Path:
    """A mirror that serves a good file already."""
    state = tmp_path / "state"
    place = state / "mirror/distfiles" / path_of(GOOD)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"good")
    fetch(state, [], Distfiles(upstreams=()))
    return state


def served(state: Path) -> dict[str, tuple[bytes, int, int]]:
    """All that is served: content, mode and time of every file."""
    folder = state / "mirror/distfiles"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (
            path.read_bytes(),
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in paths
        if ".partial" not in path.parts
    }


def sync(state: Path, tree: dict[str, Path], options: Distfiles) -> None:
    wanted = lookup.find(state, [tree], NAME)
    assert wanted is not None
    fetch(state, [wanted], options, sleep=lambda seconds: None)


def pull(state: Path, tree: dict[str, Path], options: Distfiles) -> None:
    puller = PullThrough(state, options, lambda: [tree])
    try:
        puller.fetch(NAME)
    finally:
        puller.close()


@pytest.mark.parametrize("way", [sync, pull])
@pytest.mark.parametrize("case", BAD)
def test_what_is_served_stays_and_the_message_says_what_to_do(
    state: Path, site: Site, make_tree: MakeTree, case: str, way: Callable[..., None]
) -> None:
    answer, why = BAD[case]
    site.answers = {f"/{NAME}": answer}
    tree = make_tree(state, {NAME: CONTENT, GOOD: b"good"}, uri=site.url + "/{}")
    before = served(state)
    tries = 2 if case == "a part that was not asked for" else 1
    with pytest.raises(DistfilesError) as caught:
        way(state, tree, Distfiles(upstreams=(), tries=tries, timeout_s=0.5))
    assert str(caught.value) == (
        f"1 distfile could not be fetched.\n  {NAME}\n    {site.url}/{NAME}: {why}\n {REMEDY}"
    )
    assert served(state) == before
    site.answers = {f"/{NAME}": site.serves(CONTENT)}
    sync(state, tree, Distfiles(upstreams=(), tries=1))
    after = served(state)
    assert after.pop(str(path_of(NAME)))[0] == CONTENT
    assert after == before


def test_a_server_that_drips_is_given_up(
    state: Path, site: Site, make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MIN_RATE_BPS", 10**9)
    site.answers = {f"/{NAME}": drips}
    tree = make_tree(state, {NAME: CONTENT, GOOD: b"good"}, uri=site.url + "/{}")
    before = served(state)
    with pytest.raises(DistfilesError) as caught:
        sync(state, tree, Distfiles(upstreams=(), tries=1, timeout_s=0.5))
    assert str(caught.value) == (
        f"1 distfile could not be fetched.\n  {NAME}\n    {site.url}/{NAME}: "
        f"slower than 1000000000 bytes a second\n {REMEDY}"
    )
    assert served(state) == before


@pytest.mark.parametrize("way", [sync, pull])
def test_the_next_address_is_asked_when_one_misbehaves(
    state: Path, site: Site, make_tree: MakeTree, way: Callable[..., None]
) -> None:
    site.answers = {
        f"/distfiles/{NAME}": sends(WHOLE, CONTENT[:1000]),
        f"/other/distfiles/{NAME}": sends(WHOLE, EVIL),
        f"/own/{NAME}": site.serves(CONTENT),
    }
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/own/{}")
    way(state, tree, Distfiles(upstreams=(site.url, f"{site.url}/other"), tries=1))
    assert served(state)[str(path_of(NAME))][0] == CONTENT


def test_a_file_that_changed_upstream_is_not_carried_on_with(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    asked: list[tuple[str | None, str | None]] = []

    def answer(handler: Any) -> None:
        asked.append((handler.headers.get("Range"), handler.headers.get("If-Range")))
        first = len(asked) == 1
        handler.head(200, Content_Length=SIZE, ETag='"old"' if first else '"new"')
        handler.wfile.write(EVIL[:1000] if first else CONTENT)

    site.answers = {f"/{NAME}": answer}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    with pytest.raises(DistfilesError):
        sync(state, tree, Distfiles(upstreams=(), tries=1))
    sync(state, tree, Distfiles(upstreams=(), tries=1))
    assert asked == [(None, None), ("bytes=1000-", '"old"')]
    assert served(state)[str(path_of(NAME))][0] == CONTENT


@pytest.mark.parametrize(
    ("headers", "if_range"),
    [
        ({"ETag": '"strong"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, '"strong"'),
        (
            {"ETag": 'W/"weak"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"},
            "Thu, 01 Jan 2026 00:00:00 GMT",
        ),
        ({"ETag": 'W/"weak"'}, None),
        ({}, None),
    ],
)
def test_a_download_is_carried_on_with_only_what_the_server_can_vouch_for(
    state: Path, site: Site, make_tree: MakeTree, headers: dict[str, str], if_range: str | None
) -> None:
    asked: list[str | None] = []

    def answer(handler: Any) -> None:
        asked.append(handler.headers.get("If-Range"))
        if len(asked) == 1:
            handler.head(200, Content_Length=SIZE, **headers)
            handler.wfile.write(CONTENT[:1000])
        else:
            site.serves(CONTENT)(handler)

    site.answers = {f"/{NAME}": answer}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    sync(state, tree, Distfiles(upstreams=(), tries=2))
    assert asked == [None, if_range]
    assert site.asked[1][1] == "bytes=1000-"


@pytest.mark.parametrize("name", ["..", "a/b", "../../etc/passwd", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    state: Path, site: Site, make_tree: MakeTree, name: str
) -> None:
    tree = make_tree(
        state, {name: CONTENT}, SRC_URI=f"{site.url}/x -> {name}", cpv="app-misc/evil-1"
    )
    before = served(state)
    with pytest.raises(MirrorError) as caught:
        plan(tree, [Package(cpv="app-misc/evil-1", repo="gentoo")])
    what = f"app-misc/evil-1 wants a distfile {name!r}, which is not a file's name."
    if "/" in name:
        why = f"expected: file name, got: {name!r}, token 3."  # Portage's words
        what = f"app-misc/evil-1: its metadata cannot be read: {why}"
    again = "Sync again; if it stays, it has to be put right upstream."
    assert str(caught.value) == f"{what} {again}"
    puller = PullThrough(state, Distfiles(upstreams=()), lambda: [tree])
    assert puller.fetch(name) is None
    puller.close()
    assert (served(state), site.asked) == (before, [])


def test_two_syncs_at_once_are_refused_and_the_first_goes_on(
    state: Path, make_tree: MakeTree, site: Site
) -> None:
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    lock = state / "mirror/distfiles/.partial/.lock"
    with locked(lock, "a fetch of distfiles"), pytest.raises(BusyError) as caught:
        sync(state, tree, Distfiles(upstreams=()))
    assert str(caught.value) == (
        f"a fetch of distfiles (process {os.getpid()}) holds {lock}. "
        "Wait for it to end, then run this again."
    )
    assert site.asked == []


def test_a_sync_and_a_blade_that_want_one_file_share_its_download(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    go = threading.Event()

    def slow(handler: Any) -> None:
        go.wait(60)
        site.serves(CONTENT)(handler)

    site.answers = {f"/{NAME}": slow}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    options = Distfiles(upstreams=(), tries=1)
    both = [threading.Thread(target=way, args=(state, tree, options)) for way in (sync, pull)]
    for each in both:
        each.start()
    while not site.asked:
        time.sleep(0.01)
    go.set()
    for each in both:
        each.join(60)
    assert site.asked == [(f"/{NAME}", "")]
    assert served(state)[str(path_of(NAME))][0] == CONTENT


def test_one_host_is_asked_for_no_more_at_once_than_it_may_be(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    guard, now, most = threading.Lock(), 0, 0

    def counts(handler: Any) -> None:
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with guard:
            now -= 1
        site.serves(CONTENT)(handler)

    names = [f"{number}.tgz" for number in range(12)]
    site.answers = {f"/{name}": counts for name in names}
    tree = make_tree(state, dict.fromkeys(names, CONTENT), uri=site.url + "/{}")
    wanted = [each for name in names if (each := lookup.find(state, [tree], name))]
    fetch(state, wanted, Distfiles(upstreams=(), parallel=12, per_host=3))
    assert most == 3
