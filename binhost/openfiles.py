"""The files that were asked for lately, kept open with their replies.

Never at the price of an old answer: before each use one stat(2) of the path has to find the very
inode that is open, unwritten since. So a ring that moved, a file that was replaced and one that was
deleted are seen by the next request. The stat follows symlinks, which is no way out: it only
compares, and what it compares with was opened by `beneath`. Where the name never changes content
(the pool, images) one look a second is enough: clients themselves are told to ask only once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from binhost.beneath import Opened, open_beneath
from binhost.replies import Coding, Served, serve_file
from binhost.routes import IMMUTABLE, Roots, cache_control, resolve

KEPT_FILES = 512
TRUST_S = 1.0
# Up to here a file is kept in memory, to be sent in one write with its header: 8 MiB at most.
SMALL_BYTES = 16_384


class Entry:
    """A file that is open, under its whole path. `checked_s` is when that was looked up last."""

    __slots__ = ("checked_s", "path", "served", "stamp", "trust_s", "used")

    def __init__(self, path: str, served: Served, trust_s: float) -> None:
        self.path = path
        self.served = served
        self.stamp = _stamp(served.opened.facts)
        self.trust_s = trust_s
        self.checked_s = time.monotonic()
        self.used = True

    def is_current(self, now_s: float) -> bool:
        """Whether the path still names this very content."""
        try:
            facts = os.stat(self.path)  # noqa: PTH116 (a Path costs more than the call)
        except OSError:
            return False
        self.checked_s = now_s
        return _stamp(facts) == self.stamp


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_dev)


class OpenFiles:
    """Finds the file of a URL path, open. One thread's."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._entries: dict[str, Entry] = {}

    def find(self, url_path: str, coding: Coding = Coding.NONE) -> Served | None:
        """The file of `url_path` (or its compressed form, `.gz` beside it); None: there is none.

        Raises:
            OSError: it is there, but cannot be opened or read.
        """
        key = url_path if coding is Coding.NONE else f"{url_path} {coding.value}"
        entry = self._entries.get(key)
        if entry is not None:
            now_s = time.monotonic()
            if now_s - entry.checked_s < entry.trust_s or entry.is_current(now_s):
                entry.used = True
                return entry.served
            del self._entries[key]
        file = resolve(url_path, self._roots)
        if file is None:
            return None
        if coding is Coding.GZIP:
            file = file.with_name(f"{file.name}.gz")
        opened = open_beneath(self._roots.state, file)
        return None if opened is None else self._keep(key, file, opened, coding)

    def drop_idle(self) -> None:
        """Close what was not used since the last call, or is not what its path names any more.

        A deleted file's space comes free only when it is closed.
        """
        now_s = time.monotonic()
        for key, entry in list(self._entries.items()):
            if not entry.used or not entry.is_current(now_s):
                del self._entries[key]
            entry.used = False

    def _keep(self, key: str, file: Path, opened: Opened, coding: Coding) -> Served:
        size = opened.facts.st_size
        content = os.pread(opened.handle, size, 0) if size <= SMALL_BYTES else None
        served = serve_file(file, opened, self._roots, coding=coding, content=content)
        if content is None or len(content) == size:  # else it is being written just now
            if len(self._entries) >= KEPT_FILES:
                del self._entries[next(iter(self._entries))]
            keeps = cache_control(file, self._roots) == IMMUTABLE
            self._entries[key] = Entry(str(file), served, TRUST_S if keeps else 0.0)
        return served
