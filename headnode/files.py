"""How files are put in place so that nobody ever sees half of one.

Written beside the target, synced, renamed over it, and the folder synced: a reader sees the old
content or the new, and so does a machine that lost power in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from headnode.errors import BusyError, EnvironmentLacksError

CHUNK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (fsync(2) of a directory)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_together(paths: Iterable[Path]) -> None:
    """Make files, and the names in folders, durable: all at once, which a disk does in one go."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        for _ in threads.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(
    path: Path, content: bytes | str, *, mode: int = 0o644, mtime: int | None = None
) -> None:
    """Put `content` at `path` in one rename; `mtime` is in seconds since the epoch, UTC."""
    beside = _write_beside(path, content, mode=mode, mtime=mtime)
    try:
        _sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write_beside(
    path: Path, content: bytes | str, *, mode: int = 0o644, mtime: int | None = None
) -> Path:
    """Write a file that is not durable yet, under another name in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if mtime is not None:
                os.utime(file.fileno(), (mtime, mtime))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def fill(folder: Path, files: Mapping[str, bytes | str], *, mtime: int | None = None) -> None:
    """Write files into a folder that nobody reads yet; `sync_content` makes them durable."""
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if mtime is not None:
                os.utime(file.fileno(), (mtime, mtime))


def fill_durably(
    folder: Path, files: Mapping[str, bytes | str], *, mtime: int | None = None
) -> None:
    """Write files into such a folder, and make their content durable; a thread's work, if large."""
    fill(folder, files, mtime=mtime)
    sync_together(folder / name for name in files)


def sync_content(folder: Path) -> None:
    """Make the files in a folder durable, and then their names."""
    sync_together(path for path in folder.iterdir() if is_regular(path))
    sync_folder(folder)


def point_symlink(link: Path, target: str | Path) -> None:
    """Make `link` point at `target` in one rename, whether it was there or not."""
    link.parent.mkdir(parents=True, exist_ok=True)
    beside = link.with_name(f".{link.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    try:
        beside.replace(link)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(link.parent)


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it, if it is there. Never follows a symlink."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def retire(path: Path) -> None:
    """Take a numbered folder out of sight, in one rename; `drop_retired` empties it."""
    path.rename(path.with_name(f".{path.name}.gone"))


def drop_retired(folder: Path) -> None:
    """Make what was retired in a folder durable, and delete it."""
    gone = sorted(folder.glob(".*.gone"))
    if gone:
        sync_folder(folder)
    for each in gone:
        remove_tree(each)


def digests(path: Path, *names: str) -> dict[str, str]:
    """Hex digests of a file's content by hashlib name (`blake2b`, `sha512`, …), read once."""
    hashes: dict[str, Any] = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for each in hashes.values():
                each.update(chunk)
    return {name: str(each.hexdigest()) for name, each in hashes.items()}


ORPHANED_S = 10.0  # a program that was just being started begins to run within that
LOOK_S = 0.1  # between two looks whether a lock is free


@contextlib.contextmanager
def locked(path: Path, who: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for the block, with `who` and the pid written in it.

    The kernel drops the lock when its holder dies (flock(2)), so none is ever stale. A holder that
    was killed while it started a program leaves it to that for the moment until the program runs:
    that is waited for. `wait_s` is for locks that are held for a moment only.

    Raises:
        BusyError: somebody else holds it, and has for `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _take(file, path, wait_s)
        _say(file, f"{who} (process {os.getpid()})\n")
        try:
            yield
        finally:
            _say(file, "")


def _take(file: IO[str], path: Path, wait_s: float) -> None:
    began_s = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            said = file.read().strip()
            limit_s = max(wait_s, ORPHANED_S) if _is_dead(said) else wait_s
            if time.monotonic() - began_s >= limit_s:
                raise BusyError(path, said) from None
            time.sleep(LOOK_S)
        else:
            return


def _say(file: IO[str], text: str) -> None:
    """Have a lock file say `text`; on a full disk it says nothing, and holds all the same."""
    with contextlib.suppress(OSError):
        file.truncate(0)
        os.write(file.fileno(), text.encode())


def _is_dead(said: str) -> bool:
    """Whether a holder, as `locked` wrote it, is no process any more."""
    number = re.search(r"\(process (\d+)\)$", said)
    return number is not None and not Path("/proc", number[1]).exists()


def holder(path: Path) -> str:
    """Who holds the lock file `path`, as `locked` wrote it; empty if nobody does. Takes no lock.

    A killed holder leaves its text: the kernel's own list of locks decides, by the file's number
    (proc(5), /proc/locks).
    """
    try:
        said, number = path.read_text(errors="replace").strip(), path.stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    held = any(
        "FLOCK" in (words := line.split()) and any(word.endswith(f":{number}") for word in words)
        for line in locks
    )
    return said if held else ""


def require_free_space(folder: Path, need_bytes: int) -> None:
    """Check that the file system of `folder` has room before work starts.

    Raises:
        EnvironmentLacksError: it has less than `need_bytes` free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise EnvironmentLacksError(
            f"The file system of {folder} is too full to start.",
            [f"{free >> 20} MiB free, {need_bytes >> 20} MiB wanted ([state] reserve_mib)"],
            remedy="Free some space, or lower the reserve:",
        )


def is_regular(path: Path) -> bool:
    """Whether `path` itself (no symlink followed) is a regular file."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
