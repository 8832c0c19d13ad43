"""A distfile that is asked for and not there: fetched once, from a real HTTP server that counts."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from config.model import Distfiles
from headnode.errors import MirrorError
from mirror.distfiles import DistfilesError, fetch
from mirror.layout import path_of
from mirror.pull_through import PullThrough

Site = Any
MakeTree = Callable[..., dict[str, Path]]
Open = Callable[..., PullThrough]

CONTENT = bytes(range(256)) * 4000
NAME = "hello-1.tar.gz"
REMEDY = (
    " Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
    "or sync the tree if the files changed upstream."
)
LIMIT_S = 60.0


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened() -> Iterator[Open]:
    """`opened(state, tree…, option=…)`: a PullThrough with the newest of the trees first."""
    pullers: list[PullThrough] = []

    def open_one(state: Path, *trees: dict[str, Path], **options: Any) -> PullThrough:
        settings = Distfiles(**{"upstreams": (), "tries": 1, **options})
        pullers.append(PullThrough(state, settings, lambda: trees))
        return pullers[-1]

    yield open_one
    for each in pullers:
        each.close()


def place(state: Path, name: str = NAME) -> Path:
    return state / "mirror/distfiles" / path_of(name)


def await_that(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_threads_ask_at_once_and_one_download_serves_them_all(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    waiting, go = threading.Semaphore(0), threading.Event()

    def slow(handler: Any) -> None:
        assert go.wait(LIMIT_S)
        site.serves(CONTENT)(handler)

    site.answers = {f"/{NAME}": slow}
    puller = opened(state, make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}"))

    def ask(number: int) -> Path | None:
        waiting.release()
        return puller.fetch(NAME)

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, number) for number in range(20)]
        for _ in range(20):
            assert waiting.acquire(timeout=LIMIT_S)
        go.set()
        assert [each.result(LIMIT_S) for each in asked] == [place(state)] * 20
    assert site.asked == [(f"/{NAME}", "")]
    assert place(state).read_bytes() == CONTENT
    assert place(state).stat().st_mode & 0o777 == 0o644
    assert puller.fetch(NAME) == place(state)
    assert len(site.asked) == 1


ASK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from config.model import Distfiles
from mirror.pull_through import PullThrough
state, tree, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
puller = PullThrough(state, Distfiles(upstreams=(), tries=1), lambda: [{"gentoo": tree}])
print("asking", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(4) as pool:
    print({str(each) for each in pool.map(puller.fetch, [name] * 4)}, flush=True)
"""


