"""What lies between two generations is said package by package, and why each was built again."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from binhost.diff import Difference, State, compare
from binhost.entry import make_entry
from binhost.records import Configuration, Generation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATCH = "/etc/portage/patches/app-misc/{}/fix.patch"


@pytest.fixture
def state(tmp_path: Path, make_package: Any) -> Any:
    """A generation of packages `(pf, build id, metadata)`, its entries made from real files."""

    def make(number: int, *packages: tuple[str, int, dict[str, str]], **more: Any) -> State:
        folder = tmp_path / str(number)
        entries = {}
        for pf, build_id, metadata in packages:
            name = make_package(folder, pf, build_id=build_id, **metadata)
            entries[name] = make_entry(folder / name, PurePosixPath(name))[0]
        values: dict[str, Any] = {
            "number": number,
            "class_name": "blade",
            "parent": None,
            "made": NOW,
            "why": "",
            "snapshots": "s",
            "atoms": (),
            "header": {},
            "packages": dict.fromkeys(entries, ""),
            "configuration": Configuration(files={}, links={}),
            "entries_sha256": "",
        }
        stamps = more.pop("stamps", {})
        return State(generation=Generation(**{**values, **more}), entries=entries, stamps=stamps)

    return make


def seen(difference: Difference) -> list[tuple[str, ...]]:
    return [
        (each.name.removeprefix("app-misc/"), each.slot, each.kind, each.old, each.new, *each.why)
        for each in difference.packages
    ]


def test_packages_come_go_rise_fall_and_are_built_again(state: Any) -> None:
    old = state(1, *((pf, 1, {}) for pf in ("same-1", "gone-1", "up-1.9", "down-2", "again-1")))
    new = state(
        2,
        *((pf, 1, {}) for pf in ("same-1", "new-1", "up-1.10", "down-2_rc1")),
        ("again-1", 2, {}),
    )
    assert seen(compare(old, new)) == [
        ("again", "0", "rebuilt", "1-1", "1-2", "built again; the index does not say why"),
        ("down", "0", "down", "2-1", "2_rc1-1"),
        ("gone", "0", "removed", "1-1", ""),
        ("new", "0", "added", "", "1-1"),
        ("up", "0", "up", "1.9-1", "1.10-1"),
    ]


def test_two_slots_of_a_package_are_two_packages(state: Any) -> None:
    old = state(1, ("py-3.12.1", 1, {"SLOT": "3.12"}), ("py-3.13.0", 1, {"SLOT": "3.13/3.13t"}))
    new = state(2, ("py-3.13.1", 1, {"SLOT": "3.13"}), ("py-3.14.0", 1, {"SLOT": "3.14"}))
    assert seen(compare(old, new)) == [
        ("py", "3.12", "removed", "3.12.1-1", ""),
        ("py", "3.13", "up", "3.13.0-1", "3.13.1-1"),
        ("py", "3.14", "added", "", "3.14.0-1"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            {"RDEPEND": ">=dev-libs/ssl-1.1:0/1.1=[foo] app-misc/y"},
            {"RDEPEND": ">=dev-libs/ssl-1.1:0/3=[foo] app-misc/y"},
            "sub-slot of dev-libs/ssl: 0/1.1 -> 0/3",
        ),
        (
            {"DEPEND": "dev-lang/perl:0/5.38="},
            {"DEPEND": "dev-lang/perl:0/5.40="},
            "sub-slot of dev-lang/perl: 0/5.38 -> 0/5.40",
        ),
        (
            {"RDEPEND": "dev-libs/icu:74/74="},
            {"RDEPEND": "dev-libs/icu:75/75="},
            "slot of dev-libs/icu: 74/74 -> 75/75",
        ),
        (
            {"USE": "amd64 gtk ssl", "IUSE": "gtk qt ssl"},
            {"USE": "amd64 qt ssl", "IUSE": "gtk qt ssl"},
            "USE: +qt -gtk",
        ),
        ({"RDEPEND": "app-misc/y"}, {"RDEPEND": "app-misc/z"}, "dependencies changed"),
        ({"IUSE": "a"}, {"IUSE": "a b"}, "ebuild changed: IUSE"),
        ({"repository": "gentoo"}, {"repository": "site"}, "repository: gentoo -> site"),
        ({"USER_PATCHES": "old"}, {"USER_PATCHES": "new"}, "patch: user patches differ"),
    ],
)
def test_why_a_package_was_built_again_is_said(
    state: Any, old: dict[str, str], new: dict[str, str], why: str
) -> None:
    [change] = compare(state(1, ("a-1", 1, old)), state(2, ("a-1", 2, new))).packages
    assert (change.kind, change.why) == ("rebuilt", (why,))


def test_several_reasons_are_all_said(state: Any) -> None:
    old = state(1, ("a-1", 1, {"RDEPEND": "dev-libs/x:0/1=", "USE": "", "IUSE": "f"}))
    new = state(2, ("a-1", 2, {"RDEPEND": "dev-libs/x:0/2=", "USE": "f", "IUSE": "f"}))
    [change] = compare(old, new).packages
    assert change.why == ("sub-slot of dev-libs/x: 0/1 -> 0/2", "USE: +f")


@pytest.mark.parametrize(
    ("folder", "applies"),
    [
        *[("a", True), ("a-1", True), ("a-1-r0", True), ("a:0", True), ("a-1:0", True)],
        *[("a-2", False), ("a:1", False), ("ab", False)],
    ],
)
def test_a_user_patch_is_the_reason_for_the_package_that_it_applies_to(
    state: Any, folder: str, applies: bool
) -> None:
    patched = Configuration(files={PATCH.format(folder): "--- a"}, links={})
    old = state(1, ("a-1", 1, {}))
    new = state(2, ("a-1", 2, {}), configuration=patched)
    [change] = compare(old, new).packages
    reason = f"patch: app-misc/{folder}/fix.patch"
    assert change.why == (reason if applies else "built again; the index does not say why",)


def test_an_ebuild_that_differs_between_the_trees_is_a_reason(state: Any) -> None:
    asked = []

    def changed(cpv: str, repo: str) -> bool:
        asked.append((cpv, repo))
        return True

    done = compare(state(1, ("a-1", 1, {})), state(2, ("a-1", 2, {})), changed)
    assert done.packages[0].why == ("ebuild changed",)
    assert asked == [("app-misc/a-1", "gentoo")]


def test_trees_atoms_and_configuration_are_compared(state: Any) -> None:
    old = state(
        1,
        atoms=("a/b", "c/d"),
        stamps={"gentoo": "20260101", "site": "1"},
        configuration=Configuration(
            files={"/etc/portage/make.conf": "A=1\nB=2\n", "/gone": "x\n"}, links={"/l": "one"}
        ),
    )
    new = state(
        2,
        atoms=("c/d", "e/f"),
        stamps={"gentoo": "20260102", "new": "1"},
        configuration=Configuration(
            files={"/etc/portage/make.conf": "A=1\nB=3\n"}, links={"/l": "two"}
        ),
    )
    done = compare(old, new)
    assert (done.atoms_added, done.atoms_removed) == (("e/f",), ("a/b",))
    assert [(each.repo, each.old, each.new) for each in done.trees] == [
        ("gentoo", "20260101", "20260102"),
        ("new", "", "1"),
        ("site", "1", ""),
    ]
    assert [(each.path, each.kind, each.text) for each in done.configuration] == [
        (
            "/etc/portage/make.conf",
            "changed",
            "--- a/etc/portage/make.conf\n+++ b/etc/portage/make.conf\n@@ -1,2 +1,2 @@\n"
            " A=1\n-B=2\n+B=3",
        ),
        ("/gone", "removed", "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x"),
        ("/l", "changed", "--- a/l\n+++ b/l\n@@ -1 +1 @@\n-one\n+two"),
    ]


def test_kernels_are_told_apart(state: Any) -> None:
    new = state(2, ("a-1", 1, {}))
    kernel = "CPV: sys-kernel/k-6.1\nPATH: sys-kernel/k/k-6.1-1.gpkg.tar\nSLOT: 6.1\n"
    with_kernel = State(generation=new.generation, entries={**new.entries, "k": kernel}, stamps={})
    done = compare(new, with_kernel)
    assert [each.name for each in done.kernels] == ["sys-kernel/k"]
    assert done.kernels == done.packages


def test_to_a_ring_that_has_nothing_everything_is_new(state: Any) -> None:
    done = compare(None, state(1, ("a-1", 1, {}), atoms=("app-misc/a",)))
    assert (done.old, done.new, done.atoms_added) == (0, 1, ("app-misc/a",))
    assert seen(done) == [("a", "0", "added", "", "1-1")]


def test_a_generation_does_not_differ_from_itself(state: Any) -> None:
    one = state(1, ("a-1", 1, {"SLOT": "0/2"}), ("a-2", 1, {"SLOT": "2"}), atoms=("x/y",))
    done = compare(one, one)
    assert (done.packages, done.trees, done.configuration) == ((), (), ())
