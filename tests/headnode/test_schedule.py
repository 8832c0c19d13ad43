"""`headnode schedule`, and the scheduler in a real `headnode serve`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.load import load
from headnode.cli import run
from headnode.files import locked
from headnode.scheduler import Scheduler, due_now, lines_path, note_lines, read_lines
from schedules.due import Start
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Claim, State
from schedules.runner import headnode_name, lock_path
from schedules.site import Site
from tests.ports import free_port

CONFIG = """\
[state]
path = "state"
reserve_mib = 0

[serve]
listen = "127.0.0.1"
http_port = {http}
rsync_port = {rsync}
workers = 1

[signing]
mode = "off"

[mirror]
stale_h = 0

[schedule]
jobs = {{ gc = "{line}" }}

[classes.blade]
packages = ["app-misc/hello"]
rings = {{ canary = "blade1" }}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    http, rsync = free_port(), free_port()
    text = CONFIG.format(http=http, rsync=rsync, line="0 0 * * *")
    (tmp_path / "cluster.toml").write_text(text)
    (tmp_path / "state").mkdir()
    return Site(cluster=load(tmp_path / "cluster.toml"))


def history() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "headnode", "schedule", "history", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return list(json.loads(done.stdout))


def eventually(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline, f"it never came: {history()}"
        time.sleep(0.2)


@contextmanager
def serving() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "headnode", "--verbose", "serve"],
        stdout=subprocess.PIPE,
        stderr=Path("serve.log").open("a"),  # noqa: SIM115
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("Serving"), Path("serve.log").read_text()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def was_off_since_yesterday(site: Site) -> None:
    """The line is a week old, and nothing ran since."""
    at = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    lines_path(site).write_text(json.dumps({"gc": ["0 0 * * * UTC", at]}))


def test_a_night_that_was_missed_is_made_up_for_once_by_a_real_daemon(site: Site) -> None:
    was_off_since_yesterday(site)
    hours = datetime.now(UTC).hour
    options = 'catch_up_h = 30\njobs = { gc = "0 0'
    text = Path("cluster.toml").read_text().replace('jobs = { gc = "0 0', options)
    Path("cluster.toml").write_text(text)
    with serving():
        eventually(lambda: [each["outcome"] for each in history()] == ["ok"])
    with serving():
        time.sleep(3)
    [night] = history()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert night["due"] == str(midnight)
    assert night["why"] == ("made up" if hours else night["why"])
    assert [step["name"] for step in night["steps"]] == ["gc", "tidy"]
    [log] = Path("state/logs").iterdir()
    assert log.read_text().splitlines()[-1].startswith("run 1 of gc: ok in ")


def test_a_run_that_was_cut_off_is_gone_on_with_by_a_real_daemon(site: Site) -> None:
    number = cut_off(site, "gc")
    with serving():
        eventually(lambda: [each["outcome"] for each in history()] == ["ok"])
    [done] = history()
    assert done["id"] == number
    assert [(step["name"], step["tries"]) for step in done["steps"]] == [("gc", 1), ("tidy", 1)]


def test_a_job_stops_when_the_daemon_is_killed_and_is_gone_on_with(site: Site) -> None:
    was_off_since_yesterday(site)
    text = Path("cluster.toml").read_text()
    Path("cluster.toml").write_text(text.replace("jobs = {", "catch_up_h = 30\njobs = {"))
    folder = site.state / "build/blade"
    with (
        locked(folder / ".lock", "somebody"),
        locked(site.state / "binhost/blade/.lock", "else"),
        serving() as process,
    ):
        eventually(lambda: [len(each["steps"]) for each in history()] == [1])
        process.kill()
        eventually(lambda: [each["outcome"] for each in history()] == ["stopped"])
    with serving():
        eventually(lambda: [each["outcome"] for each in history()] == ["ok"])


def cut_off(site: Site, job: str, at: datetime | None = None) -> int:
    """A run whose process died in its first step, which was done."""
    now = at or datetime.now(UTC)
    wanted = Claim(job=job, why="schedule", due=now, headnode=headnode_name(), holder="gone")
    with Ledger.of(site) as ledger, ledger.store.writing() as connection:
        number = runs.claim(connection, wanted, now)
        runs.begin_step(connection, number, 0, "gc", now)
        runs.end_step(connection, number, "gc", State.OK, said="done before", now=now)
    return number


# What a locked job store does to APScheduler 3.11.3: its thread ends with an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_scheduler_thread_that_died_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "_look", lambda self: None)
    scheduler = Scheduler([sys.executable, "-m", "headnode"])
    scheduler.watch(site)
    assert scheduler.is_alive()
    inner = scheduler._scheduler
    assert inner is not None
    monkeypatch.setattr(inner, "_process_jobs", lambda: 1 / 0)
    inner.wakeup()
    inner._thread.join(30)
    assert not scheduler.is_alive()
    assert inner.running  # which is why it is not asked
    scheduler.watch(site)
    assert scheduler.is_alive()
    assert scheduler._scheduler is not inner
    scheduler.stop()


