"""How staging is filled from one upstream: rsync, git, or a folder of this machine.

The steps are the same for all: is there anything new (the tree's head, a commit), what would change
(a dry run, which costs one comparison of the two trees, where --link-dest would make 150,000 links
to throw away), is that plausible (`guard`), copy, check.

Only for rsync does the first step ask the network, and it spares the second on most nights: an
equal stamp is an equal tree. The second also finds what --link-dest would not: files that are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.model import Repo
from headnode.files import remove_tree
from mirror import heads, manifests, md5cache, rsync
from mirror.git import SERVED, Clone, is_git
from mirror.guard import TreeError, Waiver, check_age, check_deletions, check_descent
from mirror.heads import Head, News
from mirror.rsync_exit import RsyncExit
from mirror.snapshots import Folder, make_served
from mirror.status import Status
from mirror.verify_tree import check_repo

log = logging.getLogger(__name__)

OnProgress = Callable[[rsync.Progress], None]
# rsync's patterns for the two small files that say whether there is anything new.
HEAD_ONLY = ("/metadata/", f"/{heads.CHK}", f"/{heads.MANIFEST}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """One sync of one repository: what it works on, what is known before, what is allowed.

    `others` are the trees of other repositories, whose eclasses this one may use; `root` is what
    the node that reads ebuilds is laid over; `left_s` gives the seconds that are left for it all.
    """

    name: str
    repo: Repo
    state: Path
    before: Status
    waived: Collection[Waiver]
    others: Mapping[str, Path]
    root: Path
    on_progress: OnProgress
    left_s: Callable[[], float]

    @property
    def folder(self) -> Folder:
        """Where its trees lie."""
        return Folder.of(self.state, self.name)

    @property
    def newest(self) -> Path | None:
        """The tree that is served now."""
        return self.folder.newest()

    @property
    def exclude(self) -> tuple[str, ...]:
        """What is not taken from upstream."""
        own = (f"/{md5cache.CACHE}",) if self.before.own_cache else ()
        return (*rsync.NOT_THE_TREE, *own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """What an upstream had: whether staging holds a new tree, and what was learnt otherwise."""

    changed: bool
    head: Head
    commit: str = ""
    own_cache: bool = False
    stats: rsync.Stats | None = None


def from_upstream(sync: Sync, upstream: str) -> Got:
    """Fill staging from one upstream, checked, or find that nothing changed.

    Raises:
        UpstreamError: the transfer failed.
        TreeError: what is there is not to be served, or git could not fetch it.
    """
    if is_git(upstream):
        return _from_git(sync, upstream)
    if upstream.startswith("rsync://"):
        return _from_source(sync, upstream)
    if not Path(upstream).is_dir():
        raise TreeError(f"the folder {upstream} (path) is not there")
    return _from_source(sync, upstream)


def _from_git(sync: Sync, upstream: str) -> Got:
    clone, repo = Clone(folder=sync.folder.path), sync.repo
    commit = clone.fetch(upstream, repo.branch, stall_s=repo.stall_s, timeout_s=sync.left_s())
    served = clone.commit(SERVED)
    if served and sync.newest:
        if commit == served:
            return Got(changed=False, head=sync.before.seen, commit=commit)
        check_descent(clone.descends(commit, served), served, commit, sync.waived)
    got = _from_source(sync, str(clone.check_out(commit)))
    return Got(
        changed=got.changed,
        head=got.head,
        commit=commit,
        own_cache=got.own_cache,
        stats=got.stats,
    )


def _from_source(sync: Sync, source: str) -> Got:
    """Fill staging from an rsync address or a folder."""
    tidings, offered = News.MAYBE, Head()
    if sync.newest:
        tidings, offered = _ask(sync, source, sync.newest)
        # Nobody stamps a folder or a commit anew: there the files are always compared.
        if "://" in source and tidings in (News.NONE, News.STAMP):
            return _unchanged(sync, offered)
        dry = _rsync(sync, source, sync.newest, dry_run=True)
        changes = [*dry.altered, *dry.deleted]
        if tidings is not News.OLDER and heads.only_stamped(changes):
            return _unchanged(sync, offered)
        gone = [path for path in dry.deleted if not path.endswith("/")]
        before = dry.stats.files - dry.stats.created + len(dry.deleted)
        check_deletions(gone, before, sync.repo, sync.waived)
    return _copy(sync, source)


def _unchanged(sync: Sync, offered: Head) -> Got:
    """Take note of the upstream's stamp. Where stamps are signed, the new one has to be, too."""
    if sync.repo.openpgp_key and offered != sync.before.seen and offered.manifest:
        manifests.verify_signature(sync.folder.head / heads.MANIFEST, sync.repo.openpgp_key)
    return Got(changed=False, head=offered)


