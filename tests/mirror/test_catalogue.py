"""The catalogue of a snapshot, and what is looked up with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirror import lookup
from mirror.catalogue import Catalogue
from mirror.wanted import Wanted

MakeTree = Callable[..., dict[str, Path]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def wants(content: bytes, **others: Any) -> Wanted:
    return Wanted(
        size_bytes=len(content),
        digests={
            "BLAKE2B": hashlib.blake2b(content).hexdigest(),
            "SHA512": hashlib.sha512(content).hexdigest(),
        },
        **{"filename": "x.tgz", "by": ("app-misc/hello",), **others},
    )


def test_every_file_of_every_manifest_is_known_by_its_packages(
    state: Path, make_tree: MakeTree
) -> None:
    make_tree(state, {"x.tgz": b"x", "y.tgz": b"y"})
    tree = make_tree(state, {"x.tgz": b"x"}, cpv="app-misc/other-2")
    catalogue = Catalogue.of(state, "gentoo", tree["gentoo"])
    assert catalogue.packages(["x.tgz", "y.tgz", "z.tgz"]) == {
        "x.tgz": ["app-misc/hello", "app-misc/other"],
        "y.tgz": ["app-misc/hello"],
    }


def test_it_is_made_once_and_read_from_then_on(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x.tgz": b"x"})["gentoo"]
    Catalogue.of(state, "gentoo", tree)
    (tree / "app-misc/hello/Manifest").unlink()
    assert Catalogue.of(state, "gentoo", tree).packages(["x.tgz"]) == {"x.tgz": ["app-misc/hello"]}
    assert [path.name for path in (state / "mirror/catalogues/gentoo").iterdir()] == [
        "20260101T000000Z.sqlite"
    ]


def test_those_of_snapshots_that_are_gone_are_dropped(state: Path, make_tree: MakeTree) -> None:
    old = make_tree(state, {"x.tgz": b"x"}, stamp="20260101T000000Z")["gentoo"]
    Catalogue.of(state, "gentoo", old)
    old.rename(state / "away")
    new = make_tree(state, {"y.tgz": b"y"}, stamp="20260102T000000Z")["gentoo"]
    Catalogue.of(state, "gentoo", new)
    assert [path.name for path in (state / "mirror/catalogues/gentoo").iterdir()] == [
        "20260102T000000Z.sqlite"
    ]


def test_a_file_is_found_with_the_addresses_of_all_ebuilds_that_want_it(
    state: Path, make_tree: MakeTree
) -> None:
    make_tree(state, {"x.tgz": b"x"}, uri="https://one.example/{}", cpv="app-misc/hello-1")
    tree = make_tree(state, {}, SRC_URI="https://two.example/x.tgz", cpv="app-misc/hello-2")
    assert lookup.find(state, [tree], "x.tgz") == wants(
        b"x", uris=("https://one.example/x.tgz", "https://two.example/x.tgz")
    )
    assert lookup.find(state, [tree], "y.tgz") is None
    assert lookup.find(state, [], "x.tgz") is None


def test_a_file_that_no_ebuild_says_anything_of_is_asked_of_mirrors(
    state: Path, make_tree: MakeTree
) -> None:
    tree = make_tree(state, {"x.tgz": b"x"}, SRC_URI="")
    assert lookup.find(state, [tree], "x.tgz") == wants(b"x", uris=())


def test_a_file_is_for_the_hand_if_every_ebuild_says_so(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x.tgz": b"x"}, RESTRICT="fetch", cpv="app-misc/hello-1")
    found = lookup.find(state, [tree], "x.tgz")
    assert found is not None
    assert (found.by_hand, found.mirrored) == (True, False)
    make_tree(state, {}, SRC_URI="https://two.example/x.tgz", cpv="app-misc/hello-2")
    found = lookup.find(state, [tree], "x.tgz")
    assert found is not None
    assert (found.by_hand, found.mirrored) == (False, True)


def test_the_first_tree_that_names_a_file_has_its_way(state: Path, make_tree: MakeTree) -> None:
    old = make_tree(state, {"x.tgz": b"old", "y.tgz": b"y"}, stamp="20260101T000000Z", SRC_URI="")
    new = make_tree(state, {"x.tgz": b"newer"}, stamp="20260102T000000Z", SRC_URI="")
    assert lookup.find(state, [new, old], "x.tgz") == wants(b"newer", uris=())
    assert lookup.find(state, [new, old], "y.tgz") == wants(b"y", uris=(), filename="y.tgz")
    sizes = {
        name: [dist.size_bytes for dist in dists]
        for name, dists in lookup.expected(state, [new, old], ["x.tgz", "y.tgz", "z"]).items()
    }
    assert sizes == {"x.tgz": [5, 3], "y.tgz": [1]}
    assert lookup.named(state, [new, old], ["x.tgz", "y.tgz", "z"]) == {"x.tgz", "y.tgz"}
    assert lookup.named(state, [new], ["x.tgz", "y.tgz", "z"]) == {"x.tgz"}


def test_a_broken_metadata_cache_costs_the_addresses_only(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x.tgz": b"x"})
    (tree["gentoo"] / "metadata/md5-cache/app-misc/hello-1").unlink()
    assert lookup.find(state, [tree], "x.tgz") == wants(b"x", uris=())


def test_a_digest_that_is_too_weak_is_none(state: Path, make_tree: MakeTree) -> None:
    tree = make_tree(state, {"x.tgz": b"x"})
    (tree["gentoo"] / "app-misc/hello/Manifest").write_text(f"DIST x.tgz 1 MD5 {'0' * 32}\n")
    assert lookup.find(state, [tree], "x.tgz") is None
    assert lookup.expected(state, [tree], ["x.tgz"]) == {}
