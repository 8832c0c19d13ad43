"""The cycle, step by step: sync, build. Each step is a plain function that does it once.

The last step, to publish, is in `schedules.moving`. A step that finds nothing changed does nothing,
so the whole cycle run twice is the cycle run once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from binhost import build as build_step
from binhost import builder
from binhost.build import configuration_of
from binhost.builder import Workshop
from binhost.emerge import completed
from binhost.records import BuildResult, Configuration, Record, read, save
from binhost.revisions import Shelf
from config.load import atoms_of
from headnode.errors import MirrorError, PublishError
from headnode.files import locked
from mirror import distfiles, sets, tree
from mirror.guard import Waiver
from mirror.wanted import Package, plan
from schedules import distfiles as site_distfiles
from schedules.helpers import helpers_of
from schedules.observer import Observer
from schedules.site import Site
from schedules.trees import prune_trees, sync_trees


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a sync came to: the snapshot set, which repositories moved, and the distfiles.

    `skipped` repositories were not asked, since they were a short while ago. `recycled` are no
    longer served, `not_mirrored` (scope `full`) nobody could be had from.
    """

    snapshots: str
    changed: tuple[str, ...]
    skipped: tuple[str, ...]
    fetched: tuple[str, ...]
    present: int
    by_hand: tuple[str, ...]
    recycled: tuple[str, ...] = ()
    not_mirrored: tuple[str, ...] = ()


class Sources(Record):
    """Which packages a class builds from, in a snapshot set: what `mirror sync` worked out."""

    snapshots: str
    configuration: Configuration
    packages: tuple[tuple[str, str], ...]


def sync_once(
    site: Site,
    *,
    now: datetime,
    watch: Observer,
    waived: Collection[Waiver] = (),
    ask: bool = False,
) -> Synced:
    """Sync every repository, and fetch the distfiles of what the sets need.

    `waived` guards are let pass; `ask` asks upstreams that were asked a short while ago, too.

    Raises:
        MirrorError: a repository or a distfile could not be had; what was served still is.
        BuildError: a set cannot be resolved in the new tree.
    """
    site.require_space()
    trees = sync_trees(site, now=now, watch=watch, waived=waived, ask=ask)
    snapshots = sets.write_set(site.state, trees.stamps)
    prune_trees(site)
    packages = {
        package
        for class_name in site.cluster.classes
        for package in _sources(site, class_name, snapshots, watch)
    }
    wanted = plan(
        site.repos_of(snapshots), [Package(cpv=cpv, repo=repo) for cpv, repo in sorted(packages)]
    )
    got = distfiles.fetch(
        site.state,
        wanted,
        site.cluster.mirror.distfiles,
        on_progress=site_distfiles.watcher("distfiles", watch),
    )
    whole = site_distfiles.mirror_all_once(site, watch)
    aside = site_distfiles.recycle_once(site, now=now)
    return Synced(
        snapshots=snapshots,
        changed=trees.changed,
        skipped=trees.skipped,
        fetched=(*got.fetched, *(whole.fetched if whole else ())),
        present=len(got.present) + len(got.recycled),
        by_hand=got.by_hand,
        recycled=aside.drop,
        not_mirrored=tuple(whole.failed) if whole else (),
    )


def _sources(
    site: Site, class_name: str, snapshots: str, watch: Observer
) -> tuple[tuple[str, str], ...]:
    shop = site.workshop(class_name, snapshots)
    kept = shop.folder / "sources.json"
    known = _read_sources(kept)
    if known and known.snapshots == snapshots and known.configuration == configuration_of(shop):
        return known.packages
    watch.say(f"Resolving what class {class_name} needs")
    found = _resolve(shop, snapshots, _sources_that_are_gone(site, class_name, shop))
    save(kept, found)
    return found.packages


def _read_sources(path: Path) -> Sources | None:
    try:
        return read(path, Sources)
    except PublishError:
        return None


def _sources_that_are_gone(site: Site, class_name: str, shop: Workshop) -> tuple[str, ...]:
    """The package of sources that the class's kernel was made from, if the trees dropped it.

    That kernel has its package, and stays what blades boot until somebody builds another.
    """
    flavour = site.cluster.classes[class_name].kernel
    revision = Shelf.of(site.state, flavour).kept().present if flavour else None
    cpv = revision.sources_atom.lstrip("=") if revision else ""
    return (cpv,) if cpv and not builder.has_ebuild(shop, cpv) else ()


def _resolve(shop: Workshop, snapshots: str, provided: tuple[str, ...]) -> Sources:
    with locked(shop.folder / ".lock", "headnode mirror sync"), builder.running(shop) as node:
        steps = builder.sources(node, provided)
    return Sources(
        snapshots=snapshots,
        configuration=configuration_of(shop),
        packages=tuple((step.cpv, step.repo) for step in steps),
    )


def newest_set(site: Site) -> str:
    """The snapshot set of what was synced last.

    Raises:
        MirrorError: a repository was never synced.
    """
    stamps = {}
    for name in site.cluster.mirror.repos:
        snapshot = tree.current_snapshot(site.state, name)
        if snapshot is None:
            raise MirrorError(
                f"The repository {name} was never synced.", remedy="Run headnode mirror sync."
            )
        stamps[name] = snapshot.stamp
    return sets.write_set(site.state, stamps)


def build_once(
    site: Site,
    class_name: str,
    *,
    fresh: bool = False,
    snapshots: str | None = None,
    watch: Observer,
) -> BuildResult:
    """Build what a class needs and its pool lacks, from a snapshot set (None: the newest trees).

    Raises:
        BuildError, MirrorError, BusyError.
    """
    site.require_space()
    newest = snapshots is None
    snapshots = snapshots or newest_set(site)
    shop = site.workshop(class_name, snapshots)

    there: set[int] = set()

    def report(line: str) -> None:
        watch.say(line)
        if far := completed(line):
            number, total = far
            if number in there:  # another emerge, which counts anew
                there.clear()
            there.add(number)
            watch.amount("build", len(there), total, "packages")

    with locked(shop.folder / ".lock", "headnode build"):
        result = build_step.build(
            shop,
            class_name=class_name,
            snapshots=snapshots,
            atoms=atoms_of(site.klass(class_name)),
            jobs=site.jobs,
            timeout_s=site.cluster.build.timeout_s,
            fresh=fresh,
            helpers=helpers_of(site, class_name),
            report=report,
        )
        if newest:  # a patch is built from the trees of its ring, and the night's packages wait
            build_step.drop_outdated(shop, result.packages)
        return result
