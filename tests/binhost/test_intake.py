"""What a build left is signed before anything else sees it, and time that gpg takes is used."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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


def test_signing_ends_at_once_when_it_is_interrupted(
    tmp_path: Path, make_package: Any, finished: Any
) -> None:
    ended = list[str]()

    def sign(paths: Iterable[Path]) -> None:
        time.sleep(0.2)  # all else has been read by now
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        ended.extend(path.name for path in paths)

    result = finished(tmp_path, make_package(tmp_path / "staging", "a-1"))
    with pytest.raises(KeyboardInterrupt):
        take(tmp_path, result, None, find_signer=lambda: Mock(sign=sign))
    assert ended == []


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
    with generations.writing(1, taken.entries) as put:
        put(first)
    result = finished(tmp_path, *result.packages, make_package(tmp_path / "staging", "b-1"))
    more = take(tmp_path, result, first, generations=generations, find_signer=find_signer)
    assert tuple(more.entries) == result.packages
    assert more.new == ("app-misc/b/b-1-1.gpkg.tar",)
