"""The pool: every published package of a class, immutable under its name.

::

    pool/<cat>/<pn>/<pf>-<build_id>.gpkg.tar
    pool/entries      the index entries of all of them, in the order of their names

A package is linked into the pool first and entered in `entries` second: a file that no entry names
is never offered, and is entered again by the next publish.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from binhost.index import join_entries, make_entry, parse_entries
from headnode.errors import PublishError
from headnode.files import digests, sync_folder, write_atomic

SUFFIX = ".gpkg.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool in `folder`."""

    folder: Path

    @property
    def entries_file(self) -> Path:
        """Where the entries are."""
        return self.folder / "entries"

    def entries(self) -> dict[str, str]:
        """The index entry of every package, by its name in the pool."""
        try:
            return parse_entries(self.entries_file.read_text())
        except FileNotFoundError:
            return {}

    def add(self, staging: Path, names: Iterable[str]) -> dict[str, str]:
        """Take packages over from `staging`, and return the entries of the whole pool.

        A package that the pool has already is left as it is; adding twice changes nothing.

        Raises:
            PublishError: one is missing, is no whole gpkg, or has the name of another.
        """
        entries = self.entries()
        new = {
            name: make_entry(self._take(staging, name), PurePosixPath(name))
            for name in names
            if name not in entries
        }
        if new:
            entries = dict(sorted({**entries, **new}.items()))
            write_atomic(self.entries_file, join_entries(entries.values()))
        return entries

    def _take(self, staging: Path, name: str) -> Path:
        source, target = staging / name, self.folder / name
        if not source.is_file():
            if target.is_file():
                return target
            raise PublishError(
                f"{name} was built, but is neither in {staging} nor in the pool.",
                remedy="Run headnode build again.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if digests(source, "blake2b") != digests(target, "blake2b"):
                raise PublishError(
                    f"The pool has another {name}; a published name never changes its content.",
                    remedy=f"Remove {source} and build the package again.",
                )
            return target
        _make_durable(source)
        os.link(source, target)
        sync_folder(target.parent)
        return target


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(handle, 0o644)
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_staging(staging: Path, published: Iterable[str]) -> None:
    """Drop from `staging` what the pool has now, and the index that emerge kept of it."""
    for name in published:
        (staging / name).unlink(missing_ok=True)
    for name in ("Packages", "Packages.gz"):
        (staging / name).unlink(missing_ok=True)
