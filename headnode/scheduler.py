"""The scheduler of `headnode serve`: APScheduler 3.x says when, the ledger says what is due.

What APScheduler cannot be trusted with is not left to it (3.11.3): it runs in UTC alone, its jobs
are in memory and made from cluster.toml, and all that any of them does is to look what is due. What
has run stands in the ledger, so that a run that was missed or cut off is found by the next look,
once a minute at the latest. Its thread is watched, since it can die while it says that it runs, and
so is the clock: set back, it would sleep until the time that it has chosen comes again.

A job is a process of its own, `headnode schedule run JOB`: whatever becomes of it, the servers go
on, and its memory is given back. It holds the jobs' lock, which the kernel drops with it.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from blades.inventory import fold
from config.model import Schedule
from headnode.errors import BusyError, HeadnodeError, LedgerError
from headnode.files import holder, locked, write_atomic
from headnode.inbox import begin_anew
from headnode.not_begun import Ended, NotBegun
from headnode.process import end_group, environment
from schedules import progress
from schedules.due import Known, Start, lines_since, next_due, plan
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.missed import missed_once
from schedules.runner import headnode_name, lock_path, utc_now
from schedules.site import Site

log = logging.getLogger(__name__)

LOOK_S = 60
STEP_S = 30.0  # what a clock may drift or be slewed by before a look comes late for it
STOP_S = 60.0  # for a job to end its builder and its blades' commands


class Due(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Comes when a job's line does: in UTC, with clock changes as `config.cron` has them."""

    def __init__(self, options: Schedule, job: str) -> None:
        self._options, self._job = options, job

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The next time after `now`: what was missed is found by looking."""
        return next_due(self._options, self._job, now.astimezone(UTC))


class Look(BaseTrigger):  # type: ignore[misc]
    """Comes at once, and then every minute."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Now, or a minute after the last time."""
        if previous_fire_time is None:
            return now
        return max(now, previous_fire_time + timedelta(seconds=LOOK_S))


