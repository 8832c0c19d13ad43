"""Fetching an image of the trees onto this blade. Part of headnode-tree.

An image comes whole over HTTP, or as what differs from the one that is here already over rsync,
which is a seventh of it on a usual day; whatever way it came, its digest counts. Only the standard
library, and rsync if there is one.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HTTP_TIMEOUT_S = 30.0
TOOL_TIMEOUT_S = 1800.0
CHUNK = 1 << 20
NO_ANSWER = (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException)


class TreeError(Exception):
    """The trees cannot be put in place; the text says why."""


@dataclass(frozen=True)
class Image:
    """An image as the deployment names it.

    `url` has it whole; `delta_url`, if given, is an rsync address of the same file.
    """

    url: str
    sha256: str
    size_bytes: int
    delta_url: str = ""


def fetch(wanted: Image, folder: Path, old: Path | None = None) -> Path:
    """An image as a file of `folder`, whole and with the digest that it must have.

    `old` is one that is here, of which it may be made. A download that was cut is carried on with.
    If what comes of either is wrong, it is fetched once more from the start: what there was may
    have been damaged here.
    """
    image, part = folder / f"{wanted.sha256}.squashfs", folder / f"{wanted.sha256}.part"
    if image.exists() and digest_of(image) == wanted.sha256:
        return image
    folder.mkdir(parents=True, exist_ok=True)
    if not part.exists() and old and wanted.delta_url:
        patch(wanted, part, old)
    carried_on = part.exists()
    download(wanted.url, part, wanted.size_bytes)
    if carried_on and digest_of(part) != wanted.sha256:
        part.unlink()
        download(wanted.url, part, wanted.size_bytes)
    found = digest_of(part)
    if found != wanted.sha256:
        part.unlink()
        raise TreeError(f"{wanted.url} is not what it must be: its SHA-256 is {found}")
    part.replace(image)
    sync(folder)
    return image


def patch(wanted: Image, part: Path, old: Path) -> None:
    """Make `part` of `old` and what rsync brings; nothing, if that does not go well.

    rsync reads the old image through a second name, and renames the new one over that.
    """
    beside = part.with_suffix(".delta")
    limits = [f"--max-size={wanted.size_bytes}", "--timeout=30", "--contimeout=10"]
    argv = ["rsync", "--no-whole-file", "--ignore-times", *limits]
    try:
        beside.unlink(missing_ok=True)
        beside.hardlink_to(old)
        tool(*argv, wanted.delta_url, beside)
        if digest_of(beside) == wanted.sha256:
            beside.replace(part)
    except (OSError, TreeError):
        pass
    finally:
        beside.unlink(missing_ok=True)


def download(url: str, part: Path, size_bytes: int) -> None:
    """Bring `part` to `size_bytes` from `url`; what is there already is not asked for again."""
    try:
        if part.exists() and part.stat().st_size > size_bytes:
            part.unlink()
        with part.open("ab") as file:
            have = file.tell()
            if have < size_bytes:
                _require_room(part, size_bytes - have)
                _receive(url, file, have, size_bytes)
            file.flush()
            os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        raise TreeError(f"{url}: {error}") from error
    except NO_ANSWER as error:
        reason = getattr(error, "reason", error)
        raise TreeError(f"the headnode does not answer at {url}: {reason}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
            raise TreeError(f"the disk of {part.parent} is full") from error
        raise
    if part.stat().st_size < size_bytes:
        raise TreeError(f"{url} was cut after {part.stat().st_size} of {size_bytes} bytes")


def _receive(url: str, file: IO[bytes], have: int, size_bytes: int) -> None:
    """Add what `url` has after the first `have` bytes to `file`, and no more than is due."""
    wanted = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=wanted)  # noqa: S310
    with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310
        if have and answer.status != http.client.PARTIAL_CONTENT:
            file.truncate(0)
            have = 0
        while chunk := answer.read(CHUNK):
            have += len(chunk)
            if have > size_bytes:
                raise TreeError(f"{url} has more than the {size_bytes} bytes that it must have")
            file.write(chunk)


def _require_room(part: Path, need_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < need_bytes:
        raise TreeError(
            f"the disk of {part.parent} is too full: {free >> 10} KiB are free, "
            f"the image needs {need_bytes >> 10} KiB"
        )


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tool(*argv: str | Path) -> None:
    """Run a program, or raise a TreeError with what it said."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise TreeError(f"there is no {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise TreeError(f"{' '.join(words)} did not end") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise TreeError(f"{' '.join(words)} failed: {'; '.join(said)}")
