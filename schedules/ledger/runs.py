"""Runs of jobs and their steps in the ledger: claimed, alive, ended, and where to go on.

A run that nobody ended (`running` or `stopped`) was cut off: whoever holds the jobs' lock may go on
with it, since its holder is then gone. Runs belong to the headnode (host name) that made them, also
where several share a ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, select, update

from schedules.ledger.models import AHEAD, runs, steps


class State(StrEnum):
    """How a run or a step is."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    STOPPED = "stopped"  # it was asked to end, and is gone on with
    ABANDONED = "abandoned"  # it was cut off, and too long ago to be gone on with


OPEN = (State.RUNNING.value, State.STOPPED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a run, `tries` times begun. `said` is what came of it."""

    name: str
    started: datetime
    finished: datetime | None
    outcome: State
    tries: int
    said: str
    error: str

    @property
    def seconds(self) -> float | None:
        """How long it took the last time; None while it runs."""
        return (self.finished - self.started).total_seconds() if self.finished else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a job. `why` it was started, `due` the time of the schedule that it is for."""

    id: int
    job: str
    why: str
    due: datetime | None
    holder: str
    started: datetime
    heartbeat: datetime
    finished: datetime | None
    outcome: State
    error: str
    steps: tuple[Step, ...] = ()

    @property
    def seconds(self) -> float | None:
        """From its start to its end, pauses included; None while it is open."""
        return (self.finished - self.started).total_seconds() if self.finished else None

    def step(self, name: str) -> Step | None:
        """The step of that name, if it was ever begun."""
        return next((each for each in self.steps if each.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is written down as a run begins."""

    job: str
    why: str
    due: datetime | None
    headnode: str
    holder: str


def claim(connection: Connection, wanted: Claim, now: datetime) -> int:
    """Write down that a run begins; its number."""
    row = {
        "job": wanted.job,
        "why": wanted.why,
        "due": wanted.due,
        "headnode": wanted.headnode,
        "holder": wanted.holder,
        "started": now,
        "heartbeat": now,
        "outcome": State.RUNNING.value,
        "error": "",
    }
    key = connection.execute(insert(runs).values(row)).inserted_primary_key
    return int(key[0]) if key else 0


def take_over(connection: Connection, run: int, holder: str, now: datetime) -> None:
    """Go on with a run that was cut off."""
    values = {"holder": holder, "heartbeat": now, "outcome": State.RUNNING.value, "error": ""}
    connection.execute(update(runs).where(runs.c.id == run).values(values))


def beat(connection: Connection, run: int, now: datetime) -> None:
    """Say that a run is alive."""
    connection.execute(update(runs).where(runs.c.id == run).values(heartbeat=now))


def end(connection: Connection, run: int, outcome: State, error: str, now: datetime) -> None:
    """Write down how a run ended."""
    finished = now if outcome.value not in OPEN else None
    values = {"outcome": outcome.value, "error": error, "finished": finished, "heartbeat": now}
    connection.execute(update(runs).where(runs.c.id == run).values(values))


def begin_step(connection: Connection, run: int, number: int, name: str, now: datetime) -> int:
    """Write down that a step begins; how many times it has by now.

    One that was asked to stop in good order has not spent a try.
    """
    this = and_(steps.c.run == run, steps.c.name == name)
    row = connection.execute(select(steps.c.tries, steps.c.outcome).where(this)).first()
    if row is not None:
        tries = int(row.tries) + int(row.outcome != State.STOPPED.value)
        values = {"outcome": State.RUNNING.value, "tries": tries, "started": now}
        connection.execute(update(steps).where(this).values(finished=None, error="", **values))
        return tries
    first = {"run": run, "number": number, "name": name, "started": now, "tries": 1}
    first |= {"outcome": State.RUNNING.value, "said": "", "error": ""}
    connection.execute(insert(steps).values(first))
    return 1


def end_step(
    connection: Connection,
    run: int,
    name: str,
    outcome: State,
    *,
    said: str = "",
    error: str = "",
    now: datetime,
) -> None:
    """Write down how a step ended."""
    this = and_(steps.c.run == run, steps.c.name == name)
    values = {"outcome": outcome.value, "said": said, "error": error, "finished": now}
    connection.execute(update(steps).where(this).values(values))


def read_runs(
    connection: Connection, headnode: str, *, job: str | None = None, most: int = 50
) -> list[Run]:
    """The newest runs of a headnode (of a job), the newest first."""
    query = select(runs).where(runs.c.headnode == headnode)
    query = query.where(runs.c.job == job) if job else query
    rows = list(connection.execute(query.order_by(runs.c.id.desc()).limit(most)).mappings())
    return [_run(connection, row) for row in rows]


def read_run(connection: Connection, run: int) -> Run:
    """A run with its steps."""
    row = connection.execute(select(runs).where(runs.c.id == run)).mappings().one()
    return _run(connection, row)


def _run(connection: Connection, row: RowMapping) -> Run:
    query = select(steps).where(steps.c.run == row["id"]).order_by(steps.c.number, steps.c.started)
    fields = {name: value for name, value in row.items() if name not in ("outcome", "headnode")}
    return Run(
        outcome=State(row["outcome"]),
        steps=tuple(_step(each) for each in connection.execute(query).mappings()),
        **fields,
    )


def _step(row: RowMapping) -> Step:
    taken = ("name", "started", "finished", "tries", "said", "error")
    return Step(outcome=State(row["outcome"]), **{name: row[name] for name in taken})


def cut_off(connection: Connection, headnode: str) -> list[Run]:
    """Runs of a headnode that nobody ended, the oldest first."""
    query = select(runs).where(runs.c.headnode == headnode, runs.c.outcome.in_(OPEN))
    rows = list(connection.execute(query.order_by(runs.c.id)).mappings())
    return [_run(connection, row) for row in rows]


def last_due(connection: Connection, headnode: str, now: datetime) -> dict[str, datetime]:
    """For which time of its schedule each job ran last, by job.

    What ran for a time that is still to come (`AHEAD`) keeps no night from running before that.
    """
    query = select(runs.c.job, func.max(runs.c.due).label("due"))
    query = query.where(runs.c.headnode == headnode, runs.c.due <= now + AHEAD)
    query = query.group_by(runs.c.job)
    return {row.job: row.due for row in connection.execute(query)}


def forget_runs(connection: Connection, before: datetime) -> int:
    """Delete runs that ended before; how many. Open ones, and each job's newest, stay."""
    newest = select(func.max(runs.c.id)).group_by(runs.c.headnode, runs.c.job)
    old = and_(runs.c.finished < before, runs.c.id.not_in(newest))
    numbers = [row.id for row in connection.execute(select(runs.c.id).where(old))]
    connection.execute(delete(steps).where(steps.c.run.in_(numbers)))
    return connection.execute(delete(runs).where(runs.c.id.in_(numbers))).rowcount


def is_too_old(run: Run, now: datetime, catch_up: timedelta) -> bool:
    """Whether a run that was cut off is not to be gone on with any more. Pure."""
    return now - (run.due or run.started) > catch_up