def test_since_when_a_line_stands_is_noted_once(site: Site) -> None:
    first, later = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    note_lines(site, first)
    note_lines(site, later)
    assert read_lines(site) == {"gc": ("0 0 * * * UTC", first)}
    lines_path(site).write_text("junk")
    note_lines(site, later)
    assert read_lines(site) == {"gc": ("0 0 * * * UTC", later)}


def test_a_job_is_run_by_hand_and_stands_in_list_and_history(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", "run", "gc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["gc", "ok"], ["tidy", "ok"]]
    assert lines[1].endswith("0 runs, 0 reports and 0 logs were old")
    assert lines[2].startswith("run 1 of gc: ok in ")
    assert run(["schedule", "list", "--json"]) == 0
    listed = {each["job"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(listed) == [
        *("nightly", "mirror-sync", "build", "publish", "rollout", "verify", "gc")
    ]
    assert listed["gc"]["line"] == "0 0 * * *"
    assert datetime.fromisoformat(listed["gc"]["next"]) > datetime.now(UTC)
    assert (listed["gc"]["last"]["outcome"], listed["gc"]["last"]["why"]) == ("ok", "by hand")
    assert (listed["nightly"]["line"], listed["nightly"]["next"]) == (None, None)
    assert run(["schedule", "history"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["1", "gc", "by", "hand"]


def test_a_job_that_fails_says_where_and_why(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", "run", "build"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "build: The repository gentoo was never synced. Run headnode mirror sync."
    )
    assert run(["schedule", "history", "--json", "--job", "build"]) == 0
    [failed] = json.loads(capsys.readouterr().out)
    assert (failed["outcome"], failed["error"]) == (
        "failed",
        "build: The repository gentoo was never synced. Run headnode mirror sync.",
    )


def test_two_runs_at_once_are_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(lock_path(site.state), "headnode schedule run nightly"):
        assert run(["schedule", "run", "gc"]) == 1
    assert capsys.readouterr().err == (
        f"headnode: headnode schedule run nightly (process {os.getpid()}) holds "
        f"{site.state}/jobs.lock. Wait for it to end, then run this again.\n"
    )


def test_a_time_that_has_run_is_not_run_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    due = datetime.now(UTC).replace(microsecond=0)
    words = ["schedule", "run", "gc", "--due", due.isoformat()]
    assert run(words) == 0
    capsys.readouterr()
    assert run(words) == 0
    assert capsys.readouterr().err == f"gc has run for {due:%Y-%m-%d %H:%M:%S} UTC already.\n"
    with Ledger.of(site) as ledger:
        assert len(ledger.runs(headnode_name())) == 1


def test_a_run_that_was_cut_off_long_ago_is_closed_and_another_begun(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(site, "gc", datetime.now(UTC) - timedelta(days=2))
    assert run(["schedule", "run", "gc"]) == 0
    with Ledger.of(site) as ledger:
        newest, old = ledger.runs(headnode_name())
    assert (newest.outcome, len(newest.steps), newest.steps[0].said == "done before") == (
        *("ok", 2),
        False,
    )
    assert (old.outcome, old.error) == (
        "abandoned",
        "cut off, and too long ago to be gone on with",
    )


def test_a_damaged_ledger_keeps_no_job_from_running(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.state / "headnode.sqlite").write_bytes(b"junk" * 4096)
    assert run(["schedule", "run", "gc"]) == 0
    [aside] = site.state.glob("headnode.sqlite.damaged-*")
    assert aside.read_bytes() == b"junk" * 4096
    assert f"It is {aside} now." in capsys.readouterr().err


def test_a_damaged_ledger_keeps_the_daemon_from_no_night(site: Site) -> None:
    was_off_since_yesterday(site)
    (site.state / "headnode.sqlite").write_bytes(b"junk" * 4096)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert due_now(site, midnight + timedelta(hours=1)) == [Start(job="gc", due=midnight)]
    assert len(list(site.state.glob("headnode.sqlite.damaged-*"))) == 1


def test_a_running_job_that_is_told_to_end_can_be_gone_on_with(site: Site) -> None:
    """SIGTERM, as the daemon sends it when it stops: while the job waits for a lock."""
    folder = site.state / "build/blade"
    with locked(folder / ".lock", "somebody"), locked(site.state / "binhost/blade/.lock", "else"):
        process = subprocess.Popen([sys.executable, "-m", "headnode", "schedule", "run", "gc"])
        eventually(
            lambda: any(
                step["outcome"] == "running" for each in history() for step in each["steps"]
            )
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    [stopped] = history()
    assert (stopped["outcome"], stopped["error"]) == ("stopped", "asked to stop")
    assert run(["schedule", "run", "gc"]) == 0
    [done] = history()
    assert (done["outcome"], done["id"]) == ("ok", stopped["id"])
