"""Reports between the server and the ledger: files, which one process drains.

::

    <state>/reports/new/<blade>.<number>.json   taken, not in the ledger yet
    <state>/reports/numbers/<blade>             the highest number that was taken, and its nonce
    <state>/reports/odd/                        what the ledger could not make sense of

Why files: several server processes take reports, and none of them shall wait for a database that is
locked, import a database's driver, or lose a report that it said it has. A file is on disk before
the blade is told so; the daemon writes all that are there into the ledger in one transaction.

Only the standard library, since every server process imports this.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from headnode.files import sync_folder, write_atomic


class ReplayError(Exception):
    """A number that was taken before; `highest` is the highest one, `nonce` was with that."""

    def __init__(self, highest: int, nonce: str) -> None:
        super().__init__(f"{highest} was taken")
        self.highest = highest
        self.nonce = nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A report that was taken: when (UTC, ISO 8601), from whom, and what it says."""

    at: str
    blade: str
    number: int
    said: dict[str, Any]

    @property
    def arrived(self) -> datetime:
        """When it was taken."""
        return datetime.fromisoformat(self.at)


@dataclass(frozen=True, slots=True)
class Spool:
    """The folder of a state folder."""

    folder: Path

    @classmethod
    def of(cls, state: Path) -> Spool:
        """The spool of a state folder."""
        return cls(state / "reports")

    @property
    def new(self) -> Path:
        """What the ledger has not taken yet."""
        return self.folder / "new"

    def put(self, letter: Letter, nonce: str) -> None:
        """Take a report: it is on disk afterwards.

        Raises:
            ReplayError: its number, or a higher one of that blade, was taken before.
        """
        with self._numbers_of(letter.blade) as handle:
            highest, _, with_it = (
                os.pread(handle, 4096, 0).decode("ascii", "replace").partition("\n")
            )
            if highest.isdigit() and letter.number <= int(highest):
                raise ReplayError(int(highest), with_it.strip())
            name = f"{letter.blade}.{letter.number}.json"
            write_atomic(self.new / name, json.dumps(asdict(letter)), mode=0o600)
            # After the report: cut off in between, the blade sends it again, which is better than
            # a report that is lost, and the ledger counts a number once.
            text = f"{letter.number}\n{nonce}\n".encode()
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))

    @contextmanager
    def _numbers_of(self, blade: str) -> Iterator[int]:
        """The file of a blade's number, which one process at a time has."""
        path = self.folder / "numbers" / blade
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def waiting(self, most: int) -> list[Path]:
        """Reports that the ledger has not taken yet, the oldest first, `most` at most."""
        try:
            found = [each for each in self.new.iterdir() if each.name[0] != "."]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)[:most]

    def read(self, path: Path) -> Letter | None:
        """A report that waits; None if it is not one."""
        try:
            return Letter(**json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            return None

    def set_aside(self, path: Path) -> None:
        """Keep what is no report, out of the way."""
        odd = self.folder / "odd"
        odd.mkdir(parents=True, exist_ok=True)
        path.replace(odd / path.name)

    def forget(self, paths: list[Path]) -> None:
        """Remove reports that are in the ledger."""
        for path in paths:
            path.unlink(missing_ok=True)
        if paths:
            sync_folder(self.new)
