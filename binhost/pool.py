"""The pool: every published package of a class, immutable under its name.

::

    pool/<cat>/<pn>/<pf>-<build_id>.gpkg.tar    (or .xpak, the format of older binhosts)
    pool/entries, sha256, build-ids, recent.json    its index (`binhost.pool_index`)

A package is linked into the pool first, and then put into its index: a file that the index does not
name is never offered, and is entered by the next publish.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from binhost.entries import Entries
from binhost.entry import GPKG, SUFFIXES, XPAK, make_entry
from binhost.pool_index import Known, PoolIndex, Stock
from headnode.errors import PublishError
from headnode.files import digests, sync_together

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool in `folder`."""

    folder: Path

    @property
    def index(self) -> PoolIndex:
        """What it offers."""
        return PoolIndex(folder=self.folder)

    def build_ids(self, names: Iterable[str]) -> dict[str, int]:
        """The highest build id that each version (CPV) ever had here (`PoolIndex.build_ids`)."""
        return self.index.build_ids(names)

    def stock(self) -> Stock:
        """Everything that the pool offers.

        Raises:
            PublishError: its index is damaged.
        """
        return self.index.stock()

    def entries(self) -> Entries:
        """The index entry of every package, by its name in the pool.

        Raises:
            PublishError: its index is damaged.
        """
        return self.index.entries()

    def files(self) -> set[str]:
        """The names of the package files that are there, with an entry or without."""
        return package_names(self.folder)

    def add(
        self,
        staging: Path,
        names: Iterable[str],
        known: Stock | None = None,
        published: Mapping[str, str] = NOTHING,
    ) -> Stock:
        """Take packages over from `staging`, and return what the whole pool has then.

        A package that the pool has already is left as it is; adding twice changes nothing. All
        are checked before the first is linked. `known` is what the pool has, if that is at hand,
        `published` the digests of the newest generation.

        Raises:
            PublishError: one is missing, is no whole gpkg, has the name of another, or is not what
                was published under its name.
        """
        known = known or self.stock()
        staged = package_names(staging)
        names, new = set(names), dict[str, Known]()
        there = self._there(names, known, published)
        for name in sorted(there & staged):
            if not _is_entered(staging / name, known.sha256[name]):
                raise _other_content(staging / name, name)
        for name in sorted(names - there):
            _require_one_format(name, known.sha256, names)
            source = self._source(staging, name)
            new[name] = Known(*make_entry(source, PurePosixPath(name)))
            was = known.sha256.get(name) or published.get(name)
            if was not in (None, new[name].sha256):
                raise PublishError(
                    f"{source} is not what was published under that name.",
                    remedy="headnode generations verify --repair looks for what was.",
                )
        if new:
            self.index.clear_litter()
            self._link(staging, new)
            known = self.index.add(new, known)
        return known

    def _there(self, names: set[str], known: Stock, published: Mapping[str, str]) -> set[str]:
        """Which of `names` the index has."""
        if published.items() <= known.sha256.items():  # as they should: one look for them all
            new = names.difference(published)
            return {name for name in new if self._has(name, known, published)} | names - new
        return {name for name in names if self._has(name, known, published)}

    def _has(self, name: str, known: Stock, published: Mapping[str, str]) -> bool:
        """Whether the index has a package; what the newest generation has, has an entry there."""
        if (sha256 := known.sha256.get(name)) is None:
            return False
        if published.get(name, sha256) != sha256:
            raise PublishError(
                f"{self.index.digests_file} has not the published digest of {name}.",
                remedy="It is damaged: put it back from a backup.",
            )
        return name in published or name in known.recent or name in known.entries

    def _source(self, staging: Path, name: str) -> Path:
        """Where a package without an entry is: in the pool if a killed publish linked it."""
        source, target = staging / name, self.folder / name
        if not source.is_file():
            if target.is_file():
                return target
            raise PublishError(
                f"{name} was built, but is neither in {staging} nor in the pool.",
                remedy="Run headnode build again.",
            )
        if target.exists() and digests(source, "blake2b") != digests(target, "blake2b"):
            raise _other_content(source, name)
        return target if target.exists() else source

    def _link(self, staging: Path, names: Iterable[str]) -> None:
        folders, links = {self.folder}, dict[Path, Path]()
        for name in names:
            source, target = staging / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            folders |= {target.parent, target.parent.parent}
            if not target.exists():
                source.chmod(0o644)
                links[target] = source
        sync_together(links.values())
        for target, source in links.items():
            os.link(source, target)
        sync_together(folders)


def _require_one_format(name: str, *others: Container[str]) -> None:
    """Check that a build of a package is one file, since an index has it once."""
    stem = name.removesuffix(GPKG).removesuffix(XPAK)
    for other in (stem + suffix for suffix in SUFFIXES):
        if other != name and any(other in names for names in others):
            raise PublishError(
                f"{name} and {other} are the same build of one package.",
                remedy="Build the package again: it then gets a build id of its own.",
            )


def _is_entered(path: Path, sha256: str) -> bool:
    """Whether a staged file is what was published, or the empty one that keeps a name free."""
    return not path.stat().st_size or digests(path, "sha256")["sha256"] == sha256


def _other_content(source: Path, name: str) -> PublishError:
    return PublishError(
        f"The pool has another {name}; a published name never changes its content.",
        remedy=f"Remove {source} and build the package again.",
    )


def package_names(folder: Path) -> set[str]:
    """The names (`cat/pn/file`) of the package files in a pool or a staging folder."""
    names = glob("*/*/*", root_dir=folder)  # noqa: PTH207 (a Path each takes several times as long)
    return {name for name in names if name.endswith(SUFFIXES)}


def remove_package(path: Path) -> None:
    """Remove a package file, if it is there, and its folders if that was the last one in them."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
        path.parent.parent.rmdir()


def clear_staging(staging: Path, published: Container[str]) -> None:
    """Drop from `staging` what the pool has now, and the index that emerge kept of it.

    Empty files are names that the builder kept free.
    """
    for name in package_names(staging):
        path = staging / name
        if name in published or not path.stat().st_size:
            remove_package(path)
    for name in ("Packages", "Packages.gz"):
        (staging / name).unlink(missing_ok=True)
