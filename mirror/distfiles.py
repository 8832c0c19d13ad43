"""Distfiles, brought here and checked before anyone asks for them.

A file has its final name only when its size and every digest that the Manifest gives were found
right; until then it is below `.partial/`, where the next run carries on with it. A file that is
there with the right size is trusted (`mirror.audit` is what looks again). `wanted` says which files
are needed, `fetcher` brings one.

Not fetched: a file with RESTRICT=fetch, which a person has to put in place (`mirror.by_hand`).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from config.model import Distfiles
from headnode.errors import MirrorError
from headnode.files import locked
from mirror import claims
from mirror.claims import Reasons
from mirror.disk import writing_to
from mirror.fetcher import Came, Fetcher, NotHadError
from mirror.progress import OnProgress, Progress, Tally
from mirror.store import Store
from mirror.wanted import Package, Wanted, plan

__all__ = ["DistfilesError", "Package", "Progress", "Report", "Wanted", "fetch", "plan"]

log = logging.getLogger(__name__)

REMEDY = (
    "Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
    "or sync the tree if the files changed upstream."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did, by file name; `failed` has each address with why it did not give the file.

    `recycled` came back from the recycle bin, `by_hand` only a person may fetch.
    """

    fetched: tuple[str, ...] = ()
    recycled: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    failed: Mapping[str, Reasons] = field(default_factory=dict)


class DistfilesError(MirrorError):
    """Some files could not be had; `report` says which, and what came is in place."""

    def __init__(self, report: Report) -> None:
        count = len(report.failed)
        super().__init__(
            f"{count} distfile{'' if count == 1 else 's'} could not be fetched."
            f"{in_words(report.failed)}\n",
            remedy=REMEDY,
        )
        self.report = report


def in_words(failed: Mapping[str, Reasons]) -> str:
    """Say of each file which addresses were asked, and why each did not give it. Pure."""
    lines = []
    for filename, reasons in failed.items():
        lines.append(f"\n  {filename}" + ("" if reasons else ": no address is known for it"))
        lines.extend(f"\n    {address}: {why}" for address, why in reasons)
    return "".join(lines)


def fetch(
    state: Path,
    wanted: Iterable[Wanted],
    options: Distfiles,
    *,
    on_progress: OnProgress = lambda progress: None,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> Report:
    """Bring the `wanted` files that are not there yet below `<state>/mirror/distfiles/`.

    Each is looked for in the recycle bin, then asked of the mirrors in order, then of the ebuild's
    own addresses, `options.tries` times where the failure may pass. `on_progress` is called from
    several threads, one at a time. `sleep` and `chance` are `Fetcher`'s.

    Raises:
        DistfilesError: some could not be had; all others are in place.
        MirrorError: the disk is full.
        BusyError: another fetch is running.
    """
    store = Store(state)
    with writing_to(store.folder):
        store.prepare()
        with locked(store.partials / ".lock", "a fetch of distfiles"):
            claims.sweep(store.claims)
            every = list(wanted)
            absent = [each for each in every if not store.has(each)]
            tally = tally_of(absent, on_progress)
            fetcher = Fetcher(store, options, on_position=tally.at, sleep=sleep, chance=chance)
            outcomes = bring(fetcher, absent, tally)
    report = _report(every, outcomes)
    log.info("distfiles: %d fetched, %d present", len(report.fetched), len(report.present))
    if report.failed:
        raise DistfilesError(report)
    return report


def _report(every: Iterable[Wanted], outcomes: Mapping[str, Came | NotHadError]) -> Report:
    """Sort what became of each file. Pure."""
    came: dict[Came, list[str]] = {each: [] for each in Came}
    by_hand, failed = [], {}
    for wanted in every:
        outcome = outcomes.get(wanted.filename, Came.THERE)
        if isinstance(outcome, Came):
            came[outcome].append(wanted.filename)
        elif wanted.by_hand:
            by_hand.append(wanted.filename)
        else:
            failed[wanted.filename] = outcome.reasons
    return Report(
        fetched=tuple(came[Came.FETCHED]),
        recycled=tuple(came[Came.RECYCLED]),
        present=tuple(came[Came.THERE]),
        by_hand=tuple(by_hand),
        failed=dict(sorted(failed.items())),
    )


def bring(
    fetcher: Fetcher, files: Sequence[Wanted], tally: Tally, *, anew: bool = False
) -> dict[str, Came | NotHadError]:
    """Bring `files` in parallel; give what became of each. `anew` is `Fetcher.get`'s."""
    outcomes: dict[str, Came | NotHadError] = {}
    with ThreadPoolExecutor(fetcher.options.parallel) as pool:
        futures = {pool.submit(fetcher.get, each, anew=anew): each for each in files}
        try:
            for future in as_completed(futures):
                wanted = futures[future]
                outcomes[wanted.filename] = outcome = _outcome(future)
                here = wanted.size_bytes if isinstance(outcome, Came) else 0
                tally.done(wanted.filename, here)
        except BaseException:
            fetcher.end()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcomes


def _outcome(future: Future[Came]) -> Came | NotHadError:
    try:
        return future.result()
    except NotHadError as error:
        return error


def tally_of(files: Sequence[Wanted], on_progress: OnProgress) -> Tally:
    """A tally of what is to be fetched."""
    size_bytes = sum(each.size_bytes for each in files if not each.by_hand)
    return Tally(files=len(files), size_bytes=size_bytes, on_progress=on_progress)
