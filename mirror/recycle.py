"""The recycle bin: a file that no tree in use names is no longer served, and kept for a while.

Trees in use are the newest and those of all kept generations, so a blade that builds from an older
generation's tree still finds its sources. What a tree names again comes back without a download.

A file's age in the bin is its mtime, set when it goes there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headnode.files import is_regular, sync_folder
from mirror import lookup, validators
from mirror.catalogue import TreeSet
from mirror.claims import claimed
from mirror.disk import writing_to
from mirror.layout import is_file_name, path_of
from mirror.store import Store, files_below

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecyclePlan:
    """File names by what is done with them: into the bin, back out of it, removed from it."""

    drop: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def plan_recycle(
    *,
    present: Collection[str],
    recycled: Mapping[str, datetime],
    named: Container[str],
    now: datetime,
    keep: timedelta,
) -> RecyclePlan:
    """Say what goes where. Pure.

    `present` are the files that are served, `recycled` those in the bin and since when, `named`
    those that a tree in use names.
    """
    over = {name for name, since in recycled.items() if name not in named and now - since >= keep}
    return RecyclePlan(
        drop=tuple(sorted(name for name in present if name not in named)),
        back=tuple(sorted(name for name in recycled if name in named and name not in present)),
        remove=tuple(sorted(over)),
    )


def recycle(
    state: Path, trees: Sequence[TreeSet], *, now: datetime, keep: timedelta
) -> RecyclePlan:
    """Bring the distfiles and the bin in line with `trees`, all that are in use, newest first.

    Give what was done. Without a tree nothing is known, and nothing done. What lay in the bin or in
    quarantine for `keep` is removed.

    Raises:
        MirrorError: the disk is full or broken.
    """
    if not trees:
        return RecyclePlan()
    store = Store(state)
    with writing_to(store.folder):
        present, recycled = files_below(store.folder)[0], files_below(store.recycled)[0]
        plan = plan_recycle(
            present=present.keys(),
            recycled={name: _since(path) for name, path in recycled.items()},
            named=lookup.named(state, trees, {*present, *recycled}),
            now=now,
            keep=keep,
        )
        back = tuple(name for name in plan.back if _back(store, trees, name))
        for name in plan.drop:
            _drop(store, name, now)
        removed = (*plan.remove, *(plan.drop if not keep else ()))
        for name in removed:
            _remove(store.recycled, name)
        for name, path in files_below(store.quarantine)[0].items():
            if now - _since(path) >= keep:
                _remove(store.quarantine, name)
        _drop_partials(state, trees, store, now - keep)
    return RecyclePlan(drop=plan.drop, back=back, remove=removed)


def _drop_partials(state: Path, trees: Sequence[TreeSet], store: Store, before: datetime) -> None:
    """Remove what was not fetched to its end, has not grown since `before`, and no tree names."""
    names = {path.name for path in store.partials.glob("*") if is_file_name(path.name)}
    for name in names - lookup.named(state, trees, names):
        path = store.partials / name
        with claimed(store.claim(name)):  # whoever fetches it just now comes first
            if is_regular(path) and _since(path) < before:
                path.unlink()
                validators.forget(path)


def put_aside(path: Path, target: Path, now: datetime) -> None:
    """Move a file out of what is served; its time there counts from `now`."""
    os.utime(path, (now.timestamp(), now.timestamp()))
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    sync_folder(target.parent)


def _since(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _drop(store: Store, name: str, now: datetime) -> None:
    log.info("%s: no tree in use names it any more", name)
    put_aside(store.place(name), store.recycled / path_of(name), now)


def _back(store: Store, trees: Sequence[TreeSet], name: str) -> bool:
    """Bring a file back, if it is what the trees say; what is not is left for the term."""
    wanted = lookup.find(store.state, trees, name)
    if wanted is None:
        return False
    store.prepare()
    with claimed(store.claim(name)):
        return store.restore(wanted)


def _remove(folder: Path, name: str) -> None:
    (folder / path_of(name)).unlink(missing_ok=True)