class Scheduler:
    """Starts what is due. `watch` is to be called every second, `stop` at the end."""

    def __init__(self, headnode: Sequence[str], clock: Callable[[], datetime] = utc_now) -> None:
        """`headnode` begins the command line that runs a job; `clock` says what is due."""
        self._headnode = headnode
        self._clock = clock
        self._site: Site | None = None
        self._scheduler: BackgroundScheduler | None = None
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._caught_up_s = -math.inf
        self._ahead_s = 0.0
        self._not_begun = NotBegun(clock())

    def watch(self, site: Site) -> None:
        """Begin, or begin anew: another schedule, a thread that died, a clock that was set.

        A job that runs goes on.
        """
        options, before = site.cluster.schedule, self._site
        self._site = site
        if self._scheduler is None or before is None or before.cluster.schedule != options:
            self._begin(site)
        elif not self.is_alive():
            log.error("the scheduler's thread has died, starting another")
            self._begin(site)
        elif abs(step_s := ahead_s() - self._ahead_s) > STEP_S:
            log.warning("the clock was set by %+.0f s, looking anew what is due", step_s)
            self._begin(site)

    @property
    def _served(self) -> Site:
        assert self._site is not None  # noqa: S101 (watch came first)
        return self._site

    def is_alive(self) -> bool:
        """Whether APScheduler's thread is: its own `running` says so of a dead one, too."""
        thread = getattr(self._scheduler, "_thread", None)
        return thread is not None and thread.is_alive()

    def stop(self) -> None:
        """Start nothing more; a job that runs is asked to end, and gone on with another time."""
        self._stopping.set()
        if self._scheduler is not None and self.is_alive():
            self._scheduler.shutdown(wait=False)
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
            end_group(child, 0.0)

    def _begin(self, site: Site) -> None:
        if self._scheduler is not None and self.is_alive():
            self._scheduler.shutdown(wait=False)
        options = site.cluster.schedule
        self._ahead_s = ahead_s()
        self._note_lines(site)
        scheduler = BackgroundScheduler(
            timezone=UTC,
            jobstores={"default": MemoryJobStore()},
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        scheduler.add_job(self._look, Look(), id="look")
        for job in options.jobs:
            scheduler.add_job(self._look, Due(options, job), id=job)
        scheduler.start()
        self._scheduler = scheduler

    def _note_lines(self, site: Site) -> None:
        try:
            note_lines(site, self._clock())
        except OSError as error:  # the next look tries again
            log.error("since when the jobs have their lines cannot be noted: %s", error)

    def _look(self) -> None:
        """Run what is due, one after another."""
        if not self._guard.acquire(blocking=False):
            return  # of a scheduler that was replaced while a job runs
        try:
            while not self._stopping.is_set() and (start := self._next()) is not None:
                if not self._is_done(start):
                    return  # what was not written down is tried again by the next look
            self._catch_up()
        except (HeadnodeError, OSError) as error:
            log.error("what is due cannot be told: %s", error)
            self._not_begun.unknown(self._served, str(error), self._clock())
        finally:
            self._guard.release()

    def _next(self) -> Start | None:
        site = self._served
        self._note_lines(site)
        try:
            with locked(lock_path(site.state), "headnode serve"):
                starts = due_now(site, self._clock())
        except BusyError:
            return None  # somebody runs a job: by hand, or since before a restart
        self._not_begun.looked(self._clock())
        return starts[0] if starts else None

    def _catch_up(self) -> None:
        """Have blades that missed a rollout pull, if it is time to look and there are any."""
        site = self._served
        every_s, now_s = site.cluster.schedule.missed_min * 60, time.monotonic()
        if not every_s or now_s - self._caught_up_s < every_s or self._stopping.is_set():
            return
        self._caught_up_s = now_s
        with Ledger.of(site) as ledger:
            found = missed_once(site, ledger, clock=self._clock)
        if found and not holder(site.state / progress.LOCK):
            log.info("looking whether %s can catch up", fold(found))
            self._start(["rollout", "run", "--missed"], f"{self._clock():%Y%m%d}-missed")

    def _is_done(self, start: Start) -> bool:
        """Run what is due; whether all went well. What could not begin is told."""
        try:
            child = self._run(start)
        except OSError as error:
            log.error("job %s cannot be started: %s", start.job, error)
            self._not_begun.tell(self._served, start.job, str(error), self._clock())
            return False
        if child.code:
            log.error("job %s ended with exit code %d", start.job, child.code)
            if not self._stopping.is_set():
                self._not_begun.ended(self._served, start, child, self._clock())
        return not child.code

    def _run(self, start: Start) -> Ended:
        due = ["--due", start.due.isoformat(timespec="seconds")] if start.due else []
        moment = start.due or self._clock()  # of one night one file, however often it is begun
        name = f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{start.job}"
        return self._start(["schedule", "run", start.job, *due], name)

    def _start(self, words: list[str], name: str) -> Ended:
        """Run a command of headnode's, with a log of that name; how it ended."""
        site = self._served
        # One that is left alone goes on against servers that are gone, and every pull fails: it is
        # told to stop, as by `stop`, when this thread has ended (prctl(2), PR_SET_PDEATHSIG).
        argv = ["setpriv", "--pdeathsig", "TERM", "--", *self._headnode, *words]
        path = site.state / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("headnode %s starts, its log is %s", " ".join(words), path)
        with path.open("a+", errors="replace") as file:
            begins = file.tell()
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
                start_new_session=True,
            )
            if self._stopping.is_set():  # while it was started
                self._child.terminate()
            code = self._child.wait()
            file.seek(begins)
            said = file.read() if code else ""
        return Ended(code=code, process=self._child.pid, said=said)


def ahead_s() -> float:
    """How far the clock is ahead of one that nobody sets; another number after a step."""
    return time.time() - time.monotonic()


def due_now(site: Site, now: datetime) -> list[Start]:
    """What is to run now; the jobs' lock has to be held, so that no run is at work.

    A damaged ledger is begun anew: the last night is then done over, which finds nothing to do.

    Raises:
        LedgerError: nobody knows.
    """
    with Ledger.of(site) as ledger:
        try:
            known = _known(site, ledger, now)
        except LedgerError as error:
            aside = begin_anew(ledger, now) if error.damaged else None
            if aside is None:
                raise
            log.error("a new ledger is begun, the damaged one is %s", aside)
            known = _known(site, ledger, now)
    return plan(site.cluster.schedule, known, now)


def _known(site: Site, ledger: Ledger, now: datetime) -> Known:
    with ledger.store.reading() as connection:
        return Known(
            since={job: since for job, (_, since) in read_lines(site).items()},
            last_due=runs.last_due(connection, headnode_name(), now),
            cut_off=runs.cut_off(connection, headnode_name()),
        )


def lines_path(site: Site) -> Path:
    """Where it is noted since when each job has its line."""
    return site.state / "schedule.json"


def read_lines(site: Site) -> dict[str, tuple[str, datetime]]:
    """Since when each job has which line; empty if it was never noted, or is damaged."""
    try:
        said = json.loads(lines_path(site).read_text())
        return {job: (line, datetime.fromisoformat(at)) for job, (line, at) in said.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def note_lines(site: Site, now: datetime) -> None:
    """Note since when each job has its line."""
    before = read_lines(site)
    found = lines_since(site.cluster.schedule, before, now)
    if found != before:
        said = {job: (line, at.isoformat()) for job, (line, at) in found.items()}
        write_atomic(lines_path(site), json.dumps(said, indent=1) + "\n")
