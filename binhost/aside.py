"""Work beside the event loop: a few threads, and a way back.

The loop hands over a job and goes on; when the job is done, the loop is woken and runs what is to
happen then, so that connections are only ever touched by the loop's own thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

Then = Callable[[Any], None]


class Wake:
    """Wakes an event loop from another thread or from itself: an eventfd(2) to be polled."""

    def __init__(self) -> None:
        self.handle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._guard = threading.Lock()
        self._closed = False

    def now(self) -> None:
        """Make the poll return; nothing where the loop has ended."""
        with self._guard:
            if not self._closed:
                os.eventfd_write(self.handle, 1)

    def clear(self) -> None:
        """Let the next poll wait again."""
        os.eventfd_read(self.handle)

    def close(self) -> None:
        """Give the handle back."""
        with self._guard:
            self._closed = True
            os.close(self.handle)


class Aside:
    """Runs jobs in up to `threads` threads; at most `waiting` more wait for one.

    Jobs of one key that are under way share a run. What a job raises is its result.
    """

    def __init__(self, wake: Wake, *, threads: int, waiting: int, name: str) -> None:
        self._wake = wake
        self._most_threads = threads
        self._most_jobs = threads + waiting
        self._name = name
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Hashable, Callable[[], object]] | None] = (
            queue.SimpleQueue()
        )
        self._done: queue.SimpleQueue[tuple[Hashable, object]] = queue.SimpleQueue()
        self._asked: dict[Hashable, list[Then]] = {}

    def submit(self, key: Hashable, job: Callable[[], object], then: Then) -> bool:
        """Run `job`, then hand its result to `then` in the loop's thread; False: too many wait."""
        if key in self._asked:
            self._asked[key].append(then)
            return True
        if len(self._asked) >= self._most_jobs:
            return False
        if len(self._threads) < min(self._most_threads, len(self._asked) + 1):
            self._start_thread()
        if not self._threads:
            return False
        self._asked[key] = [then]
        self._jobs.put((key, job))
        return True

    def _start_thread(self) -> None:
        """Start one more, if one can be had just now (limits: pids, memory)."""
        name = f"{self._name}-{len(self._threads)}"
        # Daemon threads: a job that never ends does not keep the process from ending.
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._threads.append(thread)

    def deliver(self) -> None:
        """Hand over the results that there are; the loop calls this when it was woken."""
        while not self._done.empty():
            key, result = self._done.get()
            for then in self._asked.pop(key):
                then(result)

    def close(self) -> None:
        """Let the threads end, each after its job; nobody hears of a result any more."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            key, job = work
            result: object
            try:
                result = job()
            except Exception as error:
                result = error
            self._done.put((key, result))
            self._wake.now()
