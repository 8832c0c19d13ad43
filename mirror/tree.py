"""Snapshots of repositories: synced beside the served one, checked, put in front by one rename.

Refused: an upstream that does not hold the repository it should, a partial transfer, two syncs of
one repository at once. Whatever fails, `current` still points at the last good snapshot.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from config.model import Repo
from headnode.errors import MirrorError
from headnode.files import locked, point_symlink, remove_tree, sync_folder
from mirror import rsync
from mirror.disk import writing_to

log = logging.getLogger(__name__)

STAMP = "%Y%m%dT%H%M%SZ"
REMEDY = "Try again later, or name another upstream in cluster.toml ([mirror.repos])."

OnProgress = Callable[[rsync.Progress], None]


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
        """The snapshots there are, oldest first."""
        return sorted(path.name for path in self.snapshots.iterdir())


def current_snapshot(state: Path, name: str) -> Snapshot | None:
    """Give the newest checked tree of the repository `name`, or None if it was never synced."""
    newest = Folder.of(state, name).newest()
    return Snapshot(repo=name, stamp=newest.name, path=newest) if newest else None


def sync_repo(
    state: Path,
    name: str,
    repo: Repo,
    *,
    now: datetime,
    on_progress: OnProgress = lambda progress: None,
) -> Snapshot:
    """Bring the repository `name` up to the first of its upstreams that serves it.

    Without a change upstream the old snapshot is given back, `changed` unset. What a killed run
    left is carried on with or cleared.

    Raises:
        MirrorError: no upstream served it; each is named with why. `current` is as it was.
        BusyError: another sync of it is running.
    """
    folder = Folder.of(state, name)
    with writing_to(folder.path):
        _make_served(folder.snapshots, up_to=state)
        with locked(folder.path / "lock", f"the sync of {name}"):
            _recover(folder)
            upstream, changed = _first_that_serves(folder, name, repo, on_progress)
            if changed:
                _put_in_front(folder, next_stamp(now, folder.stamps()))
            remove_tree(folder.staging)
    newest = folder.newest()
    assert newest is not None  # noqa: S101 (without one, every transfer is a change)
    log.info("%s: %s %s from %s", name, "new" if changed else "still", newest.name, upstream)
    return Snapshot(repo=name, stamp=newest.name, path=newest, changed=changed, upstream=upstream)


def next_stamp(now: datetime, taken: list[str]) -> str:
    """Name a snapshot made `now`: later than all that are `taken`, even twice in one second.

    A clock that was set back must not make the new tree look older than the one before.
    """
    newest = max(taken, default="")
    if now.astimezone(UTC).strftime(STAMP) > newest:
        return now.astimezone(UTC).strftime(STAMP)
    return (datetime.strptime(newest, STAMP) + timedelta(seconds=1)).strftime(STAMP)


def check_repo(path: Path, name: str) -> None:
    """Check that `path` holds the Gentoo repository `name`, and not half of it.

    Raises:
        MirrorError: saying which file is not as it must be.
    """
    named = path / "profiles" / "repo_name"
    if not (path / "profiles").is_dir():
        raise MirrorError("it has no profiles/")
    if not named.is_file():
        raise MirrorError("it has no profiles/repo_name")
    found = named.read_text(errors="replace").strip()
    if found != name:
        raise MirrorError(f"its profiles/repo_name says {found!r}, not {name!r}")
    if not (path / "metadata" / "layout.conf").is_file():
        raise MirrorError("it has no metadata/layout.conf")
    if next(path.glob("*/*/*.ebuild"), None) is None:
        raise MirrorError("it has not one ebuild")


def _first_that_serves(
    folder: Folder, name: str, repo: Repo, on_progress: OnProgress
) -> tuple[str, bool]:
    """Fill staging from the first upstream that can; give which, and whether anything changed."""
    deadline = time.monotonic() + repo.timeout_s
    failures: dict[str, str] = {}
    for upstream in repo.upstreams:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            failures[upstream] = f"not tried, the {repo.timeout_s:g} s (timeout_s) were over"
            continue
        try:
            return upstream, _from_upstream(folder, name, repo, upstream, left_s, on_progress)
        except rsync.UpstreamError as error:
            log.warning("%s", error)
            if error.verdict is rsync.Verdict.FINAL:
                raise
            failures[upstream] = _on_one_line(error)
        except MirrorError as error:
            log.warning("%s: %s", upstream, error)
            failures[upstream] = f"it does not hold the repository: {error}"
    raise _none_serves(folder, name, failures)


def _on_one_line(error: rsync.UpstreamError) -> str:
    """Why, and the first of rsync's own words, which name the file or the address."""
    said = error.tail.splitlines()
    return f"{error.why}: {said[0]}" if said else error.why


def _none_serves(folder: Folder, name: str, failures: dict[str, str]) -> MirrorError:
    newest = folder.newest()
    kept = f"the tree of {newest.name} is still served" if newest else "there is no older tree"
    each = "".join(f"\n  {upstream}: {why}" for upstream, why in failures.items())
    return MirrorError(f"No upstream of {name} could be synced; {kept}.{each}\n", remedy=REMEDY)


def _from_upstream(
    folder: Folder, name: str, repo: Repo, upstream: str, left_s: float, on_progress: OnProgress
) -> bool:
    """Fill staging from one upstream and check it; False if nothing changed since `current`.

    The dry run first makes a night without a change cost one comparison: the hard links that
    would then be thrown away are most of the work. With --link-dest alone a deletion would not
    be seen either.
    """
    started = time.monotonic()
    newest = folder.newest()
    if newest:
        dry = rsync.fetch(upstream, newest, stall_s=repo.stall_s, timeout_s=left_s, dry_run=True)
        if not dry.changes:
            return False
    _make_served(folder.staging, up_to=folder.path)
    rsync.fetch(
        upstream,
        folder.staging,
        link_dest=newest,
        stall_s=repo.stall_s,
        timeout_s=max(1.0, left_s - (time.monotonic() - started)),
        on_progress=on_progress,
    )
    check_repo(folder.staging, name)
    return True


def _put_in_front(folder: Folder, stamp: str) -> None:
    """Make staging the snapshot `stamp`, and `current` point at it.

    sync(2) first: else a power cut could leave the names without the contents.
    """
    os.sync()
    folder.staging.rename(folder.snapshots / stamp)
    sync_folder(folder.snapshots)
    point_symlink(folder.current, Path("snapshots") / stamp)


def _recover(folder: Folder) -> None:
    """Finish what a killed run began: a checked snapshot that `current` does not point at yet."""
    for half_made in folder.path.glob(".current.*"):
        half_made.unlink()
    newest, stamps = folder.newest(), folder.stamps()
    if stamps and (newest is None or newest.name < stamps[-1]):
        log.warning("%s: finishing the flip of a killed run to %s", folder.path, stamps[-1])
        point_symlink(folder.current, Path("snapshots") / stamps[-1])


def _make_served(path: Path, *, up_to: Path) -> None:
    """Make `path` and its parents below `up_to`, readable by everyone whatever the umask."""
    up_to.mkdir(parents=True, exist_ok=True)
    for each in [*reversed(path.relative_to(up_to).parents[:-1]), path.relative_to(up_to)]:
        (up_to / each).mkdir(exist_ok=True)
        (up_to / each).chmod(0o755)
