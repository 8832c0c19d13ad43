"""mirror add: a file that a person fetched, checked, copied, and put in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from headnode.errors import MirrorError
from mirror.by_hand import add
from mirror.layout import path_of

MakeTree = Callable[..., dict[str, Path]]
CONTENT = b"firmware" * 1000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def tree(state: Path, make_tree: MakeTree) -> dict[str, Path]:
    return make_tree(state, {"fw.bin": CONTENT, "other.bin": b"other"}, RESTRICT="fetch")


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def place(state: Path, name: str = "fw.bin") -> Path:
    return state / "mirror/distfiles" / path_of(name)


def refused(state: Path, tree: dict[str, Path], *files: Path) -> str:
    with pytest.raises(MirrorError) as caught:
        add(state, [tree], files)
    left = [path for path in (state / "mirror").glob("distfiles/.partial/*") if path.is_file()]
    assert left == []
    return str(caught.value)


def test_a_good_file_is_copied_into_place_and_the_person_keeps_theirs(
    state: Path, tree: dict[str, Path], tmp_path: Path
) -> None:
    own = write(tmp_path, "fw.bin", CONTENT)
    own.chmod(0o600)
    assert add(state, [tree], [own]) == ("fw.bin",)
    assert place(state).read_bytes() == CONTENT
    assert place(state).stat().st_mode & 0o777 == 0o644
    assert not place(state).samefile(own)
    assert own.read_bytes() == CONTENT
    assert add(state, [tree], [own]) == ("fw.bin",)


def test_another_file_is_refused_with_what_was_expected(
    state: Path, tree: dict[str, Path], tmp_path: Path
) -> None:
    evil = bytes(len(CONTENT))
    own = write(tmp_path, "fw.bin", evil)
    got, blake = (hashlib.blake2b(each).hexdigest() for each in (evil, CONTENT))
    assert refused(state, tree, own) == (
        f"{own} is not the file that app-misc/hello wants: wrong content: its BLAKE2B is "
        f"{got[:16]}…, the Manifest says {blake[:16]}…. Expected are 8000 bytes with\n"
        f"  BLAKE2B {blake}\n  SHA512 {hashlib.sha512(CONTENT).hexdigest()}\n"
        " Fetch it again, in the version that the ebuild names."
    )
    assert not place(state).exists()


def test_half_a_file_is_refused_by_its_size(
    state: Path, tree: dict[str, Path], tmp_path: Path
) -> None:
    own = write(tmp_path, "fw.bin", CONTENT[:10])
    assert refused(state, tree, own).startswith(
        f"{own} is not the file that app-misc/hello wants: it has 10 bytes and should have 8000."
    )


def test_a_name_that_no_manifest_knows_is_refused(
    state: Path, tree: dict[str, Path], tmp_path: Path
) -> None:
    own = write(tmp_path, "fw(1).bin", CONTENT)
    assert refused(state, tree, own) == (
        "No Manifest of a tree in use names fw(1).bin. Give the file the name that the ebuild has "
        "for it, or sync the tree if the package is new."
    )


@pytest.mark.parametrize("name", [".hidden", "a b"])
def test_what_is_no_distfile_name_is_refused(
    state: Path, tree: dict[str, Path], tmp_path: Path, name: str
) -> None:
    assert refused(state, tree, write(tmp_path, name, CONTENT)).startswith(
        f"No Manifest of a tree in use names {name}."
    )


def test_what_is_no_file_is_refused(state: Path, tree: dict[str, Path], tmp_path: Path) -> None:
    assert refused(state, tree, tmp_path / "nowhere/fw.bin") == (
        f"{tmp_path}/nowhere/fw.bin is not a file. Name the file that you fetched."
    )


def test_all_are_put_in_place_or_none(state: Path, tree: dict[str, Path], tmp_path: Path) -> None:
    good, bad = write(tmp_path, "fw.bin", CONTENT), write(tmp_path, "other.bin", b"wrong")
    refused(state, tree, good, bad)
    assert not place(state).exists()
    bad.write_bytes(b"other")
    assert add(state, [tree], [good, bad]) == ("fw.bin", "other.bin")


def test_a_damaged_one_that_is_served_is_replaced(
    state: Path, tree: dict[str, Path], tmp_path: Path
) -> None:
    place(state).parent.mkdir(parents=True)
    place(state).write_bytes(bytes(len(CONTENT)))
    add(state, [tree], [write(tmp_path, "fw.bin", CONTENT)])
    assert place(state).read_bytes() == CONTENT


def test_a_full_disk_leaves_nothing_behind(
    small_disk: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    large = bytes(3 << 20)
    tree = make_tree(small_disk, {"large.bin": large}, RESTRICT="fetch")
    own = write(tmp_path, "large.bin", large)
    assert refused(small_disk, tree, own) == (
        f"{small_disk}/mirror/distfiles cannot be written to: its disk is full. "
        "What was served before still is. "
        "Free some space, then run this again: it carries on where it stopped."
    )
    assert not place(small_disk, "large.bin").exists()
