"""Intake: what a build left in staging is signed and taken into the pool, with its index entries.

Nothing of it is offered to anybody yet. Done again, each step finds what is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from binhost.entries import Entries, changed
from binhost.generations import Generations, entries_of, require_all
from binhost.pool import Pool, package_names
from binhost.pool_index import Stock
from binhost.records import BuildResult, Generation
from binhost.signing import Signer
from headnode.errors import PublishError


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What the pool has then (`stock`), what of it is `new`, and the `entries` of the build.

    `signer` is the one that was found, for what is to be signed next.
    """

    signer: Signer | None
    stock: Stock
    new: tuple[str, ...]
    entries: Entries


def take_in(
    result: BuildResult,
    latest: Generation | None,
    *,
    staging: Path,
    pool: Pool,
    generations: Generations,
    find_signer: Callable[[], Signer | None],
) -> Taken:
    """Take a build's packages over from `staging`; `latest` is the newest of `generations`.

    Raises:
        PublishError: there is no key to sign with, or a package is not what it must be.
    """
    published = latest.packages if latest else {}
    with ThreadPoolExecutor(max_workers=1) as thread:  # most of the time is gpg's
        reading = thread.submit(lambda: (_entries_before(generations, latest), pool.stock()))
        # Here, and not in the thread: ^C reaches what this one is at, and nothing outlives it.
        signer = _sign(result, published, staging, pool, find_signer)
        before, known = reading.result()
    stock = pool.add(staging, result.packages, known, published)
    return Taken(
        signer=signer,
        stock=stock,
        new=tuple(sorted(set(result.packages).difference(known.sha256))),
        entries=_entries(result, stock, before),
    )


def _sign(
    result: BuildResult,
    published: Iterable[str],
    staging: Path,
    pool: Pool,
    find_signer: Callable[[], Signer | None],
) -> Signer | None:
    """Sign new packages in staging, so that their digests are those of the signed files."""
    signer = find_signer()
    staged = package_names(staging).intersection(result.packages).difference(published)
    # One that the pool has was signed, and linked, by a publish that was killed.
    new = [name for name in sorted(staged) if not (pool.folder / name).exists()]
    if new and signer:
        signer.sign(staging / name for name in new)
    return signer


def _entries_before(generations: Generations, latest: Generation | None) -> Entries | None:
    """The entries of the newest generation; None if there is none, or they are damaged."""
    try:
        return generations.entries(latest) if latest else None
    except (PublishError, FileNotFoundError):  # headnode generations verify says so
        return None


def _entries(result: BuildResult, stock: Stock, before: Entries | None) -> Entries:
    """The entries of a build: what changed since `before`, and the others as they were.

    Raises:
        PublishError: the pool lacks a package.
    """
    if before is not None:
        require_all(result, stock)
        with suppress(PublishError):  # `before` names what it has not: damaged, too
            return changed(before, result.packages, stock.entry)
    return entries_of(result, stock)
