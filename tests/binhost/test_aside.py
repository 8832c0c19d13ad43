"""Jobs beside the event loop, when no thread can be had."""

import threading
import time
from unittest.mock import Mock

import pytest

from binhost.aside import Aside, Wake

LIMIT_S = 30.0


def answers(aside: Aside, *keys: str) -> list[object]:
    """What the loop is handed for jobs of these keys, each its own key."""
    found: list[object] = []
    for key in keys:
        assert aside.submit(key, lambda key=key: key, found.append)  # type: ignore[misc]
    deadline = time.monotonic() + LIMIT_S
    while len(found) < len(keys):
        assert time.monotonic() < deadline
        aside.deliver()
        time.sleep(0.001)
    return sorted(map(str, found))


def test_a_moment_without_threads_refuses_and_is_over_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wake = Wake()
    aside = Aside(wake, threads=2, waiting=2, name="test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
        assert [aside.submit(key, Mock(), Mock()) for key in "abcdef"] == [False] * 6
    assert answers(aside, "a", "b", "c", "d") == ["a", "b", "c", "d"]
    aside.close()
    wake.close()


def test_a_job_is_done_by_the_threads_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = Wake()
    aside = Aside(wake, threads=2, waiting=2, name="test")
    assert answers(aside, "first") == ["first"]
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError))
    assert answers(aside, "a", "b") == ["a", "b"]
    aside.close()
    wake.close()
