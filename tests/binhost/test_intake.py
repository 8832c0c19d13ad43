"""What a build left is signed before anything else sees it, and time that gpg takes is used."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from binhost.entries import Entries
from binhost.generations import Generations
from binhost.intake import Taken, take_in
from binhost.pool import Pool
from binhost.records import BuildResult, Generation
from binhost.signing import Signer
from headnode.errors import PublishError


def take(folder: Path, result: BuildResult, latest: Generation | None, **more: Any) -> Taken:
    values: dict[str, Any] = {
        "staging": folder / "staging",
        "pool": Pool(folder=folder / "pool"),
        "generations": Generations(folder=folder / "generations"),
        "find_signer": lambda: None,
        **more,
    }
    return take_in(result, latest, **values)


def test_where_no_key_can_sign_nothing_enters_the_pool(
    tmp_path: Path, make_package: Any, finished: Any
) -> None:
    def no_key() -> Signer:
        raise PublishError("There is no key to sign with.")

    result = finished(tmp_path, make_package(tmp_path / "staging", "a-1"))
    with pytest.raises(PublishError, match="There is no key to sign with"):
        take(tmp_path, result, None, find_signer=no_key)
    assert not (tmp_path / "pool").exists()
    assert take(tmp_path, result, None).new == result.packages


def test_the_entries_of_before_are_read_while_gpg_signs(
    tmp_path: Path, make_package: Any, finished: Any
) -> None:
    read = threading.Event()

    class Watched(Generations):
        def entries(self, generation: Generation) -> Entries:
            found = super().entries(generation)
            read.set()
            return found

    def find_signer() -> None:
        assert read.wait(60)

    generations = Watched(folder=tmp_path / "generations")
    result = finished(tmp_path, make_package(tmp_path / "staging", "a-1"))
    taken = take(tmp_path, result, None)
    first = generations.propose(
        result, taken.stock.sha256, taken.entries, latest=None, why="", now=datetime.now(UTC)
    )
    generations.put(first, taken.entries)
    result = finished(tmp_path, *result.packages, make_package(tmp_path / "staging", "b-1"))
    more = take(tmp_path, result, first, generations=generations, find_signer=find_signer)
    assert tuple(more.entries) == result.packages
    assert more.new == ("app-misc/b/b-1-1.gpkg.tar",)
