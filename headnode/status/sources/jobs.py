"""What the schedule did and will do: runs and their steps from the ledger, the next by the clock.

A run that nobody ended is at work only while somebody holds the jobs' lock; else it was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from headnode.files import holder
from headnode.status.model import NextRun, Run
from schedules.due import next_due
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Run as Kept
from schedules.ledger.runs import State, Step
from schedules.runner import headnode_name, lock_path
from schedules.site import Site

SHOWN = 20
WORDS = {State.OK: "good", State.FAILED: "failed", State.RUNNING: "running"}
CUT_OFF = "cut off"


def runs(site: Site, ledger: Ledger) -> tuple[Run, ...]:
    """The newest runs, newest first, each before its steps.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    is_held = bool(holder(lock_path(site.state)))
    kept = ledger.runs(headnode_name(), most=SHOWN)
    return tuple(
        each
        for number, run in enumerate(kept)
        for each in facts(run, is_at_work=is_held and number == 0)
    )


def facts(run: Kept, *, is_at_work: bool) -> Iterator[Run]:
    """A run and its steps. Pure."""
    yield Run(
        id=str(run.id),
        job=run.job,
        step="",
        started=run.started,
        ended=run.finished or (None if is_at_work else run.heartbeat),
        result=_result(run.outcome, run.finished, is_at_work),
        note=run.error.partition("\n")[0] or run.why,
    )
    for step in run.steps:
        yield _step(run, step, is_at_work)


def _step(run: Kept, step: Step, is_at_work: bool) -> Run:
    return Run(
        id=f"{run.id}.{step.name}",
        job=run.job,
        step=step.name,
        started=step.started,
        ended=step.finished or (None if is_at_work else max(run.heartbeat, step.started)),
        result=_result(step.outcome, step.finished, is_at_work),
        note=step.error.partition("\n")[0] or step.said,
    )


def _result(outcome: State, finished: datetime | None, is_at_work: bool) -> str:
    if finished is None and not is_at_work:
        return CUT_OFF
    return WORDS.get(outcome, outcome.value)


def next_runs(site: Site, now: datetime) -> tuple[NextRun, ...]:
    """When each job is due, the next first."""
    options = site.cluster.schedule
    due = {job: next_due(options, job, now) for job in options.jobs}
    found = [NextRun(job=job, at=at, note=options.jobs[job]) for job, at in due.items() if at]
    return tuple(sorted(found, key=lambda each: each.at))
