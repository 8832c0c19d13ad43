"""Scope `full`: every distfile of every repository.

emirrordist works in a folder of its own, in which what is served appears as hard links; what it
brings becomes visible only after our own check of every digest. What it cannot have is then asked
of the mirrors.

::

    <state>/mirror/full/distfiles/     emirrordist's --distfiles, our layout
    <state>/mirror/full/scratch/       of the run
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.model import Distfiles
from headnode.files import locked, remove_tree, write_atomic
from mirror import emirrordist, lookup
from mirror.catalogue import TreeSet
from mirror.claims import Reasons, claimed
from mirror.disk import writing_to
from mirror.distfiles import bring, tally_of
from mirror.fetcher import Fetcher, NotHadError
from mirror.layout import LAYOUT_CONF, path_of
from mirror.progress import OnProgress
from mirror.store import Store, files_below, mismatch, put_in_place

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullReport:
    """What a run over whole repositories did, by file name.

    `failed` has each address with why; that some files of a tree cannot be had anywhere is usual.
    """

    fetched: tuple[str, ...] = ()
    failed: Mapping[str, Reasons] = field(default_factory=dict)


def mirror_all(
    state: Path,
    tree: TreeSet,
    options: Distfiles,
    *,
    on_progress: OnProgress = lambda progress: None,
) -> FullReport:
    """Bring every file that the repositories of `tree` name and a mirror may have.

    `on_progress` is told of what is asked of the mirrors after emirrordist.

    Raises:
        MirrorError: emirrordist itself failed, or the disk is full.
        CommandError: it took longer than `full_timeout_s`; what came stays for the next run.
        BusyError: another run is at work.
        EnvironmentLacksError: there is no wget.
    """
    store = Store(state)
    own, scratch = state / "mirror" / "full" / "distfiles", state / "mirror" / "full" / "scratch"
    with writing_to(store.folder), locked(own.parent / "lock", "a full mirror run"):
        store.prepare()
        write_atomic(own / "layout.conf", LAYOUT_CONF)
        before = files_below(store.folder)[0].keys()
        _publish(store, tree, own)  # what a killed run brought
        _mirror_served(store, own)
        failures: dict[str, str] = {}
        try:
            for repo in tree:
                failures |= _run(repo, tree, own, scratch, options)
        finally:
            failures |= _publish(store, tree, own)
            remove_tree(scratch)
        failed = _ask_mirrors(store, tree, options, failures, on_progress)
        after = files_below(store.folder)[0].keys()
    return FullReport(fetched=tuple(sorted(after - before)), failed=failed)


def leave(state: Path) -> None:
    """Drop emirrordist's folder, whose links would keep what is recycled: the scope is another."""
    remove_tree(state / "mirror" / "full")


def _run(repo: str, tree: TreeSet, own: Path, scratch: Path, options: Distfiles) -> dict[str, str]:
    """Run emirrordist for one repository; give each file that it could not have, with why."""
    remove_tree(scratch)
    scratch.mkdir(parents=True)
    failures = emirrordist.mirror_repo(
        repo,
        tree,
        distfiles=own,
        scratch=scratch,
        jobs=options.parallel,
        tries=options.tries,
        timeout_s=options.full_timeout_s,
    )
    for each in failures:
        log.warning("emirrordist: %s: %s %s", each.cpv, each.filename, each.why)
    return {each.filename: each.why for each in failures if each.filename}


def _publish(store: Store, tree: TreeSet, own: Path) -> dict[str, str]:
    """Make visible what is new in `own`; drop what is not wanted or wrong, and say how it is."""
    wrong: dict[str, str] = {}
    for name, path in files_below(own)[0].items():
        with claimed(store.claim(name)):
            if store.place(name).exists():
                continue
            wanted = lookup.find(store.state, [tree], name)
            why = mismatch(path, wanted.size_bytes, wanted.digests) if wanted else ""
            if why:
                wrong[name] = why
            if wanted is None or why:
                path.unlink()
                continue
            partial = store.partials / name
            partial.unlink(missing_ok=True)
            os.link(path, partial)
            put_in_place(partial, store.place(name))
    return wrong


def _mirror_served(store: Store, own: Path) -> None:
    """Have `own` hold exactly what is served, as hard links."""
    served = files_below(store.folder)[0]
    for name, path in files_below(own)[0].items():
        if name not in served or not path.samefile(served[name]):
            path.unlink()
    for name, path in served.items():
        target = own / path_of(name)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            os.link(path, target)


def _ask_mirrors(
    store: Store,
    tree: TreeSet,
    options: Distfiles,
    failures: Mapping[str, str],
    on_progress: OnProgress,
) -> dict[str, Reasons]:
    """Fetch what emirrordist could not; give what nobody has, each address with why."""
    found = [lookup.find(store.state, [tree], name) for name in sorted(failures)]
    wanted = [each for each in found if each and not each.by_hand]
    tally = tally_of(wanted, on_progress)
    fetcher = Fetcher(store, options, on_position=tally.at)
    outcomes = bring(fetcher, wanted, tally)
    return {
        name: (("emirrordist", failures[name]), *outcome.reasons)
        for name, outcome in outcomes.items()
        if isinstance(outcome, NotHadError)
    }
