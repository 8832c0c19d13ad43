"""The distfiles of a site: which trees say what they must be, and what is done about them.

Trees in use are the newest synced ones, those of the deployments that rings have, and those of all
kept generations.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from config.model import Scope
from headnode.errors import HeadnodeError, MirrorError
from mirror import audit, by_hand, full, tree
from mirror.audit import Audit
from mirror.catalogue import TreeSet
from mirror.full import FullReport
from mirror.layout import is_file_name
from mirror.progress import OnProgress, Progress
from mirror.pull_through import PullThrough
from mirror.recycle import RecyclePlan, recycle
from mirror.store import Store
from schedules.observer import Observer
from schedules.site import Site

log = logging.getLogger(__name__)


def newest_tree(site: Site) -> TreeSet:
    """The newest snapshot of each repository that was ever synced."""
    found = (tree.current_snapshot(site.state, name) for name in site.cluster.mirror.repos)
    return {each.repo: each.path for each in found if each}


def trees_served(site: Site) -> list[TreeSet]:
    """The trees that somebody may build from now: the newest, then those that rings have.

    Raises:
        MirrorError, PublishError: the record of a deployment or a set is gone or damaged.
    """
    return _without_doubles([newest_tree(site), *_of_sets(site, _deployed(site))])


def trees_in_use(site: Site) -> list[TreeSet]:
    """The trees that are served, and those of every kept generation.

    Raises:
        MirrorError, PublishError: a record is gone or damaged.
    """
    return _without_doubles([*trees_served(site), *_of_sets(site, _generated(site))])


def _deployed(site: Site) -> Iterator[str]:
    for name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            current = site.binhost(name).ring(ring).current()
            if current:
                yield current.snapshots


def _generated(site: Site) -> Iterator[str]:
    for name in site.cluster.classes:
        generations = site.binhost(name).generations
        for number in reversed(generations.numbers()):
            yield generations.read(number).snapshots


def _of_sets(site: Site, set_ids: Iterable[str]) -> Iterator[TreeSet]:
    """The snapshots of sets that are still there: nobody builds from one that is not."""
    for set_id in dict.fromkeys(set_ids):
        yield {name: path for name, path in site.repos_of(set_id).items() if path.is_dir()}


def _without_doubles(trees: Iterable[TreeSet]) -> list[TreeSet]:
    found: list[TreeSet] = []
    for each in trees:
        if each and each not in found:
            found.append(each)
    return found


class OnDemand:
    """Fetches the distfiles that blades ask for and the mirror lacks: one for each process.

    This is what the HTTP server is given, made after it forked, and closed when it stops.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        options = site.cluster.mirror.distfiles
        self._puller = PullThrough(site.state, options, lambda: trees_served(site))

    def fetch_missing(self, path: Path) -> bool:
        """Have `path`, which was asked for and is not there, fetched; give whether it is there now.

        Waits for the download, and never raises for what a client asked: the log says why.
        """
        if not is_file_name(path.name) or path != Store(self._site.state).place(path.name):
            return False
        try:
            self._site.require_space()
            return self._puller.fetch(path.name) is not None
        except HeadnodeError as error:
            log.warning("%s", error)
            return False

    def close(self) -> None:
        """End what is on its way; the next who asks carries on with it."""
        self._puller.close()


def mirror_all_once(site: Site, watch: Observer) -> FullReport | None:
    """With scope `full`, bring every file of the newest trees; None with another scope.

    Raises:
        MirrorError, CommandError, BusyError, EnvironmentLacksError.
    """
    options = site.cluster.mirror.distfiles
    if options.scope is not Scope.FULL:
        full.leave(site.state)
        return None
    watch.say("Fetching every distfile of the trees (emirrordist)")
    return full.mirror_all(
        site.state, newest_tree(site), options, on_progress=watcher("distfiles", watch)
    )


def recycle_once(site: Site, *, now: datetime) -> RecyclePlan:
    """Recycle what no tree in use names. What is in use must be known for sure, else nothing is.

    Raises:
        MirrorError: the disk is full or broken.
    """
    try:
        trees = trees_in_use(site)
    except HeadnodeError as error:
        log.warning("No distfile is recycled, since the trees in use are not known: %s", error)
        return RecyclePlan()
    keep = timedelta(days=site.cluster.mirror.distfiles.recycle_days)
    return recycle(site.state, trees, now=now, keep=keep)


def verify_once(site: Site, *, now: datetime, watch: Observer) -> Audit:
    """Read every distfile again, and repair what is damaged.

    Raises:
        MirrorError: nothing was synced yet, or the disk is full or broken.
    """
    watch.say("Reading every distfile")
    return audit.verify(
        site.state,
        _some(trees_in_use(site)),
        site.cluster.mirror.distfiles,
        now=now,
        on_read=watcher("reading", watch),
        on_fetched=watcher("distfiles", watch),
    )


def add_once(site: Site, files: Sequence[Path]) -> tuple[str, ...]:
    """Put files that a person fetched in place; give their names.

    Raises:
        MirrorError: one is not what the trees want; then none is put in place.
    """
    return by_hand.add(site.state, _some(trees_in_use(site)), files)


def _some(trees: list[TreeSet]) -> list[TreeSet]:
    if not trees:
        raise MirrorError("No tree was synced yet.", remedy="Run headnode mirror sync.")
    return trees


def watcher(what: str, watch: Observer) -> OnProgress:
    """Tell `watch` how far the work on files is, as `what`."""

    def show(at: Progress) -> None:
        watch.amount(what, at.size_bytes, at.size_bytes_total, "B")

    return show
