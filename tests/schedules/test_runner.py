"""Runs that are killed at any point are gone on with, and nothing that was done is done again."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.model import Class, Cluster, State
from headnode.errors import BuildError, BusyError, LedgerError
from schedules import runner
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Run
from schedules.runner import Task, Work, begin, headnode_name, resume
from schedules.site import Site

NAMES = ("mirror-sync", "build", "publish", "rollout", "gc")
NIGHT = datetime(2026, 3, 1, 1, 15, tzinfo=UTC)


class Clock:
    """A minute passes each time that somebody looks."""

    def __init__(self) -> None:
        self.now = NIGHT

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def site(tmp_path: Path) -> Site:
    state = State(path=tmp_path / "state", reserve_mib=0)
    classes = {"blade": Class(packages=("a/b",), rings={"canary": "blade1"})}
    return Site(cluster=Cluster(state=state, classes=classes))


@pytest.fixture
def work(site: Site) -> Iterator[Work]:
    with Ledger.of(site) as ledger:
        yield Work(site=site, ledger=ledger, clock=Clock(), pause=lambda seconds: None)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tasks(site: Site, at: str = "", when: str = "", how: Callable[[], None] = kill) -> list[Task]:
    """Tasks that note what they do; `how` strikes `at` one of them, `before` or `after` it."""

    def do(name: str) -> str:
        if (at, when) == (name, "before"):
            how()
        with (site.state / "done").open("a") as file:
            file.write(f"{name}\n")
        if (at, when) == (name, "after"):
            how()
        return f"{name} is good"

    return [Task(name, lambda work, name=name: do(name)) for name in NAMES]


def done(site: Site) -> list[str]:
    path = site.state / "done"
    return path.read_text().split() if path.exists() else []


def in_a_process(body: Callable[[], object]) -> int:
    """Run `body` in a process of its own; the signal that ended it, or 0."""
    if pid := os.fork():
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
    code = 1
    try:
        body()
        code = 0
    finally:
        os._exit(code)


def slowly(task: Task, work: Work) -> str:
    time.sleep(0.02)
    return task.do(work)


def begin_in_a_process(site: Site, chosen: list[Task]) -> int:
    def body() -> None:
        with Ledger.of(site) as ledger:
            begin(
                Work(site=site, ledger=ledger, clock=Clock()), "nightly", chosen, why="x", due=NIGHT
            )

    return in_a_process(body)


def cut_off(ledger: Ledger) -> list[Run]:
    with ledger.store.reading() as connection:
        return runs.cut_off(connection, headnode_name())


def go_on(work: Work, chosen: list[Task]) -> Run:
    [run] = cut_off(work.ledger)
    return resume(work, run, chosen)


def test_a_run_is_written_down_with_all_its_steps(work: Work, site: Site) -> None:
    run = begin(work, "nightly", tasks(site), why="schedule", due=NIGHT)
    assert (run.job, run.why, run.due, run.outcome, run.error) == (
        *("nightly", "schedule", NIGHT),
        *("ok", ""),
    )
    assert [(step.name, step.outcome, step.tries, step.said) for step in run.steps] == [
        (name, "ok", 1, f"{name} is good") for name in NAMES
    ]
    assert [step.seconds for step in run.steps] == [60.0] * 5
    assert run.seconds == 60.0 * 11
    assert work.ledger.runs(headnode_name()) == [run]
    assert cut_off(work.ledger) == []


@pytest.mark.parametrize("at", NAMES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_is_killed_in_a_step_goes_on_in_that_step(
    work: Work, site: Site, at: str, when: str
) -> None:
    assert begin_in_a_process(site, tasks(site, at, when)) == signal.SIGKILL
    run = go_on(work, tasks(site))
    place = NAMES.index(at)
    assert run.outcome == "ok"
    assert [step.tries for step in run.steps] == [2 if name == at else 1 for name in NAMES]
    again = [at] if when == "after" else []  # nobody could write down that it was done
    assert done(site) == [*NAMES[:place], *again, *NAMES[place:]]
    assert [each.id for each in work.ledger.runs(headnode_name())] == [run.id]


@pytest.mark.parametrize("seed", range(8))
def test_a_run_that_is_killed_at_random_again_and_again_comes_to_its_end(
    work: Work, site: Site, seed: int
) -> None:
    """Also between the steps, and while the ledger is written."""
    dice = random.Random(seed)  # noqa: S311
    slow = [Task(each.name, lambda work, each=each: slowly(each, work)) for each in tasks(site)]

    def body() -> None:
        with Ledger.of(site) as ledger:
            mine = Work(site=site, ledger=ledger, clock=Clock())
            found = cut_off(ledger)
            if found:
                resume(mine, found[0], slow)
            elif not ledger.runs(headnode_name()):
                begin(mine, "nightly", slow, why="x", due=NIGHT)

    kills = 0
    for _ in range(2):  # more could end one step three times
        pid = os.fork()
        if not pid:
            try:
                body()
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0.0, 0.25))
        os.kill(pid, signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert in_a_process(body) == 0
    [run] = work.ledger.runs(headnode_name())
    assert (run.outcome, [step.name for step in run.steps]) == ("ok", list(NAMES))
    assert sorted(set(done(site)), key=NAMES.index) == list(NAMES)
    # A step is repeated for each time that it was cut off, and the others never.
    assert len(done(site)) <= len(NAMES) + kills
    assert done(site) == sorted(done(site), key=NAMES.index)


def test_a_step_that_kills_its_process_each_time_is_given_up(work: Work, site: Site) -> None:
    assert begin_in_a_process(site, tasks(site, "build", "before")) == signal.SIGKILL
    for _ in range(2):
        assert in_a_process(lambda: _go_on_anew(site)) == signal.SIGKILL
    run = go_on(work, tasks(site, "build", "before"))
    assert run.outcome == "failed"
    assert run.error == "build: was begun 3 times and never came to an end"
    assert done(site) == ["mirror-sync"]


def _go_on_anew(site: Site) -> None:
    with Ledger.of(site) as ledger:
        go_on(Work(site=site, ledger=ledger), tasks(site, "build", "before"))


def fails(error: BaseException) -> Callable[[], None]:
    def how() -> None:
        raise error

    return how


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BuildError("a/b-1 did not build.", remedy="Look."), "build: a/b-1 did not build. Look."),
        (OSError(28, "No space left on device"), "build: [Errno 28] No space left on device"),
        (KeyError("x"), "build: a fault of headnode's: KeyError('x')"),
    ],
)
def test_nothing_starts_after_a_step_that_failed(
    work: Work, site: Site, error: Exception, said: str
) -> None:
    run = begin(work, "nightly", tasks(site, "build", "before", fails(error)), why="x", due=None)
    assert (run.outcome, run.error) == ("failed", said)
    assert [(step.name, step.outcome) for step in run.steps] == [
        ("mirror-sync", "ok"),
        ("build", "failed"),
    ]
    assert done(site) == ["mirror-sync"]
    assert cut_off(work.ledger) == []


def test_a_run_that_is_asked_to_stop_is_gone_on_with(work: Work, site: Site) -> None:
    with pytest.raises(KeyboardInterrupt):
        chosen = tasks(site, "publish", "before", fails(KeyboardInterrupt()))
        begin(work, "nightly", chosen, why="x", due=None)
    [run] = cut_off(work.ledger)
    assert (run.outcome, run.error, run.finished) == ("stopped", "asked to stop", None)
    assert go_on(work, tasks(site)).outcome == "ok"
    assert done(site) == list(NAMES)


def test_a_daemon_that_is_restarted_again_and_again_spends_no_tries(work: Work, site: Site) -> None:
    chosen = tasks(site, "publish", "before", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        begin(work, "nightly", chosen, why="x", due=NIGHT)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            go_on(work, chosen)
    run = go_on(work, tasks(site))
    assert (run.outcome, [step.tries for step in run.steps]) == ("ok", [1] * 5)


def test_who_holds_a_lock_is_waited_for(work: Work, site: Site) -> None:
    held = [1, 2, 3]

    def busy() -> None:
        if held:
            held.pop()
            raise BusyError(Path("/x/.lock"), "headnode build (process 7)")

    run = begin(work, "nightly", tasks(site, "build", "before", busy), why="x", due=None)
    assert (run.outcome, held) == ("ok", [])


def test_a_lock_that_is_never_given_back_fails_the_run(
    work: Work, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BUSY_TRIES", 3)
    busy = fails(BusyError(Path("/x/.lock"), "headnode build (process 7)"))
    run = begin(work, "nightly", tasks(site, "build", "before", busy), why="x", due=None)
    assert run.error == (
        "build: headnode build (process 7) holds /x/.lock. Wait for it to end, then run this again."
    )


def with_busy(site: Site, busy_s: float) -> Site:
    options = site.cluster.ledger.model_copy(update={"busy_s": busy_s})
    return Site(cluster=site.cluster.model_copy(update={"ledger": options}))


def test_a_ledger_that_is_locked_for_a_while_is_waited_for(site: Site) -> None:
    site = with_busy(site, 0.05)
    holding, over = threading.Event(), threading.Event()

    def hold() -> None:
        with Ledger.of(site) as other, other.store.writing():
            holding.set()
            over.wait(30)

    thread = threading.Thread(target=hold)

    def lock() -> None:
        thread.start()
        holding.wait(30)

    def pause(seconds: float) -> None:
        over.set()
        thread.join()

    with Ledger.of(site) as ledger:
        work = Work(site=site, ledger=ledger, clock=Clock(), pause=pause)
        run = begin(work, "nightly", tasks(site, "build", "after", lock), why="x", due=None)
    assert run.outcome == "ok"
    assert done(site) == list(NAMES)


def test_without_a_ledger_nothing_is_begun(site: Site) -> None:
    site = with_busy(site, 0.05)
    with Ledger.of(site) as other, Ledger.of(site) as ledger:
        other.blades()
        with other.store.writing(), pytest.raises(LedgerError):
            begin(Work(site=site, ledger=ledger), "nightly", tasks(site), why="x", due=None)
    assert done(site) == []