def start_asking(state: Path, tree: dict[str, Path]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", ASK, str(state), str(tree["gentoo"]), NAME]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asking\n"
    return process


def test_several_processes_ask_at_once_and_one_download_serves_them_all(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    go = threading.Event()

    def slow(handler: Any) -> None:
        assert go.wait(LIMIT_S)
        site.serves(CONTENT)(handler)

    site.answers = {f"/{NAME}": slow}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    processes = [start_asking(state, tree) for _ in range(3)]
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    await_that(lambda: bool(site.asked))
    go.set()
    said = [each.communicate(timeout=LIMIT_S) for each in processes]
    assert said == [(f"{{'{place(state)}'}}\n", "")] * 3
    assert site.asked == [(f"/{NAME}", "")]
    assert place(state).read_bytes() == CONTENT


def test_who_waits_goes_on_where_a_killed_process_stopped(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    stalled = threading.Event()

    def stalls(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:300_000])
        handler.wfile.flush()
        site.answers[f"/{NAME}"] = site.serves(CONTENT)
        stalled.wait(LIMIT_S)

    site.answers = {f"/{NAME}": stalls}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    partial = state / "mirror/distfiles/.partial" / NAME
    first = start_asking(state, tree)
    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()
    await_that(lambda: partial.exists() and partial.stat().st_size > 0)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(opened(state, tree).fetch, NAME)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert second.result(LIMIT_S) == place(state)
    stalled.set()
    assert place(state).read_bytes() == CONTENT
    [(_, whole), (_, part)] = site.asked
    assert whole == ""
    assert part.startswith("bytes=")


def test_what_no_tree_names_is_nothing_and_nobody_is_asked(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    puller = opened(state, make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}"))
    assert puller.fetch("other.tar.gz") is None
    assert opened(state).fetch(NAME) is None
    assert site.asked == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../hello", "a/b", "/etc/passwd", ".lock", "a\0b", "a b", "x" * 256, "\udc80"],
)
def test_what_is_no_file_name_is_nothing(
    state: Path, make_tree: MakeTree, opened: Open, name: str
) -> None:
    assert opened(state, make_tree(state, {NAME: CONTENT})).fetch(name) is None
    assert not (state / "mirror/distfiles").exists()


def test_a_long_name_is_fetched_like_any_other(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    name = "x" * 255
    site.answers = {f"/{name}": site.serves(CONTENT)}
    puller = opened(state, make_tree(state, {name: CONTENT}, uri=site.url + "/{}"))
    assert puller.fetch(name) == place(state, name)


def test_what_only_a_person_may_fetch_is_said_at_once(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}", RESTRICT="fetch")
    with pytest.raises(MirrorError) as caught:
        opened(state, tree, upstreams=(site.url,)).fetch(NAME)
    assert str(caught.value) == (
        f"{NAME} is to be fetched by hand: app-misc/hello has RESTRICT=fetch. "
        f"Get it as the ebuild says, then: headnode mirror add {NAME}"
    )
    assert site.asked == []


def test_a_failure_is_not_tried_again_for_a_while_by_anyone(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    one, other = (opened(state, tree, quiet_s=3600.0) for _ in range(2))
    for puller in (one, one, other, other):
        with pytest.raises(DistfilesError) as caught:
            puller.fetch(NAME)
        assert str(caught.value) == (
            f"1 distfile could not be fetched.\n  {NAME}\n"
            f"    {site.url}/{NAME}: HTTP 404 Not Found\n{REMEDY}"
        )
    assert site.asked == [(f"/{NAME}", "")]


def test_a_sync_tries_at_once_what_failed_before(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    with pytest.raises(DistfilesError):
        opened(state, tree, quiet_s=3600.0).fetch(NAME)
    site.answers = {f"/{NAME}": site.serves(CONTENT)}
    fetch(state, [], Distfiles(upstreams=()))
    assert opened(state, tree, quiet_s=3600.0).fetch(NAME) == place(state)


def test_a_failure_is_tried_again_after_a_while(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    puller = opened(state, make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}"), quiet_s=0.01)
    with pytest.raises(DistfilesError):
        puller.fetch(NAME)
    site.answers = {f"/{NAME}": site.serves(CONTENT)}
    time.sleep(0.02)
    assert puller.fetch(NAME) == place(state)


def test_content_that_no_manifest_names_is_never_visible(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    evil = bytes(len(CONTENT))
    site.answers = {f"/{NAME}": site.serves(evil)}
    got, expected = (hashlib.blake2b(each).hexdigest()[:16] for each in (evil, CONTENT))
    with pytest.raises(DistfilesError) as caught:
        opened(state, make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")).fetch(NAME)
    assert str(caught.value) == (
        f"1 distfile could not be fetched.\n  {NAME}\n    {site.url}/{NAME}: wrong content: "
        f"its BLAKE2B is {got}…, the Manifest says {expected}…\n{REMEDY}"
    )
    assert not place(state).exists()


def test_what_only_an_older_tree_names_is_fetched_too(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    site.answers = {f"/{NAME}": site.serves(CONTENT)}
    old = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}", stamp="20260101T000000Z")
    new = make_tree(state, {"other": b"x"}, stamp="20260102T000000Z")
    assert opened(state, new, old).fetch(NAME) == place(state)


def test_who_waited_long_enough_is_told_and_the_download_goes_on(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    go = threading.Event()

    def slow(handler: Any) -> None:
        assert go.wait(LIMIT_S)
        site.serves(CONTENT)(handler)

    site.answers = {f"/{NAME}": slow}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    puller = opened(state, tree, wait_s=0.1)
    with pytest.raises(MirrorError) as caught:
        puller.fetch(NAME)
    assert str(caught.value) == (
        f"{NAME} is still being fetched after 0.1 s. Ask again: the download goes on."
    )
    go.set()
    await_that(place(state).exists)
    assert puller.fetch(NAME) == place(state)
    assert len(site.asked) == 1


def test_closing_ends_a_download_and_the_next_carries_on_with_it(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    closed = threading.Event()

    def slow(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:200_000])
        site.answers[f"/{NAME}"] = site.serves(CONTENT)
        while not closed.is_set():
            handler.wfile.write(b"")
            closed.wait(0.05)
        handler.wfile.write(CONTENT[200_000:500_000])

    site.answers = {f"/{NAME}": slow}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    puller = opened(state, tree)
    partial = state / "mirror/distfiles/.partial" / NAME
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(puller.fetch, NAME)
        await_that(partial.exists)
        closing = pool.submit(puller.close)
        await_that(puller._fetcher._ended.is_set)
        closed.set()
        closing.result(LIMIT_S)
        with pytest.raises(MirrorError, match=f"{NAME} was on its way when headnode ended."):
            asked.result(LIMIT_S)
    assert partial.stat().st_size > 0
    assert opened(state, tree).fetch(NAME) == place(state)
    assert site.asked[1][1].startswith("bytes=")


END = """
import sys, threading, time
from pathlib import Path
from config.model import Distfiles
from mirror.pull_through import PullThrough
state, tree, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
puller = PullThrough(state, Distfiles(upstreams=(), timeout_s=3600), lambda: [{"gentoo": tree}])
threading.Thread(target=puller.fetch, args=(name,), daemon=True).start()
while not (state / "mirror/distfiles/.partial" / name).exists():
    time.sleep(0.01)
"""


def test_a_server_that_ends_does_not_wait_for_a_download(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    over = threading.Event()

    def stalls(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        over.wait(10 * LIMIT_S)

    site.answers = {f"/{NAME}": stalls}
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}")
    argv = [sys.executable, "-c", END, str(state), str(tree["gentoo"]), NAME]
    try:
        assert subprocess.run(argv, timeout=LIMIT_S, check=False).returncode == 0
    finally:
        over.set()
    assert not place(state).exists()


def test_a_full_disk_is_said_and_what_is_served_stays(
    small_disk: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    large = os.urandom(3 << 20)
    site.answers = {"/small": site.serves(b"x"), "/large": site.serves(large)}
    tree = make_tree(small_disk, {"small": b"x", "large": large}, uri=site.url + "/{}")
    puller = opened(small_disk, tree)
    assert puller.fetch("small") == place(small_disk, "small")
    with pytest.raises(MirrorError) as caught:
        puller.fetch("large")
    assert str(caught.value) == (
        f"{small_disk}/mirror/distfiles cannot be written to: its disk is full. "
        "What was served before still is. "
        "Free some space, then run this again: it carries on where it stopped."
    )
    assert place(small_disk, "small").read_bytes() == b"x"
    assert not place(small_disk, "large").exists()


def test_what_lies_in_the_recycle_bin_comes_back_without_a_download(
    state: Path, site: Site, make_tree: MakeTree, opened: Open
) -> None:
    recycled = state / "mirror/recycle" / path_of(NAME)
    recycled.parent.mkdir(parents=True)
    recycled.write_bytes(CONTENT)
    tree = make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}", RESTRICT="fetch")
    assert opened(state, tree).fetch(NAME) == place(state)
    assert not recycled.exists()
    assert site.asked == []


def test_a_moment_without_threads_leaves_nothing_that_never_ends(
    state: Path, make_tree: MakeTree, site: Site, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers = {f"/{NAME}": site.serves(CONTENT)}
    puller = opened(state, make_tree(state, {NAME: CONTENT}, uri=site.url + "/{}"))
    with monkeypatch.context() as patch, pytest.raises(MirrorError) as raised:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start")))
        puller.fetch(NAME)
    assert str(raised.value) == (
        f"{NAME} cannot be fetched now: can't start. The next request tries it again; look at the "
        "limits of the service."
    )
    assert puller.fetch(NAME) == place(state)
