"""What is to run now: decided from cluster.toml's schedule, the ledger and the time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from config.cron import due_after, latest_due, parse, zone_of
from config.model import Schedule
from schedules.ledger.models import AHEAD
from schedules.ledger.runs import Run, State, is_too_old

ON_TIME = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run that is to be started; `run`: one that was cut off, which is gone on with."""

    job: str
    due: datetime | None
    run: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What has run: for which time each job did last, and which runs were cut off.

    `since`: since when each job has had the line that it has; what that line would have meant
    before is not made up for. What is still to come (`AHEAD`) says nothing.
    """

    since: Mapping[str, datetime]
    last_due: Mapping[str, datetime]
    cut_off: Sequence[Run] = ()


def plan(options: Schedule, known: Known, now: datetime) -> list[Start]:
    """What is to run, in this order: what was cut off, then what is due, the longest due first.

    Of several times that were missed only the last one counts, and only within `catch_up_h`.
    """
    catch_up = options.catch_up
    resumed = [
        Start(job=run.job, due=run.due, run=run.id)
        for run in known.cut_off
        if not is_too_old(run, now, catch_up) and not _was_ended_by_hand(run)
    ]
    zone, begun = zone_of(options.time_zone), {each.job for each in resumed}
    due = []
    for job, line in options.jobs.items():
        bases = [known.since.get(job, now), known.last_due.get(job), now - max(catch_up, ON_TIME)]
        after = max(each for each in bases if each is not None and each <= now + AHEAD)
        moment = latest_due(parse(line), zone, after, now) if job not in begun else None
        if moment is not None:
            due.append(Start(job=job, due=moment))
    return resumed + sorted(due, key=lambda start: start.due or now)


def _was_ended_by_hand(run: Run) -> bool:
    """Whether whoever started it ended it: only he goes on with it."""
    return run.due is None and run.outcome is State.STOPPED


def why(start: Start, now: datetime) -> str:
    """Why a run is started, as it stands in the history. Pure."""
    late = now - start.due if start.due else timedelta()
    return "schedule" if late <= ON_TIME else "made up"


def next_due(options: Schedule, job: str, now: datetime) -> datetime | None:
    """When a job comes next; None if it is only run by hand."""
    line = options.jobs.get(job)
    return due_after(parse(line), zone_of(options.time_zone), now) if line else None


def lines_since(
    options: Schedule, before: Mapping[str, tuple[str, datetime]], now: datetime
) -> dict[str, tuple[str, datetime]]:
    """Since when each job has its line (with its time zone), from what was known `before`. Pure.

    What was noted by a clock that was ahead is noted anew.
    """
    found = {}
    for job, line in options.jobs.items():
        text = f"{line} {options.time_zone}"
        known = before.get(job)
        is_same = known is not None and known[0] == text and known[1] <= now + AHEAD
        found[job] = known if known and is_same else (text, now.astimezone(UTC))
    return found
