"""Looking after what was published: what differs between generations, and what may go."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from binhost.diff import Difference, State, compare
from binhost.gc import Plan, Policy, gc
from binhost.reasons import EbuildChanged
from binhost.records import Generation
from blades.inventory import all_blades
from headnode.errors import BusyError, MirrorError, PublishError
from headnode.files import locked
from mirror.image import prune_images
from mirror.sets import read_set
from schedules.observer import Observer, Silent
from schedules.site import Site
from schedules.trees import in_use

log = logging.getLogger(__name__)
SILENT = Silent()


def diff_once(
    site: Site, class_name: str, old: str | None, new: str | None, ring: str | None
) -> Difference:
    """What lies between two generations (number or tag).

    `new` is the newest unless named; `old` what `ring` has if that is named, else the one before
    the newest.

    Raises:
        ConfigError: there is no such ring.
        PublishError: there is no such generation.
    """
    before, after = _both(site, class_name, old, new, ring)
    one = _state(site, class_name, before) if before else None
    two = _state(site, class_name, after)
    if one and not (one.stamps and two.stamps):
        # A set that the mirror no longer has is only known by its name.
        one, two = (_by_set(each) for each in (one, two))
    changed = (
        _ebuilds(site, before.snapshots, after.snapshots) if before else lambda cpv, repo: None
    )
    return compare(one, two, changed)


def _both(
    site: Site, class_name: str, old: str | None, new: str | None, ring: str | None
) -> tuple[Generation | None, Generation]:
    binhost = site.binhost(class_name)
    known, newest = binhost.generations, binhost.generations.latest()
    if ring is not None:
        current = binhost.ring(site.ring(class_name, ring)).current()
        before = known.read(current.generation) if current else None
    elif old is not None:
        before = known.find(old)
    else:
        numbers = known.numbers()
        before = known.read(numbers[-2]) if len(numbers) > 1 else None
    if newest is None:
        raise PublishError("There is no generation yet.", remedy="headnode publish makes one.")
    return before, known.find(new) if new is not None else newest


def _state(site: Site, class_name: str, generation: Generation) -> State:
    entries = site.binhost(class_name).generations.entries(generation)
    return State(generation=generation, entries=entries, stamps=stamps_of(site, generation))


def stamps_of(site: Site, generation: Generation) -> Mapping[str, str]:
    """The snapshot of each repository that a generation was built from; none if they are gone."""
    try:
        return read_set(site.state, generation.snapshots)
    except MirrorError:
        return {}


def _by_set(state: State) -> State:
    stamps = {"snapshot set": state.generation.snapshots}
    return State(generation=state.generation, entries=state.entries, stamps=stamps)


def _ebuilds(site: Site, old: str, new: str) -> EbuildChanged:
    """Whether an ebuild's text differs between two snapshot sets."""

    def text(set_id: str, cpv: str, repo: str) -> bytes | None:
        try:
            return _ebuild(site.repos_of(set_id)[repo], cpv).read_bytes()
        except (MirrorError, KeyError, OSError):
            return None

    def changed(cpv: str, repo: str) -> bool | None:
        one, two = (text(each, cpv, repo) for each in (old, new))
        return None if one is None or two is None else one != two

    return changed


def _ebuild(repo: Path, cpv: str) -> Path:
    from portage.versions import cpv_getkey

    return repo / str(cpv_getkey(cpv)) / f"{cpv.partition('/')[2]}.ebuild"


def gc_once(
    site: Site,
    class_name: str,
    *,
    now: datetime,
    dry_run: bool = False,
    watch: Observer = SILENT,
) -> Plan:
    """Delete what nothing needs any more, by the policy of cluster.toml; images of trees as well.

    Raises:
        BusyError: a publish or a build is at work.
        PublishError, LedgerError: a record is damaged, so that it cannot be told what is needed.
    """
    options, binhost = site.cluster.binhost, site.binhost(class_name)
    policy = Policy(
        newest=options.keep_generations,
        grace=timedelta(days=options.keep_days),
        reported=frozenset(reported(site, class_name).values()),
    )
    plan = gc(
        binhost,
        policy,
        now=now,
        dry_run=dry_run,
        on_progress=lambda done, total: watch.amount("gc", done, total, "packages"),
    )
    images = _prune_images(site, plan.folders(binhost), dry_run=dry_run)
    return replace(plan, images=images)


def reported(site: Site, class_name: str) -> dict[str, int]:
    """The blades of a class that were heard of, with the generation that each said it has.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    from schedules.ledger.ledger import Ledger  # here: a diff needs no database

    names = {blade.name for blade in all_blades(site.cluster) if blade.class_name == class_name}
    with Ledger.of(site) as ledger:
        known = ledger.blades().items()
        return {name: each.generation for name, each in known if name in names and each.generation}


def _prune_images(site: Site, going: Collection[Path], *, dry_run: bool) -> Mapping[str, int]:
    """Delete the images of trees that nothing was made from; none while a publish may make one."""
    with ExitStack() as held:
        try:
            for name in site.cluster.classes:
                held.enter_context(locked(site.binhost(name).lock, "headnode generations gc"))
        except BusyError as error:
            log.info("No image of trees is removed: %s", error.what)
            return {}
        sets_in_use = in_use(site.state, going)
        if sets_in_use is None:
            return {}
        return prune_images(site.state, sets_in_use, dry_run=dry_run)
