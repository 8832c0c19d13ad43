"""A sync: a repository brought up to upstream beside the served tree, and put in front of it.

Refused: an upstream that does not hold the repository it should, a partial transfer, a tree that
went back, lost too much or is not what its Manifests say, two syncs of one repository at once.
Whatever fails, `current` still points at the last good snapshot.

What a killed sync left in staging is carried on with: whole files stay. rsync's `--partial-dir`
would save the one file that was cut, and those of a tree are a few kilobytes.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

from config.model import Repo
from headnode.errors import HeadnodeError, MirrorError
from headnode.files import locked, remove_tree
from headnode.node.running import start_time
from mirror import rsync, status
from mirror.disk import writing_to
from mirror.git import Clone
from mirror.guard import TreeError, Waiver
from mirror.origins import Got, OnProgress, Sync, from_upstream
from mirror.retry import Uniform, pauses
from mirror.snapshots import (
    Folder,
    Snapshot,
    current_snapshot,
    make_served,
    next_stamp,
    prune,
    put_in_front,
    recover,
)
from mirror.status import Running, Status, Tried

__all__ = ["Folder", "Snapshot", "current_snapshot", "next_stamp", "prune_repo", "sync_repo"]

log = logging.getLogger(__name__)

REMEDY = "Try again later, or name another upstream in cluster.toml ([mirror.repos])."
PROGRESS_S = 1.0


def sync_repo(
    state: Path,
    name: str,
    repo: Repo,
    *,
    now: datetime,
    waived: Collection[Waiver] = (),
    root: Path = Path("/"),
    on_progress: OnProgress = lambda progress: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    uniform: Uniform = random.uniform,
) -> Snapshot:
    """Bring the repository `name` up to the first of its upstreams that serves it.

    Without a change upstream the old snapshot is given back, `changed` unset. What a killed run
    left is carried on with or cleared. `waived` guards are let pass; `root` is what the node that
    reads ebuilds is laid over, where the metadata cache has to be made.

    Raises:
        MirrorError: no upstream served it; each is named with why. `current` is as it was.
        BusyError: another sync of it is running.
    """
    folder = Folder.of(state, name)
    with writing_to(folder.path):
        make_served(folder.snapshots, up_to=state)
        with locked(folder.path / "lock", f"the sync of {name}"):
            recover(folder)
            attempt = Attempt(state, name, repo, now, waived, root, on_progress, clock)
            try:
                with writing_to(folder.path):
                    upstream, got = attempt.first_that_serves(sleep, uniform)
                    if got.changed:
                        attempt.remember_cache(got)
                        put_in_front(folder, next_stamp(now, folder.stamps()))
                    _settle(folder, got)
            except HeadnodeError as error:
                attempt.record(failed=error.what.partition("\n")[0])
                raise
            finally:
                status.write_progress(state, name, None)
            attempt.record(got=got)
    newest = folder.newest()
    assert newest is not None  # noqa: S101 (without one, every transfer is a change)
    log.info("%s: %s %s from %s", name, "new" if got.changed else "still", newest.name, upstream)
    return Snapshot(
        repo=name, stamp=newest.name, path=newest, changed=got.changed, upstream=upstream
    )


def due(before: Status, repo: Repo, now: datetime) -> bool:
    """Whether upstreams may be asked again. Pure.

    Gentoo's servers greet with the rule of one sync a day and shut out who does not keep it for a
    while; its etiquette says one or two. Only good syncs count, so that one that failed can be put
    right; a sync of one's own folder asks nobody. One that is still to come was noted by a
    clock that has been set back since, and counts for nothing.

    Source: the greeting of rsync.gentoo.org; Gentoo Forums, "Rsync etiquette" (topic 120831).
    """
    if repo.path is not None or before.last_good is None:
        return True
    since = now - before.last_good
    return not timedelta(0) <= since < timedelta(hours=repo.min_interval_h)


def prune_repo(state: Path, name: str, in_use: Collection[str], keep: int) -> list[str]:
    """Remove old snapshots of a repository, other than those `in_use` and the newest `keep`.

    Raises:
        BusyError: a sync of it is running.
    """
    folder = Folder.of(state, name)
    with writing_to(folder.path), locked(folder.path / "lock", f"the clean-up of {name}"):
        return prune(folder, in_use, keep)


def _settle(folder: Folder, got: Got) -> None:
    """Clear what the sync worked with, and remember the commit that is in front."""
    remove_tree(folder.staging)
    remove_tree(folder.head)
    if got.commit:
        Clone(folder=folder.path).mark_served(got.commit)


class Attempt:
    """One sync's rounds over its upstreams, and what is remembered of it."""

    def __init__(
        self,
        state: Path,
        name: str,
        repo: Repo,
        now: datetime,
        waived: Collection[Waiver],
        root: Path,
        on_progress: OnProgress,
        clock: Callable[[], float],
    ) -> None:
        self.state = state
        self.name = name
        self.repo = repo
        self.now = now
        self.clock = clock
        self.started = clock()
        self.before = status.read_status(state, name)
        self.tried = dict(self.before.upstreams)
        self.failures: dict[str, str] = {}
        self.upstream = ""
        self.reported = -PROGRESS_S
        self.on_progress = on_progress
        self.sync = Sync(
            name=name,
            repo=repo,
            state=state,
            before=self.before,
            waived=waived,
            others=_others(state, name),
            root=root,
            on_progress=self.progress,
            left_s=lambda: max(1.0, self.left_s()),
        )

    def left_s(self) -> float:
        """Seconds of the time that one sync may take that are left."""
        return self.repo.timeout_s - (self.clock() - self.started)

    def first_that_serves(
        self, sleep: Callable[[float], None], uniform: Uniform
    ) -> tuple[str, Got]:
        """Ask upstream after upstream, in rounds, until one serves the repository.

        Raises:
            MirrorError: none does, or it would be in vain: a full disk, our own mistake.
        """
        hopeful = list(self.repo.origins)
        for pause_s in pauses(self.repo.tries, uniform):
            if pause_s and (not hopeful or self.left_s() <= pause_s):
                break
            if pause_s:
                log.info("%s: trying again in %.1f s", self.name, pause_s)
                sleep(pause_s)
            for upstream in list(hopeful):
                if self.left_s() <= 0:
                    self.failures.setdefault(
                        upstream, f"not tried, the {self.repo.timeout_s:g} s (timeout_s) were over"
                    )
                    continue
                got, passing = self.ask(upstream)
                if got:
                    return upstream, got
                if not passing:
                    hopeful.remove(upstream)
        raise self.none_serves()

    def ask(self, upstream: str) -> tuple[Got | None, bool]:
        """Ask one upstream; without success, say whether it may pass."""
        self.upstream = upstream
        why, passing = "", False
        try:
            got = from_upstream(self.sync, upstream)
        except rsync.UpstreamError as error:
            log.warning("%s", error)
            if error.verdict is rsync.Verdict.FINAL:
                self.note(upstream, _on_one_line(error))
                raise
            why, passing = _on_one_line(error), not error.lasting
        except TreeError as error:
            log.warning("%s: %s", upstream, error)
            why, passing = error.why, error.passing
        else:
            self.note(upstream, "")
            return got, False
        self.note(upstream, why)
        self.failures[upstream] = why
        return None, passing

    def note(self, upstream: str, failed: str) -> None:
        """Remember how an upstream did."""
        known = self.tried.get(upstream)
        self.tried[upstream] = Tried(
            last_try=self.now,
            last_good=self.now if not failed else known.last_good if known else None,
            failed=failed,
        )

    def progress(self, at: rsync.Progress) -> None:
        """Hand the progress on, and keep it for `mirror status`, at most once a second."""
        self.on_progress(at)
        if self.clock() - self.reported < PROGRESS_S:
            return
        self.reported = self.clock()
        running = Running(
            upstream=self.upstream,
            size_bytes=at.size_bytes,
            percent=at.percent,
            rate_bps=at.rate_bps,
            eta_s=at.eta_s,
            pid=os.getpid(),
            started=start_time(os.getpid()) or 0,
        )
        status.write_progress(self.state, self.name, running)

    def none_serves(self) -> MirrorError:
        """The error that names every upstream with why it did not serve the repository."""
        newest = self.sync.newest
        kept = f"the tree of {newest.name} is still served" if newest else "there is no older tree"
        each = "".join(f"\n  {upstream}: {why}" for upstream, why in self.failures.items())
        return MirrorError(
            f"No upstream of {self.name} could be synced; {kept}.{each}\n", remedy=REMEDY
        )

    def remember_cache(self, got: Got) -> None:
        """Say whose the metadata cache is before a tree with it is in front.

        The other way round, a run killed in between would have the next one miss upstream's cache,
        and take each entry of ours for a file that is gone.
        """
        self.before = self.before.model_copy(update={"own_cache": got.own_cache})
        status.write_status(self.state, self.before)

    def record(self, *, got: Got | None = None, failed: str = "") -> None:
        """Keep what became of the sync."""
        changes: dict[str, object] = {
            "last_try": self.now,
            "failed": failed,
            "seconds": round(self.clock() - self.started, 3),
            "upstreams": {
                each: self.tried[each] for each in self.repo.origins if each in self.tried
            },
        }
        if got:
            changes |= {"last_good": self.now} | self._learnt(got)
        status.write_status(self.state, self.before.model_copy(update=changes))

    def _learnt(self, got: Got) -> dict[str, object]:
        learnt: dict[str, object] = {
            "seen_chk": got.head.chk,
            "seen_manifest": got.head.manifest,
            "received_bytes": got.stats.received_bytes if got.stats else 0,
        }
        if got.stats:
            learnt |= {"files": got.stats.files, "size_bytes": got.stats.total_bytes}
        if got.commit:
            learnt |= {
                "commit": got.commit,
                "committed": Clone(folder=self.sync.folder.path).time(got.commit),
            }
        return learnt


def _others(state: Path, name: str) -> dict[str, Path]:
    """The newest trees of the other repositories that were synced, by name."""
    known = sorted(path.name for path in (state / "mirror" / "repos").glob("*") if path.is_dir())
    newest = {other: Folder.of(state, other).newest() for other in known if other != name}
    return {other: path for other, path in newest.items() if path}


def _on_one_line(error: rsync.UpstreamError) -> str:
    """Why, and the first of rsync's own words, which name the file or the address.

    None where it was ended here: then it only says that it was.
    """
    said = error.tail.splitlines() if error.code is not None else []
    return f"{error.why}: {said[0]}" if said else error.why
