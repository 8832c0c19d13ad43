"""Every distfile read again and compared with the Manifests of all trees in use; damage repaired.

A damaged file is put in quarantine, so that nobody is served it, and fetched again. A file that is
what an older tree in use wants, but not what the newest that names it does, is still served until
its successor is there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from config.model import Distfiles
from headnode.gentoo import Dist
from mirror import lookup
from mirror.catalogue import TreeSet
from mirror.claims import Reasons, claimed, sweep
from mirror.disk import writing_to
from mirror.distfiles import bring, tally_of
from mirror.fetcher import Fetcher, NotHadError
from mirror.layout import path_of
from mirror.progress import OnProgress, Tally
from mirror.recycle import put_aside
from mirror.store import Store, files_below, mismatch

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What a look at a file's content found."""

    GOOD = "good"
    OLDER = "older"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found, by file name, and what came of it.

    `damaged` are in quarantine, with how they differ from what was expected; `older` are as only
    an older tree wants them. Of both, those in `failed` could not be fetched anew: each address
    with why. `unnamed` are paths below distfiles/ that no Manifest explains.
    """

    files: int
    size_bytes: int
    damaged: Mapping[str, str] = field(default_factory=dict)
    older: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    failed: Mapping[str, Reasons] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()


def judge(path: Path, expected: Sequence[Dist]) -> tuple[Verdict, str]:
    """Compare a file with what it may be, the newest tree's first; and say how it differs.

    A file that cannot be read is damaged.
    """
    first = ""
    for number, dist in enumerate(expected):
        try:
            why = mismatch(path, dist.size_bytes, lookup.strong(dist))
        except OSError as error:
            return Verdict.DAMAGED, f"it cannot be read: {error.strerror}"
        if not why:
            return (Verdict.OLDER, first) if number else (Verdict.GOOD, "")
        first = first or why
    return Verdict.DAMAGED, first


def verify(
    state: Path,
    trees: Sequence[TreeSet],
    options: Distfiles,
    *,
    now: datetime,
    on_read: OnProgress = lambda progress: None,
    on_fetched: OnProgress = lambda progress: None,
) -> Audit:
    """Read every distfile, on all cores, and compare it with what `trees` (newest first) say.

    Raises:
        MirrorError: the disk is full or broken.
    """
    store = Store(state)
    with writing_to(store.folder):
        store.prepare()
        sweep(store.claims)
        present, strays = files_below(store.folder)
        expected = lookup.expected(state, trees, present.keys())
        known = {name: path for name, path in present.items() if name in expected}
        reading = Reading(known, on_read)
        verdicts = reading.all(expected)
        damaged = {
            name: why
            for name, (verdict, why) in verdicts.items()
            if verdict is Verdict.DAMAGED and reading.put_away(store, name, now)
        }
        older = tuple(name for name, (verdict, _) in verdicts.items() if verdict is Verdict.OLDER)
        failed = _fetch_anew(store, trees, options, [*damaged, *older], on_fetched)
    unnamed = [*strays, *(path for name, path in present.items() if name not in expected)]
    return Audit(
        files=len(known),
        size_bytes=reading.size_bytes,
        damaged=damaged,
        older=older,
        repaired=tuple(name for name in (*damaged, *older) if name not in failed),
        failed=failed,
        unnamed=tuple(sorted(str(path.relative_to(store.folder)) for path in unnamed)),
    )


class Reading:
    """One reading of `files`: which content it saw of each, and how far it is."""

    def __init__(self, files: Mapping[str, Path], on_progress: OnProgress) -> None:
        self.paths = files
        self.seen = {name: path.stat() for name, path in files.items()}
        self.size_bytes = sum(each.st_size for each in self.seen.values())
        self.tally = Tally(files=len(files), size_bytes=self.size_bytes, on_progress=on_progress)

    def all(self, expected: Mapping[str, Sequence[Dist]]) -> dict[str, tuple[Verdict, str]]:
        """Judge all files in parallel: hashlib lets other threads run while it hashes."""

        def one(name: str) -> tuple[Verdict, str]:
            verdict = judge(self.paths[name], expected[name])
            self.tally.done(name, self.seen[name].st_size)
            return verdict

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip(self.paths, pool.map(one, self.paths), strict=True))

    def put_away(self, store: Store, name: str, now: datetime) -> bool:
        """Put a damaged file in quarantine; False if it was replaced since it was looked at."""
        path = self.paths[name]
        with claimed(store.claim(name)):
            if not path.exists() or not os.path.samestat(path.stat(), self.seen[name]):
                return False
            put_aside(path, store.quarantine / path_of(name), now)
        log.warning("%s: damaged, put in quarantine", name)
        return True


def _fetch_anew(
    store: Store,
    trees: Sequence[TreeSet],
    options: Distfiles,
    names: Sequence[str],
    on_progress: OnProgress,
) -> dict[str, Reasons]:
    """Fetch files anew; give those that nobody gave, each address with why."""
    found = [lookup.find(store.state, trees, name) for name in names]
    wanted = [each for each in found if each]
    tally = tally_of(wanted, on_progress)
    fetcher = Fetcher(store, options, on_position=tally.at)
    outcomes = bring(fetcher, wanted, tally, anew=True)
    return {
        name: outcome.reasons
        for name, outcome in sorted(outcomes.items())
        if isinstance(outcome, NotHadError)
    }
