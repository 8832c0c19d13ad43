"""How far work over many files is, counted from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, over all files; what is resumed counts from where it stopped."""

    files: int
    files_total: int
    size_bytes: int
    size_bytes_total: int


OnProgress = Callable[[Progress], None]


class Tally:
    """Adds up what is done, and tells `on_progress` after each step, one at a time."""

    def __init__(self, *, files: int, size_bytes: int, on_progress: OnProgress) -> None:
        self._files_total, self._size_bytes_total = files, size_bytes
        self._on_progress = on_progress
        self._files = self._size_bytes = 0
        self._positions: dict[str, int] = {}
        self._guard = threading.Lock()

    def at(self, filename: str, position: int) -> None:
        """Take note that `position` bytes of a file are done; it may have gone back."""
        self._count(filename, position, 0)

    def done(self, filename: str, position: int) -> None:
        """Take note that a file is done with, after `position` bytes."""
        self._count(filename, position, 1)

    def _count(self, filename: str, position: int, files: int) -> None:
        with self._guard:
            self._files += files
            self._size_bytes += position - self._positions.get(filename, 0)
            self._positions[filename] = position
            self._on_progress(
                Progress(
                    files=self._files,
                    files_total=self._files_total,
                    size_bytes=self._size_bytes,
                    size_bytes_total=self._size_bytes_total,
                )
            )
