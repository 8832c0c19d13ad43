"""What `headnode serve`'s scheduler does when the clock is set, and when a night cannot begin."""

import errno
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from apscheduler.schedulers import base

from config.load import load
from headnode import scheduler as module
from headnode.cli import run
from headnode.errors import LedgerError
from headnode.files import locked
from headnode.not_begun import Ended, NotBegun
from headnode.scheduler import Scheduler, due_now, lines_path, read_lines
from schedules import notices
from schedules.due import Start
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Claim
from schedules.runner import headnode_name, lock_path
from schedules.site import Site

CONFIG = """\
[state]
path = "state"
reserve_mib = 0

[signing]
mode = "off"

[mirror]
stale_h = 0

[ledger]
busy_s = 0.2

[notices]
command = "cat >> told; echo ---- >> told"

[schedule]
missed_min = 0
catch_up_h = 30
jobs = { JOB = "0 0 * * *" }

[classes.blade]
packages = ["app-misc/hello"]
rings = { canary = "blade1" }
"""
YEAR = timedelta(days=365)
END = "headnode status, headnode schedule history and headnode blades list say more.\n"


def made(folder: Path, job: str = "gc") -> Site:
    """A cluster whose job has had its line for a week, and ran at no time."""
    (folder / "cluster.toml").write_text(CONFIG.replace("JOB", job))
    site = Site(cluster=load(folder / "cluster.toml"))
    site.state.mkdir()
    at = datetime.now(UTC) - timedelta(days=7)
    lines_path(site).write_text(json.dumps({job: ["0 0 * * * UTC", at.isoformat()]}))
    with Ledger.of(site) as ledger, ledger.store.writing():
        pass
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def eventually(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def told() -> list[str]:
    path = Path("told")
    return path.read_text().split("----\n")[:-1] if path.exists() else []


class Clock:
    """The machine's clock, as the scheduler and APScheduler read it, and how far it is ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta()
        outer, real = self, time.time

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + outer.ahead

        monkeypatch.setattr(base, "datetime", Now)
        monkeypatch.setattr(time, "time", lambda: real() + outer.ahead.total_seconds())

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("step", [-YEAR, -timedelta(hours=8), timedelta(hours=8), YEAR])
def test_a_clock_that_is_set_is_looked_at_anew_once(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    looks: list[datetime] = []
    monkeypatch.setattr(Scheduler, "_look", lambda self: looks.append(clock()))
    clock.ahead = max(-step, timedelta())
    scheduler = Scheduler(["false"], clock)
    scheduler.watch(site)
    eventually(lambda: len(looks) == 1)
    clock.ahead += step
    scheduler.watch(site)
    eventually(lambda: len(looks) == 2)
    scheduler.watch(site)
    inner = scheduler._scheduler
    assert inner is not None
    to_go = [job.next_run_time - clock() for job in inner.get_jobs()]
    assert max(to_go) <= timedelta(days=1)
    assert inner.get_job("look").next_run_time - clock() <= timedelta(minutes=1)
    scheduler.stop()
    assert len(looks) == 2


def test_a_job_that_runs_when_the_clock_is_set_goes_on(site: Site, clock: Clock) -> None:
    words = "echo begun >> said; while ! [ -e end ]; do sleep 0.1; done; echo ended >> said; exit 1"
    scheduler = Scheduler(["sh", "-c", words], clock)
    scheduler.watch(site)
    eventually(Path("said").exists)
    before, child = scheduler._scheduler, scheduler._child
    clock.ahead = -timedelta(hours=1)
    try:
        scheduler.watch(site)
        assert scheduler._scheduler is not before
    finally:
        Path("end").touch()
        assert child is not None
        child.wait(60)
        scheduler.stop()
    assert Path("said").read_text() == "begun\nended\n"


def test_a_night_that_ran_while_the_clock_was_a_year_ahead_stops_no_other(site: Site) -> None:
    ahead = Claim(
        job="gc", why="schedule", due=midnight() + YEAR, headnode=headnode_name(), holder="h"
    )
    with Ledger.of(site) as ledger, ledger.store.writing() as connection:
        number = runs.claim(connection, ahead, midnight() + YEAR)
        runs.end(connection, number, runs.State.OK, "", midnight() + YEAR)
    now = midnight() + timedelta(hours=1)
    assert due_now(site, now) == [Start(job="gc", due=midnight())]
    assert run(["schedule", "run", "gc", "--due", midnight().isoformat()]) == 0
    with Ledger.of(site) as ledger:
        assert [each.due for each in ledger.runs(headnode_name())] == [
            midnight(),
            midnight() + YEAR,
        ]
    assert due_now(site, now) == []


def test_a_full_disk_keeps_the_scheduler_from_noting_lines_and_from_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines_path(site).unlink()
    scheduler = Scheduler(["false"])
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomic", full)
        patched.setattr(Scheduler, "_look", lambda self: None)
        scheduler.watch(site)
        assert scheduler.is_alive()
        assert read_lines(site) == {}
    scheduler._look()  # the disk has room again
    assert list(read_lines(site)) == ["gc"]
    scheduler.stop()


def real(site: Site, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Scheduler:
    """A scheduler whose jobs are real ones, and which looks when it is told to."""
    scheduler = Scheduler([sys.executable, "-m", "headnode"], clock)
    scheduler._site = site
    return scheduler


@contextmanager
def writing(site: Site) -> Iterator[None]:
    """Somebody who has begun to write in the ledger, and does not end."""
    holder = sqlite3.connect(site.state / "headnode.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def cut_off(site: Site, job: str) -> None:
    wanted = Claim(job=job, why="s", due=midnight(), headnode=headnode_name(), holder="gone")
    with Ledger.of(site) as ledger, ledger.store.writing() as connection:
        runs.claim(connection, wanted, midnight())


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_a_night_that_finds_the_ledger_locked_is_told_once_and_begins_when_it_is_free(
    site: Site, is_cut_off: bool
) -> None:
    if is_cut_off:
        cut_off(site, "gc")
    scheduler = real(site)
    with writing(site):
        scheduler._look()
        [notice] = told()
        scheduler._look()
        real(site)._look()  # after a restart
    [log] = (site.state / "logs").iterdir()
    first = log.read_text().splitlines()[-1].removeprefix("headnode: ")
    assert first.startswith("The ledger ")
    assert notice == f"gc could not begin: {first}\n\n{END}"
    scheduler._look()
    assert told() == [notice]
    with Ledger.of(site) as ledger:
        assert [each.outcome for each in ledger.runs(headnode_name())] == ["ok"]


def test_a_typo_that_only_the_job_meets_is_told_as_serve_s_configuration_says(site: Site) -> None:
    config = Path("cluster.toml").read_text()
    Path("cluster.toml").write_text(config.replace("cat >> told;", "exit 1;") + "[rolout]\na = 1\n")
    real(site)._look()
    [notice] = told()
    assert notice.startswith("gc could not begin: ")
    assert "rolout" in notice


def test_a_run_that_begins_and_fails_is_told_by_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    real(made(tmp_path, "build"))._look()
    assert told() == [
        "build failed at build: The repository gentoo was never synced. "
        f"Run headnode mirror sync.\n\n{END}"
    ]


def test_a_job_that_waits_for_one_by_hand_is_no_trouble(site: Site) -> None:
    """One that began between the look and the job."""
    start = Start(job="gc", due=midnight())
    with locked(lock_path(site.state), "somebody"):
        NotBegun(midnight()).ended(site, start, Ended(code=1, process=1, said=""), midnight())
    assert told() == []
    NotBegun(midnight()).ended(site, start, Ended(code=-9, process=1, said=""), midnight())
    assert told() == [f"gc could not begin: it ended with exit code -9 and said nothing.\n\n{END}"]


def test_a_full_disk_is_told_once_where_that_cannot_be_noted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(notices, "write_atomic", full)
    (site.state / "logs").write_text("no folder: a job cannot be started")
    scheduler = real(site)
    scheduler._look()
    scheduler._look()
    assert told() == [f"gc could not begin: [Errno 17] File exists: '{site.state}/logs'\n\n{END}"]


def test_a_ledger_that_cannot_be_asked_is_told_when_a_night_comes_and_the_next_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(site: Site, now: datetime) -> list[Start]:
        raise LedgerError("The ledger is gone.", remedy="Start it.")

    monkeypatch.setattr(module, "due_now", gone)
    now = [midnight() - timedelta(hours=2)]
    scheduler = real(site, lambda: now[0])
    for hours in (0, 1, 3, 4, 22, 27):
        now[0] = midnight() + timedelta(hours=hours - 2)
        scheduler._look()
        assert len(told()) == (hours >= 3) + (hours >= 27)
    assert told()[0] == f"gc could not begin: The ledger is gone. Start it.\n\n{END}"
