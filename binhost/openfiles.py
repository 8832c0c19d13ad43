"""The files that were asked for lately, kept open with their replies.

Never at the price of an old answer: before each use one stat(2) of the path has to find the very
inode that is open, unwritten since. So a ring that moved, a file that was replaced and one that was
deleted are seen by the next request. The stat follows symlinks, which is no way out: it only
compares, and what it compares with was opened by `beneath`.
"""

from __future__ import annotations

import os
from pathlib import Path

from binhost.beneath import Opened, open_beneath
from binhost.replies import Coding, Served, serve_file
from binhost.routes import Roots, resolve

KEPT_FILES = 512
# Up to here a file is kept in memory, to be sent in one write with its header: 8 MiB at most.
SMALL_BYTES = 16_384


class Entry:
    """A file that is open, under its whole path."""

    __slots__ = ("path", "served", "stamp", "used")

    def __init__(self, path: str, served: Served) -> None:
        self.path = path
        self.served = served
        self.stamp = _stamp(served.opened.facts)
        self.used = True


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_dev)


class OpenFiles:
    """Finds the file of a URL path, open. One thread's."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._entries: dict[tuple[str, Coding], Entry] = {}

    def find(self, url_path: str, coding: Coding = Coding.NONE) -> Served | None:
        """The file of `url_path` (or its compressed form, `.gz` beside it); None: there is none.

        Raises:
            OSError: it is there, but cannot be opened or read.
        """
        key = (url_path, coding)
        entry = self._entries.get(key)
        if entry is not None:
            if self._is_current(entry):
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
        for key, entry in list(self._entries.items()):
            if not entry.used or not self._is_current(entry):
                del self._entries[key]
            entry.used = False

    def _is_current(self, entry: Entry) -> bool:
        try:
            return _stamp(os.stat(entry.path)) == entry.stamp  # noqa: PTH116 (a Path costs more)
        except OSError:
            return False

    def _keep(self, key: tuple[str, Coding], file: Path, opened: Opened, coding: Coding) -> Served:
        size = opened.facts.st_size
        content = os.pread(opened.handle, size, 0) if size <= SMALL_BYTES else None
        served = serve_file(file, opened, self._roots, coding=coding, content=content)
        if content is None or len(content) == size:  # else it is being written just now
            if len(self._entries) >= KEPT_FILES:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = Entry(str(file), served)
        return served
