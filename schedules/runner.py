"""Runs the tasks of a job one after another, and writes down how far it is.

A run that was cut off, by whatever, is gone on with: tasks that came to their end are not begun
again, the one that was cut off is, since each does nothing where nothing is left to do. A task that
was begun three times and never ended is not tried a fourth time.

Only who holds the jobs' lock (`<state>/jobs.lock`) runs anything, so never two at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from headnode.errors import BusyError, HeadnodeError, LedgerError
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Claim, Run, State
from schedules.observer import Observer, Silent
from schedules.site import Site

log = logging.getLogger(__name__)

MOST_TRIES = 3
BEAT_S = 30.0
BUSY_PAUSE_S = 30.0
BUSY_TRIES = 120  # an hour: somebody builds by hand
LEDGER_TRIES = 5
LEDGER_PAUSE_S = 10.0

Result = TypeVar("Result")


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def lock_path(state: Path) -> Path:
    """The lock of whoever runs a job."""
    return state / "jobs.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a task is given."""

    site: Site
    ledger: Ledger
    watch: Observer = field(default_factory=Silent)
    clock: Callable[[], datetime] = utc_now
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a job: done once, it says what came of it; what it raises ends the run."""

    name: str
    do: Callable[[Work], str]


def headnode_name() -> str:
    """Under which name this machine's runs stand in the ledger."""
    return socket.gethostname()


def begin(work: Work, job: str, tasks: Sequence[Task], *, why: str, due: datetime | None) -> Run:
    """Run a job's tasks.

    Raises:
        LedgerError: it cannot be written down that it begins; nothing was done.
    """
    wanted = Claim(
        job=job, why=why, due=due, headnode=headnode_name(), holder=holder_name(os.getpid())
    )
    with work.ledger.store.writing() as connection:
        number = runs.claim(connection, wanted, work.clock())
    return _Runner(work, number).run(tasks)


def resume(work: Work, run: Run, tasks: Sequence[Task]) -> Run:
    """Go on with a run that was cut off, with the first task that did not come to its end.

    Raises:
        LedgerError: it cannot be written down; nothing was done.
    """
    with work.ledger.store.writing() as connection:
        runs.take_over(connection, run.id, holder_name(os.getpid()), work.clock())
    return _Runner(work, run.id).run(tasks)


def holder_name(process: int) -> str:
    """Under which name a process of this machine holds its run."""
    return f"{headnode_name()}, process {process}"


class _Runner:
    """One run, while it goes on."""

    def __init__(self, work: Work, number: int) -> None:
        self._work = work
        self._number = number
        self._ended = threading.Event()

    def run(self, tasks: Sequence[Task]) -> Run:
        beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beating.start()
        try:
            error = self._tasks(tasks)
            self._end(State.FAILED if error else State.OK, error)
        except (KeyboardInterrupt, SystemExit):
            self._end(State.STOPPED, "asked to stop")
            raise
        finally:
            self._ended.set()
            beating.join()
        with self._work.ledger.store.reading() as connection:
            return runs.read_run(connection, self._number)

    def _tasks(self, tasks: Sequence[Task]) -> str:
        """Do what is not done; why it went no further, or nothing."""
        with self._work.ledger.store.reading() as connection:
            before = runs.read_run(connection, self._number)
        done = {step.name for step in before.steps if step.outcome is State.OK}
        for place, task in enumerate(tasks):
            if task.name in done:
                continue
            if error := self._task(place, task):
                return f"{task.name}: {error}"
        return ""

    def _task(self, place: int, task: Task) -> str:
        clock, number = self._work.clock, self._number
        tries = self._write(
            lambda connection: runs.begin_step(connection, number, place, task.name, clock())
        )
        log.info("run %d: %s begins", number, task.name)
        said, error = "", ""
        if tries > MOST_TRIES:
            error = f"was begun {MOST_TRIES} times and never came to an end"
        else:
            said, error = self._do_or_stop(task)
        outcome = State.FAILED if error else State.OK
        self._write(
            lambda connection: runs.end_step(
                connection, number, task.name, outcome, said=said, error=error, now=clock()
            )
        )
        log.info("run %d: %s: %s", number, task.name, error or said)
        return error

    def _do_or_stop(self, task: Task) -> tuple[str, str]:
        try:
            return self._do(task)
        except (KeyboardInterrupt, SystemExit):
            self._write(
                lambda connection: runs.end_step(
                    *(connection, self._number, task.name, State.STOPPED), now=self._work.clock()
                )
            )
            raise

    def _do(self, task: Task) -> tuple[str, str]:
        """What came of a task, or why it failed. Who holds a lock is waited for."""
        for again in range(BUSY_TRIES):
            if again:
                self._work.pause(BUSY_PAUSE_S)
            try:
                return task.do(self._work), ""
            except BusyError as error:
                failure = str(error)
                self._work.watch.say(f"{task.name} waits: {error.what}")
            except (HeadnodeError, OSError) as error:
                return "", str(error)
            except Exception as error:
                # A fault of ours: the night ends, and its message says so, with the trace logged.
                log.exception("%s failed", task.name)
                return "", f"a fault of headnode's: {error!r}"
        return "", failure

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                with self._work.ledger.store.writing() as connection:
                    runs.beat(connection, self._number, self._work.clock())
            except LedgerError as error:
                log.warning("no heartbeat is written: %s", error)

    def _end(self, outcome: State, error: str) -> None:
        now = self._work.clock()
        self._write(lambda connection: runs.end(connection, self._number, outcome, error, now))

    def _write(self, change: Callable[..., Result]) -> Result:
        """Write, and wait for whoever holds the ledger for longer than it should."""
        for left in reversed(range(LEDGER_TRIES)):
            try:
                with self._work.ledger.store.writing() as connection:
                    return change(connection)
            except LedgerError as error:
                if error.damaged or not left:
                    raise
                log.warning("waiting for the ledger: %s", error)
                self._work.pause(LEDGER_PAUSE_S)
        raise AssertionError("the last try returns or raises")
