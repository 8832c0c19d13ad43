"""Put the trees of this blade's deployment in place. Installed as /usr/local/sbin/headnode-tree.

Only the standard library, mount and umount. The trees come as one squashfs image (`blades.image`),
named by its digest; two can be there at once, in the places `a` and `b`::

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

    headnode-tree use [--delta URL] URL SHA256 BYTES REPO...   bring the trees to an image, of which
                             the URL after --delta has what differs, for rsync
    headnode-tree restore    at boot: show what was in use, without the headnode
    headnode-tree leave      take all of it away, before trees come by rsync

The last line that it prints is a report in JSON. Exit codes: 0 in place, 1 failed (what was in use
still is), 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from blades.image import Image, TreeError, digest_of, fetch, sync, tool

HOME = Path("/var/lib/headnode")
REPOS = Path("/var/db/repos")
LOCK = Path("/run/headnode-tree.lock")
PLACES = ("a", "b")
LOOP_CONTROL, LOOP_CTL_GET_FREE = (10, 237), 0x4C82
LOOP_MAJOR = 7
TRIES = 5
AT_ONCE = 64
DIGEST = re.compile("[0-9a-f]{64}")
REMEDY = (
    "Give the kernel CONFIG_SQUASHFS, CONFIG_SQUASHFS_ZSTD and CONFIG_BLK_DEV_LOOP; or install "
    'unsquashfs (sys-fs/squashfs-tools[zstd]); or set tree = "rsync" for its class in the '
    "headnode's cluster.toml, and give the blade its files again (headnode blades config)"
)


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


def image_of(name: str) -> Path | None:
    """The image file of a place, if it has one."""
    image = HOME / "images" / f"{held(name)}.squashfs"
    return image if image.is_file() else None


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


def drop(name: str) -> None:
    """Take a place's tree away for good: its name first, so that half a tree passes for none."""
    (HOME / "trees" / f"{name}.image").unlink(missing_ok=True)
    clear(name)


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
            raise TreeError(
                f"{refused}; it cannot be unpacked either: {error}. {REMEDY}"
            ) from error
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

    A container or a lab has a /dev of its own, in which no file comes by itself. Those after it as
    well: when many blades of a lab mount at once, each takes the next that is still free.
    Source: loop(4), LOOP_CTL_GET_FREE.
    """
    with contextlib.suppress(OSError):
        control = Path("/dev/loop-control")
        if not control.exists():
            os.mknod(control, stat.S_IFCHR | 0o600, os.makedev(*LOOP_CONTROL))
        with control.open("rb") as file:
            number = fcntl.ioctl(file, LOOP_CTL_GET_FREE)
        if not Path(f"/dev/loop{number}").exists():
            for each in range(number, number + AT_ONCE):
                device = os.makedev(LOOP_MAJOR, each)
                with contextlib.suppress(FileExistsError):
                    os.mknod(f"/dev/loop{each}", stat.S_IFBLK | 0o600, device)


def unpack(image: Path, name: str) -> None:
    """Unpack an image into a place, where it appears whole or not at all."""
    beside = place(f".{name}.new")
    tool("unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-dest", beside, image)
    os.sync()
    beside.replace(place(name))
    sync(place(name).parent)


# --- links ---


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


def use(wanted: Image, repos: list[str]) -> str:
    """Bring the trees to an image; how it is there: `mounted`, `unpacked`, or `unchanged`."""
    now = in_use()
    if now and held(now) == wanted.sha256 and is_there(now):
        link_repos(repos)
        return "unchanged"
    name = next((each for each in PLACES if held(each) == wanted.sha256), "")
    name = name or next(each for each in PLACES if each != now)
    if held(name) == wanted.sha256 and is_there(name):
        how = "mounted" if os.path.ismount(place(name)) else "unpacked"
    else:
        image = fetch(wanted, HOME / "images", image_of(now))
        drop(name)
        how = attach(name, image)
    lacking = [repo for repo in repos if not (place(name) / repo / "profiles").is_dir()]
    if lacking:
        raise TreeError(f"{wanted.url} has no {', '.join(lacking)}")
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
    image = image_of(name)
    if not image or digest_of(image) != held(name):
        raise TreeError(f"the image {held(name)} is missing or damaged; a pull fetches it again")
    clear(name)
    return attach(name, image)


def drop_images() -> None:
    """Remove every image, and every half of one, that no place has."""
    kept = {f"{held(name)}.squashfs" for name in PLACES}
    for path in (HOME / "images").iterdir():
        if path.name not in kept:
            path.unlink()


def leave() -> str:
    """Take the trees away, so that rsync finds no link where it is to write."""
    if REPOS.is_dir():
        link_repos([])
    (HOME / "tree").unlink(missing_ok=True)
    for name in PLACES:
        drop(name)
    shutil.rmtree(HOME / "images", ignore_errors=True)
    return "none"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until nobody else is at it: a pull, or the boot."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def do(words: list[str]) -> str | None:
    """Do what the command line asks for; None if it asks for nothing that there is."""
    delta = ""
    if words[:2] == ["use", "--delta"] and len(words) > 2:
        delta, words = words[2], ["use", *words[3:]]
    match words:
        case ["use", url, sha256, size, *repos] if (
            DIGEST.fullmatch(sha256) and size.isdigit() and repos and all(map(is_name, repos))
        ):
            return use(Image(url, sha256, int(size), delta), repos)
        case ["restore"]:
            return restore()
        case ["leave"]:
            return leave()
    return None


def is_name(repo: str) -> bool:
    """Whether it can be the name of a folder in /var/db/repos."""
    return not repo.startswith(".") and "/" not in repo and repo != ""


def main() -> int:
    """Do what the command line asks for, print the report, and return the exit code."""
    report = {"result": "failed", "error": ""}
    try:
        with alone():
            result = do(sys.argv[1:])
        if result is None:
            print(__doc__, file=sys.stderr)
            return 2
        report["result"] = result
    except (TreeError, OSError) as error:
        report["error"] = str(error)
    print(json.dumps(report))
    return 1 if report["result"] == "failed" else 0
