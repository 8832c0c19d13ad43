"""What several tests share: a rehearsal that is up, and the promise that nothing skips unseen."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from headnode import rehearsal
from headnode.rehearsal import Rehearsal


def pytest_configure() -> None:
    """Take interrupts as from a terminal, also where the tests were started in the background.

    A shell starts a background command with SIGINT ignored, programs inherit that, and then no
    test of Ctrl-C means anything.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps fetched tarballs for the whole run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of 3 blades whose headnode serves; shared by the tests of a module, in their order."""
    folder = tmp_path_factory.mktemp("lab")
    with rehearsal.running(folder, 3, cache=tarballs) as up:
        rehearsal.start_headnode(up)
        yield up
