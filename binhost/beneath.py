"""Opening a file below the state folder, and nothing else, whatever symlinks lie there.

Every folder on the way is opened from the one above it with O_NOFOLLOW, so that no link and no
race leads out. The one symlink that is followed is a ring's `current`, and only to the relative
`deployments/<number>` beside it. A disk of its own for the pool or the distfiles is bind-mounted,
not linked. The state folder itself may be a link: it is the administrator's word.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from binhost.routes import is_ring_link

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
DEPLOYMENT = re.compile(r"deployments/[0-9]+")
FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO somebody left there must not hold a thread.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Opened:
    """An open regular file: `handle`, and its `facts` (fstat(2)).

    Closed when nothing refers to it any more: a cache and any number of transfers share one.
    """

    handle: int
    facts: os.stat_result

    def __del__(self) -> None:
        os.close(self.handle)


def open_beneath(state: Path, file: Path) -> Opened | None:
    """Open `file`, a path below `state`; None where there is no regular file to be served.

    Raises:
        OSError: it is there, but cannot be opened (rights, a failing disk, too many open files).
    """
    try:
        handle = _walk(state, file.relative_to(state).parts)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    facts = os.fstat(handle)
    if stat.S_ISREG(facts.st_mode):
        return Opened(handle, facts)
    os.close(handle)
    return None


def _walk(state: Path, names: tuple[str, ...]) -> int:
    with ExitStack() as folders:

        def enter(name: Path | str, flags: int, above: int | None) -> int:
            folder = os.open(name, flags, dir_fd=above)
            folders.callback(os.close, folder)
            return folder

        folder = enter(state, FOLDER, None)
        for depth, name in enumerate(names[:-1], start=1):
            linked = is_ring_link(names[:depth])
            for step in _deployment(folder, name) if linked else (name,):
                folder = enter(step, FOLDER | os.O_NOFOLLOW, folder)
        return os.open(names[-1], FILE, dir_fd=folder)


def _deployment(ring: int, link: str) -> list[str]:
    """The names that a ring's link stands for, read once: `deployments`, `<number>`."""
    try:
        target = os.readlink(link, dir_fd=ring)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        target = ""  # a folder, where only ever a link is made
    if DEPLOYMENT.fullmatch(target) is None:
        raise FileNotFoundError(errno.ENOENT, "leads elsewhere than to a deployment", link)
    return target.split("/")
