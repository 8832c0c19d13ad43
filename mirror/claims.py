"""One at a time brings a file, over threads and processes; the others wait for the same download.

A claim is a locked file. It is removed when the work went well, and else keeps what went wrong, so
that whoever waited, or asks soon after, need not try in vain again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL_S = 0.05

Reasons = tuple[tuple[str, str], ...]
"""Each address that was asked, with why it did not give the file."""


class Cancelled(Exception):  # noqa: N818 (not an error: somebody asked for it)
    """The run was ended while this file was on its way."""


Failure = tuple[float, Reasons]
"""When it was (seconds since the epoch), and why."""


@dataclass(slots=True)
class Claim:
    """A claim that is held: how the `last` holder failed, and the `note` to leave, if any."""

    last: Failure | None
    note: Failure | None = None

    def failed_within(self, seconds: float) -> Reasons | None:
        """Why the last holder failed, if that was less than `seconds` ago; the note stays then."""
        if self.last is None or not 0 <= time.time() - self.last[0] < seconds:
            return None
        self.note = self.last
        return self.last[1]

    def fail(self, reasons: Reasons) -> None:
        """Leave word that it failed just now, and why."""
        self.note = (time.time(), reasons)


@contextlib.contextmanager
def claimed(path: Path, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Claim]:
    """Hold the claim `path` for the block, after whoever holds it now.

    The kernel drops a dead holder's lock (flock(2)).

    Raises:
        Cancelled: `cancelled` said so while waiting.
    """
    with _locked(path, cancelled) as file:
        claim = Claim(last=_read(file))
        try:
            yield claim
        finally:
            _leave(path, file, claim)


def sweep(folder: Path) -> None:
    """Drop what failed claims have left, so that what failed is tried again."""
    for path in folder.glob("*"):
        with path.open("a+") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                path.unlink()


@contextlib.contextmanager
def _locked(path: Path, cancelled: Callable[[], bool]) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            _await(file, cancelled)
            if _is_at(path, file):
                yield file
                return
        # The holder removed it after we had opened it: nobody who comes later would see our lock.


def _await(file: IO[str], cancelled: Callable[[], bool]) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if cancelled():
                raise Cancelled from None
            time.sleep(POLL_S)


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _read(file: IO[str]) -> Failure | None:
    file.seek(0)
    try:
        said = json.loads(file.read())
        return float(said["at"]), tuple((str(each), str(why)) for each, why in said["reasons"])
    except (ValueError, TypeError, KeyError):
        return None


def _leave(path: Path, file: IO[str], claim: Claim) -> None:
    if claim.note is None:
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):  # a full disk: then it is simply tried again
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"at": claim.note[0], "reasons": claim.note[1]}))
        file.flush()