def _ask(sync: Sync, source: str, newest: Path) -> tuple[News, Head]:
    """Ask an upstream for its head, and compare it with what is served and known.

    Raises:
        TreeError: it went back, and that is not waived.
    """
    have = heads.read_head(newest)
    if have.time is None:
        return News.MAYBE, Head()
    make_served(sync.folder.head, up_to=sync.folder.path)
    _rsync(sync, source, sync.folder.head, only=HEAD_ONLY)
    offered = heads.read_head(sync.folder.head)
    known = heads.newer(have, sync.before.seen)
    tidings = heads.news(have, known, offered)
    if tidings is News.OLDER:
        check_age(known, offered, sync.waived)
    return tidings, offered


def _copy(sync: Sync, source: str) -> Got:
    """Copy the whole tree into staging, sharing with the newest what is the same, and check it."""
    staging, newest = sync.folder.staging, sync.newest
    make_served(staging, up_to=sync.folder.path)
    if sync.before.own_cache:
        remove_tree(staging / md5cache.CACHE)  # a killed run's, which rsync would leave alone
    done = _rsync(sync, source, staging, link_dest=newest)
    if done.exit is RsyncExit.VANISHED:
        log.warning("%s: files vanished from %s meanwhile, copying once more", sync.name, source)
        done = _rsync(sync, source, staging, link_dest=newest)
    if done.exit is RsyncExit.VANISHED:
        raise TreeError("files vanished while they were copied, twice", passing=True)
    head = heads.read_head(staging)
    if newest:
        check_age(heads.newer(heads.read_head(newest), sync.before.seen), head, sync.waived)
    check_repo(staging, sync.name)
    manifests.verify_tree(staging, sync.repo.openpgp_key)
    own_cache = _complete_cache(sync, staging)
    return Got(changed=True, head=head, own_cache=own_cache, stats=done.stats)


def _complete_cache(sync: Sync, staging: Path) -> bool:
    """Make the metadata cache whole; give whether it is of our making.

    Raises:
        TreeError: a tree that its Manifests describe lacks part of it, so that it is only half
            there; or an ebuild cannot be read.
    """
    own, newest = sync.before.own_cache, sync.newest
    if own and newest:
        md5cache.carry_over(newest, staging)
    lacking = md5cache.lacking(staging, sync.others.values())
    if not lacking:
        return own
    if not own and (staging / md5cache.CACHE).is_dir() and (staging / heads.MANIFEST).is_file():
        raise TreeError(
            f"its {md5cache.CACHE} lacks {len(lacking)} ebuilds, such as {lacking[0]}", passing=True
        )
    log.info("%s: making the metadata of %d ebuilds", sync.name, len(lacking))
    md5cache.make(staging, sync.name, sync.others, root=sync.root, state=sync.state)
    return True


def _rsync(
    sync: Sync,
    source: str,
    target: Path,
    *,
    link_dest: Path | None = None,
    dry_run: bool = False,
    only: tuple[str, ...] = (),
) -> rsync.Result:
    return rsync.fetch(
        source,
        target,
        link_dest=link_dest,
        dry_run=dry_run,
        only=only,
        exclude=sync.exclude,
        bwlimit_kib=sync.repo.bwlimit_kib if "://" in source else 0,
        stall_s=sync.repo.stall_s,
        timeout_s=sync.left_s(),
        on_progress=sync.on_progress if not dry_run and not only else lambda progress: None,
    )
