#!/usr/bin/env python3
"""Put the trees of this blade's deployment in place. Installed as /usr/local/sbin/headnode-tree.

Only the standard library, mount and umount. The trees come as one squashfs image over HTTP, named
by its digest; two can be there at once, in the places `a` and `b`::

    /var/lib/headnode/images/<sha256>.squashfs      fetched, and checked
    /var/lib/headnode/images/<sha256>.part          being fetched; the next run goes on with it
    /var/lib/headnode/trees/<place>.image           -> ../images/<sha256>.squashfs
    /var/lib/headnode/trees/<place>/<repo>/         the image mounted there, or unpacked
    /var/lib/headnode/tree                          -> trees/<place>: what the blade uses
    /var/db/repos/<repo>                            -> ../../lib/headnode/tree/<repo>

A new image goes to the place that is not in use, and one rename of `tree` moves every repository to
it. The old one stays until its place is needed: an emerge that runs goes on reading it, and a move
back to it needs no download. Two places, and not one named for each image: Portage notes which
package moves it has applied by the real path of profiles/updates, for ever (/var/cache/edb/mtimedb,
3.0.83), and would apply all of them again for every image.

Where the kernel cannot mount it (no squashfs, no zstd in it, no loop device), unsquashfs unpacks.

    headnode-tree use URL SHA256 BYTES REPO...   bring the trees to an image
    headnode-tree restore                        at boot: show what was in use, without the headnode

The last line that it prints is a report in JSON. Exit codes: 0 in place, 1 failed (what was in use
still is), 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HOME = Path("/var/lib/headnode")
REPOS = Path("/var/db/repos")
LOCK = Path("/run/headnode-tree.lock")
PLACES = ("a", "b")
HTTP_TIMEOUT_S = 30.0
TOOL_TIMEOUT_S = 1800.0
CHUNK = 1 << 20
NO_ANSWER = (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException)
LOOP_CONTROL, LOOP_CTL_GET_FREE = (10, 237), 0x4C82
LOOP_MAJOR = 7
TRIES = 5


class TreeError(Exception):
    """The trees cannot be put in place; the text says why."""


# --- fetching ---


def fetch(url: str, sha256: str, size_bytes: int, folder: Path) -> Path:
    """The image at `url` as a file of `folder`, whole and with the digest that it must have.

    A download that was cut is carried on with. If what comes of that is wrong, it is fetched once
    more from the start: the half may have been damaged here.
    """
    image, part = folder / f"{sha256}.squashfs", folder / f"{sha256}.part"
    if image.exists() and digest_of(image) == sha256:
        return image
    folder.mkdir(parents=True, exist_ok=True)
    carried_on = part.exists()
    download(url, part, size_bytes)
    if carried_on and digest_of(part) != sha256:
        part.unlink()
        download(url, part, size_bytes)
    found = digest_of(part)
    if found != sha256:
        part.unlink()
        raise TreeError(f"{url} is not what it must be: its SHA-256 is {found}")
    part.replace(image)
    sync(folder)
    return image


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
    except (
        urllib.error.URLError,
        TimeoutError,
        ConnectionError,
        http.client.HTTPException,
    ) as error:
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


# --- the two places ---


def place(name: str) -> Path:
    """The folder of a place."""
    return HOME / "trees" / name


def held(name: str) -> str:
    """The digest of the image that a place has or is to have; empty for none."""
    try:
        return (HOME / "trees" / f"{name}.image").readlink().stem
    except FileNotFoundError:
        return ""


def in_use() -> str:
    """The place that the blade uses; empty for none."""
    try:
        return (HOME / "tree").readlink().name
    except FileNotFoundError:
        return ""


def is_there(name: str) -> bool:
    """Whether the image of a place is mounted or unpacked in it."""
    folder = place(name)
    return os.path.ismount(folder) or (folder.is_dir() and any(folder.iterdir()))


def clear(name: str) -> None:
    """Take a place's tree away. Lazily: what an emerge has open there it can read to the end."""
    while os.path.ismount(place(name)):
        tool("umount", "--lazy", place(name))
    for folder in (place(name), place(f".{name}.new")):
        if folder.exists():
            shutil.rmtree(folder)


def attach(name: str, image: Path) -> str:
    """Show `image` at a place that is clear: `mounted`, or else `unpacked`."""
    point(HOME / "trees" / f"{name}.image", f"../images/{image.name}")
    place(name).mkdir(parents=True, exist_ok=True)
    try:
        mount(image, place(name))
    except TreeError as refused:
        try:
            unpack(image, name)
        except TreeError as error:
            raise TreeError(f"{refused}; and it cannot be unpacked either: {error}") from error
        return "unpacked"
    return "mounted"


