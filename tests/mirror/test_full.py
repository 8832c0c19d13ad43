"""Scope full: real emirrordist against a real HTTP server, and what becomes visible of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.model import Distfiles
from headnode.errors import CommandError
from mirror.emirrordist import Failure, parse_failures
from mirror.full import FullReport, mirror_all
from mirror.layout import path_of

Site = Any
MakeTree = Callable[..., dict[str, Path]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def served(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (state / "mirror/distfiles").glob("??/*")}


def run(state: Path, tree: dict[str, Path], **options: Any) -> FullReport:
    return mirror_all(state, tree, Distfiles(**{"upstreams": (), "tries": 1, **options}))


def test_every_file_of_the_tree_comes_and_what_is_there_is_not_asked_for(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    site.answers = {f"/{name}": site.serves(name.encode()) for name in ("a", "b", "c")}
    make_tree(state, {"a": b"a", "b": b"b"}, uri=site.url + "/{}")
    tree = make_tree(state, {"c": b"c"}, uri=site.url + "/{}", cpv="app-misc/other-1")
    place = state / "mirror/distfiles" / path_of("a")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"a")
    assert run(state, tree) == FullReport(fetched=("b", "c"))
    assert served(state) == {"a": b"a", "b": b"b", "c": b"c"}
    assert sorted(path for path, _ in site.asked) == ["/b", "/c"]
    assert run(state, tree) == FullReport()
    assert len(site.asked) == 2


def test_failures_are_read_from_the_log_and_the_mirrors_are_asked(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    site.answers = {"/distfiles/kept": site.serves(b"kept")}
    tree = make_tree(state, {"kept": b"kept", "lost": b"lost"}, uri=site.url + "/own/{}")
    assert run(state, tree, upstreams=(site.url,)) == FullReport(
        fetched=("kept",),
        failed={
            "lost": (
                ("emirrordist", "all uris failed"),
                (f"{site.url}/distfiles/lost", "HTTP 404 Not Found"),
                (f"{site.url}/own/lost", "HTTP 404 Not Found"),
            )
        },
    )
    assert served(state) == {"kept": b"kept"}


def test_a_file_that_only_one_digest_explains_is_never_visible(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    site.answers = {"/x": site.serves(b"x")}
    tree = make_tree(state, {"x": b"x"}, uri=site.url + "/{}")
    manifest = tree["gentoo"] / "app-misc/hello/Manifest"
    words = manifest.read_text().split()
    manifest.write_text(" ".join([*words[:-1], "0" * 128]) + "\n")
    got = hashlib.sha512(b"x").hexdigest()
    why = f"wrong content: its SHA512 is {got[:16]}…, the Manifest says {'0' * 16}…"
    assert run(state, tree) == FullReport(
        failed={"x": (("emirrordist", why), (f"{site.url}/x", why))}
    )
    assert served(state) == {}


def test_files_that_no_mirror_may_have_or_only_a_person_are_left_alone(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    tree = make_tree(state, {"x": b"x"}, uri=site.url + "/{}", RESTRICT="mirror")
    make_tree(state, {"y": b"y"}, uri=site.url + "/{}", cpv="app-misc/z-1", RESTRICT="fetch")
    assert run(state, tree) == FullReport()
    assert site.asked == []


def test_what_is_served_stays_while_emirrordist_runs_into_its_limit(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    def never(handler: Any) -> None:
        handler.head(200, Content_Length=1)
        handler.rfile.read(1)

    site.answers = {"/a": site.serves(b"a"), "/x": never}
    run(state, make_tree(state, {"a": b"a"}, uri=site.url + "/{}", cpv="app-misc/aaa-1"))
    new = {"stamp": "20260102T000000Z", "uri": site.url + "/{}"}
    make_tree(state, {"a": b"a"}, cpv="app-misc/aaa-1", **new)
    tree = make_tree(state, {"x": b"x"}, **new)
    with pytest.raises(CommandError, match="no end within 3 s"):
        run(state, tree, full_timeout_s=3.0)
    assert served(state) == {"a": b"a"}
    site.answers["/x"] = site.serves(b"x")
    assert run(state, tree) == FullReport(fetched=("x",))


def test_what_was_recycled_is_not_brought_back_by_emirrordists_own_copy(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    site.answers = {"/a": site.serves(b"a")}
    old = make_tree(state, {"a": b"a"}, uri=site.url + "/{}", stamp="20260101T000000Z")
    run(state, old)
    (state / "mirror/distfiles" / path_of("a")).unlink()
    new = make_tree(state, {}, stamp="20260102T000000Z")
    assert run(state, new) == FullReport()
    assert served(state) == {}
    assert list((state / "mirror/full/distfiles").glob("??/*")) == []


def test_the_log_has_a_file_or_none_on_each_line() -> None:
    log = "app-misc/a-1\tx.tgz\tall uris failed\napp-misc/b-1\t\taux_get exception 'b'\n"
    assert parse_failures(log) == [
        Failure(cpv="app-misc/a-1", filename="x.tgz", why="all uris failed"),
        Failure(cpv="app-misc/b-1", filename="", why="aux_get exception 'b'"),
    ]
