"""What an image of a snapshot set holds, laid out so that nothing depends on who made it when.

Two kinds. `full` is the whole tree, without git's own folder. `profiles` is what a blade that
installs only binary packages reads of it (found out by running emerge 3.0.83): profiles, metadata,
licences. Ebuilds, eclasses, Manifests and the metadata cache are for building; a binary package
carries its own environment.
Left out as well is what is new with every sync though nothing is: timestamps, and the lists that
are made of all ebuilds. So on a night on which no profile changed the image is the same one.

Files keep their modification time, which Portage compares to tell which package moves it has
already applied (profiles/updates). A folder's is that of the newest file in it: when a snapshot
was made must not count.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """How much of the trees an image holds."""

    PROFILES = "profiles"
    FULL = "full"


TOP = frozenset({"licenses", "metadata", "profiles", "sets", "sets.conf"})
LEFT_OUT = re.compile(
    r"metadata/(md5-cache|cache|pkg_desc_index|install-qa-check\.d)"  # of all ebuilds, for building
    r"|profiles/use\.local\.desc"
    r"|(metadata|profiles|licenses)/(.+/)?(Manifest(\.[^/]*)?|timestamp(\.[^/]*)?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file, folder or symlink: `name` in the image, `path` on disk, `mtime` in whole seconds."""

    name: str
    path: str
    mode: int
    mtime: int


def wanted(name: str, kind: Kind) -> bool:
    """Whether an image has `name`, a path inside a repository. Pure."""
    if kind is Kind.FULL:
        return name != ".git"
    return name.partition("/")[0] in TOP and not LEFT_OUT.fullmatch(name)


def members(repos: Mapping[str, Path], kind: Kind) -> Iterator[Member]:
    """Give what an image of `repos` (name -> folder) holds, a folder before what is in it."""
    for name in sorted(repos):
        yield from _below(name, str(repos[name]), "", kind)


def _below(root: str, path: str, inside: str, kind: Kind) -> list[Member]:
    """What is in the folder `path`, itself first; `inside` is its path in the repository."""
    found: list[Member] = []
    newest = 0
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if not wanted(name, kind):
            continue
        if entry.is_dir(follow_symlinks=False):
            below = _below(root, entry.path, name, kind)
        else:
            below = [_leaf(f"{root}/{name}", entry)]
        newest = max(newest, below[0].mtime)
        found += below
    inner = f"{root}/{inside}" if inside else root
    mode = stat.S_IFDIR | 0o755
    return [Member(name=inner, path=path, mode=mode, mtime=newest), *found]


def _leaf(name: str, entry: os.DirEntry[str]) -> Member:
    seen = entry.stat(follow_symlinks=False)
    if not stat.S_ISLNK(seen.st_mode) and not stat.S_ISREG(seen.st_mode):
        raise OSError(errno.EINVAL, "neither a file nor a folder nor a symlink", entry.path)
    return Member(name=name, path=entry.path, mode=seen.st_mode, mtime=int(seen.st_mtime))


def lay_out(repos: Mapping[str, Path], kind: Kind, target: Path) -> None:
    """Make `target` a folder of `repos`, each in a folder of its name; files are hard links.

    Raises:
        OSError: `target` is on another file system, or something is no file, folder or symlink.
    """
    target.mkdir()
    folders = []
    for member in members(repos, kind):
        path = f"{target}/{member.name}"
        if stat.S_ISDIR(member.mode):
            os.mkdir(path, 0o755)  # noqa: PTH102 (a Path each costs more than the call)
            os.chmod(path, 0o755)  # noqa: PTH101, S103 (whatever the umask)
            folders.append((path, member.mtime))
        else:
            os.link(member.path, path, follow_symlinks=False)
    for path, mtime in reversed(folders):
        os.utime(path, (mtime, mtime))
    target.chmod(0o755)
    os.utime(target, (0, 0))
