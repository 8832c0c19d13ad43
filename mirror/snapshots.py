"""Snapshots of a repository on disk: named, put in front by one rename, and let go.

Whatever has a stamp's name below `snapshots/` is complete, was checked, and is never written to.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headnode.files import point_symlink, remove_tree, sync_folder

log = logging.getLogger(__name__)

STAMP = "%Y%m%dT%H%M%SZ"
STAMPED = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One checked tree. `stamp` is when it was made, UTC, and its folder's name.

    `changed` is whether this sync made it, `upstream` where from (empty: none was asked).
    """

    repo: str
    stamp: str
    path: Path
    changed: bool = False
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a repository's trees lie (the package's docstring draws it)."""

    path: Path

    @classmethod
    def of(cls, state: Path, name: str) -> Folder:
        """The folder of the repository `name`."""
        return cls(state / "mirror" / "repos" / name)

    @property
    def staging(self) -> Path:
        """Where a sync writes."""
        return self.path / "staging"

    @property
    def head(self) -> Path:
        """Where an upstream's stamp and Manifest are fetched to."""
        return self.path / "head"

    @property
    def trash(self) -> Path:
        """Where a snapshot goes before it is removed."""
        return self.path / "trash"

    @property
    def snapshots(self) -> Path:
        """Where checked trees are."""
        return self.path / "snapshots"

    @property
    def current(self) -> Path:
        """The symlink to the newest checked tree."""
        return self.path / "current"

    def newest(self) -> Path | None:
        """The tree that `current` points at, or None before the first sync."""
        return self.current.resolve() if self.current.exists() else None

    def stamps(self) -> list[str]:
        """The snapshots there are, oldest first; what has another name (lost+found) is none."""
        if not self.snapshots.is_dir():
            return []
        names = (path.name for path in self.snapshots.iterdir())
        return sorted(name for name in names if STAMPED.fullmatch(name))


def current_snapshot(state: Path, name: str) -> Snapshot | None:
    """Give the newest checked tree of the repository `name`, or None if it was never synced."""
    newest = Folder.of(state, name).newest()
    return Snapshot(repo=name, stamp=newest.name, path=newest) if newest else None


def next_stamp(now: datetime, taken: Sequence[str]) -> str:
    """Name a snapshot made `now`: later than all that are `taken`, even twice in one second.

    A clock that was set back must not make the new tree look older than the one before.
    """
    newest = max(taken, default="")
    if now.astimezone(UTC).strftime(STAMP) > newest:
        return now.astimezone(UTC).strftime(STAMP)
    return (datetime.strptime(newest, STAMP) + timedelta(seconds=1)).strftime(STAMP)


def put_in_front(folder: Folder, stamp: str) -> None:
    """Make staging the snapshot `stamp`, and `current` point at it.

    sync(2) first: else a power cut could leave the names without the contents.
    """
    os.sync()
    folder.staging.rename(folder.snapshots / stamp)
    sync_folder(folder.snapshots)
    point_symlink(folder.current, Path("snapshots") / stamp)


def recover(folder: Folder) -> None:
    """Finish what a killed run began: a checked snapshot that `current` does not point at yet."""
    for half_made in folder.path.glob(".current.*"):
        half_made.unlink()
    remove_tree(folder.trash)
    newest, stamps = folder.newest(), folder.stamps()
    if stamps and (newest is None or newest.name < stamps[-1]):
        log.warning("%s: finishing the flip of a killed run to %s", folder.path, stamps[-1])
        point_symlink(folder.current, Path("snapshots") / stamps[-1])


def make_served(path: Path, *, up_to: Path) -> None:
    """Make `path` and its parents below `up_to`, readable by everyone whatever the umask."""
    up_to.mkdir(parents=True, exist_ok=True)
    for each in [*reversed(path.relative_to(up_to).parents[:-1]), path.relative_to(up_to)]:
        (up_to / each).mkdir(exist_ok=True)
        (up_to / each).chmod(0o755)


def prunable(stamps: Collection[str], in_use: Collection[str], keep: int) -> list[str]:
    """Give the snapshots that may go, oldest first: not in use, and not of the newest `keep`."""
    kept = set(sorted(stamps)[-keep:]) if keep else set()
    return [stamp for stamp in sorted(stamps) if stamp not in kept and stamp not in in_use]


def prune(folder: Folder, in_use: Collection[str], keep: int) -> list[str]:
    """Remove the snapshots that `prunable` names, and give their stamps.

    Each is renamed away first, so that nobody takes a half-removed one for whole; one that a killed
    run had begun with goes before. The caller holds the repository's lock. What `current` points at
    always stays.
    """
    remove_tree(folder.trash)
    newest = folder.newest()
    used = {*in_use, *([newest.name] if newest else [])}
    going = prunable(folder.stamps(), used, keep)
    for stamp in going:
        (folder.snapshots / stamp).rename(folder.trash)
        remove_tree(folder.trash)
        log.info("%s: snapshot %s removed", folder.path, stamp)
    return going
