"""`headnode publish` where nothing is new, answered before anything large is imported.

A publish leaves a note of everything that decides whether the next one finds anything to do: each
file by its inode, size and times, each folder by its names. While all of that is as it was, nothing
is new, and to say so takes a twentieth of a second. On the least doubt the whole command runs.

::

    <state>/nothing-new.json    the note, of the first ring of the only class

pathlib alone would be a sixth of the time that this takes.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import time
import tomllib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

DEFAULT_CONFIG = ("cluster.toml", "/etc/headnode/cluster.toml")
DEFAULT_STATE = "/var/lib/headnode"
NOTE = "nothing-new.json"
GOOD_FOR_S = 3600
# What comes of a configuration, or a note, that is not there or not what it should be.
UNREADABLE = (OSError, ValueError, StopIteration, KeyError, TypeError, AttributeError)


def main() -> None:
    """Entry point of the `headnode` program."""
    arguments = sys.argv[1:]
    if (said := nothing_new(arguments)) is not None:
        print(said)
        sys.exit(0)
    from headnode.handover import hand_over

    if (code := hand_over(arguments)) is not None:
        sys.exit(code)
    from headnode.cli import main as whole

    whole()


def config_file() -> str:
    """The configuration that is used if none is named.

    Raises:
        StopIteration: there is none.
    """
    return os.environ.get("HEADNODE_CONFIG") or next(filter(os.path.exists, DEFAULT_CONFIG))


def state_of(config: str) -> str:
    """The state folder that a configuration names; nothing else in it is looked at.

    Raises:
        OSError, ValueError, AttributeError: it cannot be read, or is no configuration; or it comes
            through a pipe, which only one can read: the whole program.
    """
    if not stat.S_ISREG(os.stat(config).st_mode):
        raise ValueError(config)
    with open(config, "rb") as file:
        state = tomllib.load(file).get("state", {}).get("path", DEFAULT_STATE)
    return os.path.join(os.path.dirname(os.path.abspath(config)), state)


def nothing_new(arguments: list[str]) -> str | None:
    """What `headnode publish` says, if it would find all as it was when it last said so."""
    if arguments != ["publish"]:
        return None
    try:
        config = config_file()
        with open(os.path.join(state_of(config), NOTE)) as file:
            note = json.load(file)
        return str(note["said"]) if _holds(note, config) else None
    except UNREADABLE:
        return None


def _holds(note: dict[str, Any], config: str) -> bool:
    if note["program"] != look_at(__file__) or note["config"] != os.path.abspath(config):
        return False
    if not note["at"] <= time.time() < note["until"]:
        return False
    with open(note["lock"]) as lock:  # whoever is at work: the whole command says who
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        space = os.statvfs(note["space"])
        return (
            space.f_bavail * space.f_frsize >= note["reserve_bytes"]
            and all(look_at(path) == was for path, was in note["given"].items())
            and all(look_at(path) == was for path, was in note["made"].items())
        )


def look(given: Iterable[Path], made: Iterable[Path]) -> dict[str, Any]:
    """How files and folders are now: those that a publish is `given`, and those it has `made`."""
    return {
        "at": time.time(),
        "given": {str(path): look_at(path) for path in given},
        "made": {str(path): look_at(path) for path in made},
    }


def look_at(path: Path | str) -> list[Any]:
    """What changes when a file, or the names in a folder, do; empty if there is nothing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return []
    if stat.S_ISDIR(found.st_mode):
        return sorted(os.listdir(path))
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def keep(state: Path, looked: dict[str, Any], **more: Any) -> None:
    """Leave a note that there is nothing new for `headnode publish` in what was `looked` at."""
    note = {**looked, **more, "program": look_at(__file__)}
    beside = state / f".{NOTE}"
    try:
        beside.write_text(json.dumps(note))  # not made durable: half a note is none
        beside.replace(state / NOTE)
    except OSError:  # a full disk: then the whole command runs again
        return
