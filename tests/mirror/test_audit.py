"""mirror verify: every file read again, what is damaged taken away and fetched anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.model import Distfiles
from mirror.audit import Audit, verify
from mirror.layout import path_of
from mirror.progress import Progress

Site = Any
MakeTree = Callable[..., dict[str, Path]]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def put(state: Path, name: str, content: bytes) -> Path:
    path = state / "mirror/distfiles" / path_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def check(state: Path, *trees: dict[str, Path], **others: Any) -> Audit:
    return verify(state, trees, Distfiles(upstreams=(), tries=1), **{"now": NOW, **others})


def differs(got: bytes, expected: bytes) -> str:
    one, other = (hashlib.blake2b(each).hexdigest()[:16] for each in (got, expected))
    return f"wrong content: its BLAKE2B is {one}…, the Manifest says {other}…"


def test_good_files_are_counted_and_nobody_is_asked(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    files = {f"{number}.tgz": b"x" * number for number in range(1, 21)}
    tree = make_tree(state, files, uri=site.url + "/{}")
    for name, content in files.items():
        put(state, name, content)
    seen: list[Progress] = []
    assert check(state, tree, on_read=seen.append) == Audit(files=20, size_bytes=210)
    assert seen[-1] == Progress(files=20, files_total=20, size_bytes=210, size_bytes_total=210)
    assert site.asked == []


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (b"content!", differs(b"content!", b"content.")),
        (b"half", "it has 4 bytes and should have 8"),
        (b"", "it has 0 bytes and should have 8"),
    ],
)
def test_a_damaged_file_goes_to_quarantine_and_is_fetched_anew(
    state: Path, site: Site, make_tree: MakeTree, damage: bytes, why: str
) -> None:
    site.answers = {"/x.tgz": site.serves(b"content.")}
    tree = make_tree(state, {"x.tgz": b"content."}, uri=site.url + "/{}")
    path = put(state, "x.tgz", damage)
    assert check(state, tree) == Audit(
        files=1, size_bytes=len(damage), damaged={"x.tgz": why}, repaired=("x.tgz",)
    )
    assert path.read_bytes() == b"content."
    assert (state / "mirror/quarantine" / path_of("x.tgz")).read_bytes() == damage
    assert check(state, tree) == Audit(files=1, size_bytes=8)


def test_what_cannot_be_repaired_is_not_served_and_the_rest_is(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    make_tree(state, {"good.tgz": b"good", "gone.tgz": b"gone"}, uri=site.url + "/{}")
    tree = make_tree(state, {"hand.tgz": b"hand"}, cpv="app-misc/hand-1", RESTRICT="fetch")
    good = put(state, "good.tgz", b"good")
    gone, hand = put(state, "gone.tgz", b"lost"), put(state, "hand.tgz", b"lost")
    done = check(state, tree)
    assert done.failed == {
        "gone.tgz": ((f"{site.url}/gone.tgz", "HTTP 404 Not Found"),),
        "hand.tgz": (
            ("RESTRICT=fetch", "get it as the ebuild says, then: headnode mirror add FILE"),
        ),
    }
    assert done.repaired == ()
    assert good.read_bytes() == b"good"
    assert (gone.exists(), hand.exists()) == (False, False)


def test_a_file_as_only_an_older_tree_wants_it_is_served_until_the_newer_is_there(
    state: Path, site: Site, make_tree: MakeTree
) -> None:
    old = make_tree(state, {"x.tgz": b"old"}, stamp="20260101T000000Z", uri=site.url + "/{}")
    new = make_tree(state, {"x.tgz": b"new"}, stamp="20260102T000000Z", uri=site.url + "/{}")
    path = put(state, "x.tgz", b"old")
    done = check(state, new, old)
    assert (done.damaged, done.older, done.repaired) == ({}, ("x.tgz",), ())
    assert path.read_bytes() == b"old"
    site.answers = {"/x.tgz": site.serves(b"new")}
    assert check(state, new, old) == Audit(
        files=1, size_bytes=3, older=("x.tgz",), repaired=("x.tgz",)
    )
    assert path.read_bytes() == b"new"


def test_what_no_manifest_names_is_listed_and_left(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x.tgz": b"x"})
    put(state, "x.tgz", b"x")
    foreign = put(state, "foreign.tgz", b"?")
    astray = state / "mirror/distfiles/zz/x.tgz"
    astray.parent.mkdir()
    astray.write_bytes(b"x")
    done = check(state, tree)
    assert done == Audit(files=1, size_bytes=1, unnamed=(f"{path_of('foreign.tgz')}", "zz/x.tgz"))
    assert (foreign.read_bytes(), astray.read_bytes()) == (b"?", b"x")


def test_an_empty_mirror_is_in_order(state: Path, make_tree: MakeTree) -> None:
    assert check(state, make_tree(state, {"x.tgz": b"x"})) == Audit(files=0, size_bytes=0)
