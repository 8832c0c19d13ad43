"""A generation is there whole or not at all, and never changes."""

import errno
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from binhost.entries import Entries
from binhost.generations import Generations, entries_of
from binhost.pool import Stock
from binhost.records import BuildResult
from headnode.errors import PublishError
from headnode.files import fill_durably

A, B = "app-misc/a/a-1-1.gpkg.tar", "app-misc/b/b-1-1.gpkg.tar"
ENTRIES = {name: f"CPV: app-misc/{name[9]}-1\nDESC: ☃\nPATH: {name}\nSIZE: 1\n" for name in (A, B)}
EMPTY = Stock(sha256={}, recent={}, read=lambda: Entries(b""))
STOCK = replace(EMPTY, sha256={A: "aa", B: "bb"}, read=lambda: Entries.of(ENTRIES))


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(folder=tmp_path / "generations")


@pytest.fixture
def result(tmp_path: Path, finished: Any) -> BuildResult:
    made: BuildResult = finished(tmp_path, A)
    return made


def make(generations: Generations, result: BuildResult) -> int:
    entries = entries_of(result, STOCK)
    proposed = generations.propose(
        result,
        STOCK.sha256,
        entries,
        latest=generations.latest(),
        why="w",
        now=result.finished,
    )
    if proposed.number not in generations.numbers():
        with generations.writing(proposed.number, entries) as put:
            put(proposed)
    return proposed.number


def test_generations_are_numbered_and_name_their_parent(
    generations: Generations, result: BuildResult, tmp_path: Path, finished: Any
) -> None:
    assert generations.latest() is None
    assert make(generations, result) == 1
    assert make(generations, finished(tmp_path, A, B)) == 2
    assert generations.numbers() == [1, 2]
    latest = generations.latest()
    assert latest is not None
    assert (latest.parent, latest.packages) == (1, {A: "aa", B: "bb"})
    assert generations.entries(generations.read(1)) == {A: ENTRIES[A]}


def test_where_it_is_interrupted_twice_no_thread_goes_on_writing(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[bytes]()

    def slowly(folder: Path, files: Mapping[str, bytes]) -> None:
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        fill_durably(folder, files)
        written.append((folder / "entries").read_bytes())

    monkeypatch.setattr("binhost.generations.fill_durably", slowly)
    with pytest.raises(KeyboardInterrupt), generations.writing(1, Entries(b"x")):
        time.sleep(60)
    assert written == [b"x"]
    assert generations.numbers() == []


def test_why_nothing_was_put_there_is_said_also_where_clearing_up_fails(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(PublishError, match="a gate is shut"), generations.writing(1, Entries(b"")):
        monkeypatch.setattr("binhost.generations.remove_tree", Mock(side_effect=broken))
        raise PublishError("a gate is shut")


def test_an_identical_state_makes_no_new_generation(
    generations: Generations, result: BuildResult
) -> None:
    later = result.model_copy(update={"seconds": 9.0, "built": (A,)})
    assert [make(generations, result), make(generations, later)] == [1, 1]
    assert [path.name for path in generations.folder.iterdir()] == ["1"]


@pytest.mark.parametrize(
    "changed",
    [
        {"snapshots": "s2"},
        {"atoms": ("app-misc/b",)},
        {"header": {"ARCH": "arm64"}},
        {"packages": (B,)},
    ],
)
def test_each_part_of_the_state_makes_a_new_generation(
    generations: Generations, result: BuildResult, changed: dict[str, Any]
) -> None:
    make(generations, result)
    assert make(generations, result.model_copy(update=changed)) == 2


def test_a_package_that_the_pool_lacks_is_named(result: BuildResult) -> None:
    with pytest.raises(PublishError) as error:
        entries_of(result, EMPTY)
    assert str(error.value) == f"The pool lacks {A}. Build again."


def test_damaged_entries_are_noticed(generations: Generations, result: BuildResult) -> None:
    make(generations, result)
    path = generations.folder / "1/entries"
    path.write_text(path.read_text().replace("SIZE: 1", "SIZE: 2"))
    with pytest.raises(PublishError) as error:
        generations.entries(generations.read(1))
    assert str(error.value) == f"{path} is not what was published. Publish anew."


def test_a_generation_that_is_not_there_is_an_error_that_says_which_are(
    generations: Generations, result: BuildResult
) -> None:
    make(generations, result)
    with pytest.raises(PublishError) as error:
        generations.read(7)
    assert str(error.value) == "There is no generation 7; there is 1."


def test_what_a_killed_publish_left_beside_is_cleared(
    generations: Generations, result: BuildResult
) -> None:
    (generations.folder / ".1.new").mkdir(parents=True)
    (generations.folder / ".1.new/entries").write_text("half")
    assert make(generations, result) == 1
    assert generations.entries(generations.read(1)) == {A: ENTRIES[A]}
    assert [path.name for path in generations.folder.iterdir()] == ["1"]
