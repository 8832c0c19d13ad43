"""What is known of blades and of runs: the one place that knows how the ledger keeps them.

Of a blade that nobody has heard of nothing is known, which a status shows as "never".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headnode.status.model import NextRun, Pull, Rollout, Run
from headnode.status.sources import jobs
from headnode.status.sources.rollouts import drained, read_rollout
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import BladeState, KeptReport
from schedules.rollout import GOOD
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was heard of a blade last: how its newest pull ended (`schedules.rollout.Result`).

    `generation` is what it was brought to by the last good one; `seen` is when it last answered,
    `tried` when it last was to. `kernel` is the one that runs, `kernel_due` the one to be booted.
    """

    result: str
    good: bool
    tried: datetime
    seen: datetime | None
    generation: int | None
    error: str = ""
    kernel: str = ""
    kernel_due: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is remembered. Blades by name; `drained` says why; `pulling` are at it now."""

    heard: Mapping[str, Heard] = field(default_factory=dict)
    drained: Mapping[str, str] = field(default_factory=dict)
    pulling: frozenset[str] = frozenset()
    runs: tuple[Run, ...] = ()
    next_runs: tuple[NextRun, ...] = ()
    rollout: Rollout | None = None


def read_fleet(site: Site, now: datetime) -> Fleet:
    """Everything that a status takes from the records of rollouts and runs.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    rollout, pulling = read_rollout(site)
    with Ledger.of(site) as ledger:
        return Fleet(
            heard={name: _heard(state) for name, state in ledger.blades().items()},
            drained=drained(site, now),
            pulling=pulling,
            runs=jobs.runs(site, ledger),
            next_runs=jobs.next_runs(site, now),
            rollout=rollout,
        )


def _heard(state: BladeState) -> Heard:
    good = state.result in GOOD
    return Heard(
        result=state.result,
        good=good,
        tried=state.tried,
        seen=state.contact,
        generation=state.generation,
        error="" if good else state.error,
        kernel=state.kernel,
        kernel_due=state.kernel_due,
    )


def pulls_of(site: Site, blade: str) -> tuple[tuple[Pull, ...], str]:
    """The pulls of a blade, newest first, and the newest log there is.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with Ledger.of(site) as ledger:
        reports = ledger.reports(blade)
    return tuple(map(_pull, reports)), next((each.log for each in reports if each.log), "")


def _pull(kept: KeptReport) -> Pull:
    return Pull(
        at=kept.at,
        result=kept.result,
        good=kept.result in GOOD,
        generation=kept.generation,
        packages=kept.packages,
        source_builds=kept.source_builds,
        fetched_bytes=kept.fetched_bytes,
        seconds=kept.seconds,
        changes=kept.changes,
        error=kept.error,
    )
