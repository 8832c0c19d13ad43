"""The pool: every published package of a class, immutable under its name.

::

    pool/<cat>/<pn>/<pf>-<build_id>.gpkg.tar    (or .xpak, the format of older binhosts)
    pool/entries      the index entries of all of them, in the order in which they came
    pool/sha256       their digests, as sha256sum(1) checks them (both: `binhost.journal`)
    pool/build-ids    the build ids that each version ever had (`binhost.build_ids`)

A build id is taken first, then the package is linked into the pool, its entry added, and its digest
last: a file that has none is never offered, and is entered again by the next publish.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from pathlib import Path, PurePosixPath

from binhost import build_ids
from binhost.entries import Entries
from binhost.entry import GPKG, SUFFIXES, XPAK, make_entry
from binhost.journal import Journal
from headnode.errors import PublishError
from headnode.files import digests, sync_together


@dataclass(frozen=True, kw_only=True)  # without slots, for cached_property
class Stock:
    """What a pool has: the SHA-256 of each file's content, by name, and the index entries.

    `added` are the entries that came in just now; the others are read when one is asked for.
    """

    journal: Journal
    sha256: Mapping[str, str]
    added: Mapping[str, str] = field(default_factory=dict)

    def entry(self, name: str) -> str:
        """The index entry of a package.

        Raises:
            PublishError: the pool's index is damaged.
        """
        return self.added[name] if name in self.added else self.entries[name]

    @cached_property
    def entries(self) -> Entries:
        """The index entries of all packages.

        Raises:
            PublishError: the pool's index is damaged.
        """
        return self.journal.entries(self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool in `folder`."""

    folder: Path

    @property
    def journal(self) -> Journal:
        """The index."""
        return Journal(folder=self.folder)

    @property
    def build_ids_file(self) -> Path:
        """Where the highest build ids are."""
        return self.folder / "build-ids"

    def build_ids(self, names: Iterable[str]) -> dict[str, int]:
        """The highest build id that each version (CPV) ever had here, whatever is left of it.

        `names` are those that there are; they count also if the file of build ids was lost.

        Raises:
            PublishError: what was written down of them is damaged.
        """
        return build_ids.with_names(build_ids.read(self.build_ids_file), names)

    def stock(self) -> Stock:
        """Everything that the pool offers."""
        return Stock(journal=self.journal, sha256=self.journal.digests())

    def entries(self) -> Entries:
        """The index entry of every package, by its name in the pool.

        Raises:
            PublishError: a package has no digest.
        """
        return self.stock().entries

    def files(self) -> set[str]:
        """The names of the package files that are there, with an entry or without."""
        return package_names(self.folder)

    def add(self, staging: Path, names: Iterable[str], known: Stock | None = None) -> Stock:
        """Take packages over from `staging`, and return what the whole pool has then.

        A package that the pool has already is left as it is; adding twice changes nothing. All
        are checked before the first is linked. `known` is what the pool has, if that is at hand.

        Raises:
            PublishError: one is missing, is no whole gpkg, or has the name of another.
        """
        known = known or self.stock()
        staged = package_names(staging)
        names, new = set(names), {}
        for name in sorted(names & staged):
            if name in known.sha256 and not _is_entered(staging / name, known.sha256[name]):
                raise _other_content(staging / name, name)
        for name in sorted(names.difference(known.sha256)):
            _require_one_format(name, known.sha256, names)
            new[name] = make_entry(self._source(staging, name), PurePosixPath(name))
        if not new:
            return known
        self.clear_litter()
        self._take_build_ids(known.sha256, new)
        changed = self._link(staging, new)
        self.journal.add(new, known.sha256, [self.build_ids_file, *changed])
        return Stock(
            journal=self.journal,
            sha256={**known.sha256, **{name: digest for name, (_, digest) in new.items()}},
            added={**known.added, **{name: entry for name, (entry, _) in new.items()}},
        )

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

    def clear_litter(self) -> None:
        """Drop what one that was killed had half written of the index."""
        for litter in self.folder.glob(".*"):
            litter.unlink()

    def _take_build_ids(self, known: Iterable[str], new: Iterable[str]) -> None:
        """Write down, for good, that these names were given."""
        before = build_ids.read(self.build_ids_file)
        build_ids.note(self.build_ids_file, before, new if before else [*known, *new])

    def _link(self, staging: Path, names: Iterable[str]) -> list[Path]:
        """Link packages in, and return what is to be made durable for that."""
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
        return sorted(folders)


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


def clear_staging(staging: Path, published: Container[str]) -> None:
    """Drop from `staging` what the pool has now, and the index that emerge kept of it.

    Empty files are names that the builder kept free.
    """
    for name in package_names(staging):
        path = staging / name
        if name in published or not path.stat().st_size:
            path.unlink()
            with suppress(OSError):  # the folders too, if that was the last one in them
                path.parent.rmdir()
                path.parent.parent.rmdir()
    for name in ("Packages", "Packages.gz"):
        (staging / name).unlink(missing_ok=True)
