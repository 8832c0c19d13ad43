"""The sync's first part: every repository brought up to date, and old snapshots let go."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.model import Repo
from headnode.errors import BusyError, MirrorError
from mirror import rsync_output, sets, status, tree
from mirror.guard import Waiver
from schedules.observer import Observer
from schedules.overlay import render_overlay
from schedules.site import Site

log = logging.getLogger(__name__)

# Where the id of a snapshot set stands that something was made from.
NAMING = (
    "binhost/*/generations/*/generation.json",
    "binhost/*/rings/*/deployments/*/generation.json",
    "build/*/result.json",
    "build/*/sources.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The newest snapshot of each repository, which of them are new, and which were not asked."""

    stamps: dict[str, str]
    changed: tuple[str, ...]
    skipped: tuple[str, ...]


def sync_trees(
    site: Site, *, now: datetime, watch: Observer, waived: Collection[Waiver], ask: bool
) -> Trees:
    """Sync every repository that is due, or all of them where `ask` is set.

    One that fails does not keep the others from being synced.

    Raises:
        MirrorError: naming each repository that failed; its old tree is still served.
        BusyError: another sync is running.
    """
    render_overlay(site, now=now)
    stamps: dict[str, str] = {}
    changed, skipped, failed = [], [], []
    for name, repo in site.cluster.mirror.repos.items():
        before = status.read_status(site.state, name)
        current = tree.current_snapshot(site.state, name)
        if current and not ask and not tree.due(before, repo, now):
            watch.say(
                f"{name} was synced {_hours(before, now):.1f} h ago, and is not asked for again "
                f"within {repo.min_interval_h:g} h (min_interval_h; --now asks)"
            )
            stamps[name] = current.stamp
            skipped.append(name)
            continue
        watch.say(f"Syncing {name} from {repo.origins[0]}")
        try:
            made = _sync(site, name, repo, now, watch, waived)
        except MirrorError as error:
            failed.append(error)
            continue
        stamps[name] = made.stamp
        changed += [name] if made.changed else []
    if failed:
        raise _together(failed)
    return Trees(stamps=stamps, changed=tuple(changed), skipped=tuple(skipped))


def _hours(before: status.Status, now: datetime) -> float:
    return (now - before.last_good).total_seconds() / 3600 if before.last_good else 0.0


def _sync(
    site: Site,
    name: str,
    repo: Repo,
    now: datetime,
    watch: Observer,
    waived: Collection[Waiver],
) -> tree.Snapshot:
    return tree.sync_repo(
        site.state,
        name,
        repo,
        now=now,
        waived=waived,
        root=site.cluster.build.root,
        on_progress=_watcher(name, watch),
    )


def _watcher(name: str, watch: Observer) -> Callable[[rsync_output.Progress], None]:
    def show(at: rsync_output.Progress) -> None:
        total = at.size_bytes * 100 / at.percent if at.percent else 0
        watch.amount(name, at.size_bytes, total, "B")

    return show


def _together(failed: list[MirrorError]) -> MirrorError:
    """One error of several, each in its own words, with the first one's remedy."""
    if len(failed) == 1:
        return failed[0]
    return MirrorError("".join(error.what for error in failed), remedy=failed[0].remedy)


def prune_trees(site: Site) -> None:
    """Remove old snapshots, but for those that a generation, a ring or a build was made from."""
    sets_in_use = in_use(site.state)
    if sets_in_use is None:
        return
    repos, keep = site.cluster.mirror.repos, site.cluster.mirror.keep_snapshots
    try:
        used = {name: sets.stamps_of(site.state, name, sets_in_use) for name in repos}
    except (MirrorError, OSError) as error:
        log.warning("no snapshot is removed, since it cannot be told what is in use: %s", error)
        return
    for name in repos:
        with contextlib.suppress(BusyError):  # then the sync that is under way does it
            tree.prune_repo(site.state, name, used[name], keep)
    sets.drop_broken(site.state)


def in_use(state: Path, going: Collection[Path] = ()) -> set[str] | None:
    """The snapshot sets that something was made from; None if it cannot be told for sure.

    What lies in the folders `going` does not count.
    """
    found: set[str] = set()
    for pattern in NAMING:
        for path in state.glob(pattern):
            if path.parent in going:
                continue
            try:
                found.add(str(json.loads(path.read_bytes())["snapshots"]))
            except FileNotFoundError:
                continue  # a clean-up went by
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s cannot be read, so no snapshot is removed: %s", path, error)
                return None
    return found