def mount(image: Path, folder: Path) -> None:
    """Mount an image, trying again when another process took the loop device."""
    options = "ro,nodev,nosuid,loop"
    for left in reversed(range(TRIES)):
        provide_loop()
        try:
            tool("mount", "-t", "squashfs", "-o", options, image, folder)
            return
        except TreeError:
            if not left:
                raise


def provide_loop() -> None:
    """Make the device files of the next free loop device, where /dev is not the kernel's own.

    A container or a lab has a /dev of its own, in which no file comes by itself.
    Source: loop(4), LOOP_CTL_GET_FREE.
    """
    with contextlib.suppress(OSError):
        control = Path("/dev/loop-control")
        if not control.exists():
            os.mknod(control, stat.S_IFCHR | 0o600, os.makedev(*LOOP_CONTROL))
        with control.open("rb") as file:
            number = fcntl.ioctl(file, LOOP_CTL_GET_FREE)
        if not Path(f"/dev/loop{number}").exists():
            device = os.makedev(LOOP_MAJOR, number)
            os.mknod(f"/dev/loop{number}", stat.S_IFBLK | 0o600, device)


def unpack(image: Path, name: str) -> None:
    """Unpack an image into a place, where it appears whole or not at all."""
    beside = place(f".{name}.new")
    tool("unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", beside, image)
    os.sync()
    beside.replace(place(name))
    sync(place(name).parent)


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


# --- links ---


def sync(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def point(link: Path, target: str) -> None:
    """Make `link` point at `target` in one rename; a folder that an rsync left there goes."""
    beside, old = (link.with_name(f".{link.name}.{end}") for end in ("new", "old"))
    if link.is_symlink() and str(link.readlink()) == target and not old.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    if link.is_dir() and not link.is_symlink():
        if old.exists():
            shutil.rmtree(old)
        link.rename(old)
    beside.replace(link)
    sync(link.parent)
    if old.exists():
        shutil.rmtree(old)


def link_repos(repos: list[str]) -> None:
    """Have /var/db/repos/<repo> lead to the tree in use, and no link to one that is not in it."""
    up = os.path.relpath(HOME / "tree", REPOS)
    for repo in repos:
        point(REPOS / repo, f"{up}/{repo}")
    for link in REPOS.iterdir():
        ours = link.is_symlink() and str(link.readlink()).startswith(f"{up}/")
        if ours and link.name not in repos:
            link.unlink()


# --- what is asked for ---


def use(url: str, sha256: str, size_bytes: int, repos: list[str]) -> str:
    """Bring the trees to an image; how it is there: `mounted`, `unpacked`, or `unchanged`."""
    now = in_use()
    if now and held(now) == sha256 and is_there(now):
        link_repos(repos)
        return "unchanged"
    name = next((each for each in PLACES if held(each) == sha256), "")
    name = name or next(each for each in PLACES if each != now)
    if held(name) == sha256 and is_there(name):
        how = "mounted" if os.path.ismount(place(name)) else "unpacked"
    else:
        image = fetch(url, sha256, size_bytes, HOME / "images")
        clear(name)
        how = attach(name, image)
    lacking = [repo for repo in repos if not (place(name) / repo / "profiles").is_dir()]
    if lacking:
        raise TreeError(f"{url} has no {', '.join(lacking)}")
    point(HOME / "tree", f"trees/{name}")
    link_repos(repos)
    drop_images()
    return how


def restore() -> str:
    """Show again, after a boot, what was in use: as `use`, or `none` if nothing ever was."""
    name = in_use()
    if not name:
        return "none"
    if is_there(name):
        return "unchanged"
    sha256 = held(name)
    image = HOME / "images" / f"{sha256}.squashfs"
    if not image.exists() or digest_of(image) != sha256:
        raise TreeError(f"{image} is missing or damaged; the next pull fetches it again")
    clear(name)
    return attach(name, image)


def drop_images() -> None:
    """Remove every image, and every half of one, that no place has."""
    kept = {f"{held(name)}.squashfs" for name in PLACES}
    for path in (HOME / "images").iterdir():
        if path.name not in kept:
            path.unlink()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until nobody else is at it: a pull, or the boot."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(words: list[str]) -> int:
    """Do what the command line asks for, print the report, and return the exit code."""
    report = {"result": "failed", "error": ""}
    code = 1
    try:
        with alone():
            match words:
                case ["use", url, sha256, size, *repos] if size.isdigit() and repos:
                    report["result"] = use(url, sha256, int(size), repos)
                case ["restore"]:
                    report["result"] = restore()
                case _:
                    print(__doc__, file=sys.stderr)
                    return 2
        code = 0
    except (TreeError, OSError) as error:
        report["error"] = str(error)
    print(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
