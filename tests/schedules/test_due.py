"""What is run when: nights on time, missed ones once, and none twice, with a simulated clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from config.model import Schedule
from schedules.due import Known, Start, lines_since, next_due, plan, why
from schedules.ledger.runs import Run, State

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NIGHTLY = Schedule(jobs={"nightly": "15 1 * * *"})
SINCE = {"nightly": START, "gc": START}


def at(day: int, hour: int = 1, minute: int = 15) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def known(**last: datetime) -> Known:
    return Known(since=SINCE, last_due=last)


def test_nothing_is_due_before_its_time_and_it_is_then() -> None:
    assert plan(NIGHTLY, known(), at(2, 1, 14)) == []
    assert plan(NIGHTLY, known(), at(2)) == [Start(job="nightly", due=at(2))]
    assert plan(NIGHTLY, known(nightly=at(2)), at(2, 1, 16)) == []


def test_a_headnode_that_was_off_for_days_makes_up_for_one_night() -> None:
    assert plan(NIGHTLY, known(nightly=at(2)), at(9, 10)) == [Start(job="nightly", due=at(9))]
    assert plan(NIGHTLY, known(nightly=at(9)), at(9, 10, 1)) == []


def test_a_run_that_was_missed_too_long_ago_is_left_to_the_next_night() -> None:
    late = Schedule(jobs=NIGHTLY.jobs, catch_up_h=2.0)
    assert plan(late, known(nightly=at(2)), at(9, 3, 14)) == [Start(job="nightly", due=at(9))]
    assert plan(late, known(nightly=at(2)), at(9, 3, 16)) == []
    never = Schedule(jobs=NIGHTLY.jobs, catch_up_h=0.0)
    assert plan(never, known(nightly=at(2)), at(9, 1, 21)) == []
    assert plan(never, known(nightly=at(2)), at(9, 1, 16)) == [Start(job="nightly", due=at(9))]


def test_a_new_schedule_makes_up_for_nothing_before_it() -> None:
    """The nightly has run; then its line is changed to an hour that is over."""
    line = Schedule(jobs={"nightly": "0 9 * * *"})
    before = lines_since(NIGHTLY, {}, START)
    changed = lines_since(line, before, at(9, 10, 0))
    since = {job: moment for job, (_, moment) in changed.items()}
    assert plan(line, Known(since=since, last_due={"nightly": at(9)}), at(9, 10, 1)) == []
    assert plan(line, Known(since=since, last_due={"nightly": at(9)}), at(10, 9, 0)) == [
        Start(job="nightly", due=at(10, 9, 0))
    ]
    assert lines_since(line, changed, at(20)) == changed
    other_zone = line.model_copy(update={"time_zone": "Europe/Berlin"})
    assert lines_since(other_zone, changed, at(20))["nightly"][1] == at(20)


def test_what_was_noted_by_a_clock_that_was_ahead_stops_no_night() -> None:
    year, since = timedelta(days=365), {"nightly": ("15 1 * * * UTC", START)}
    ahead = Known(since={"nightly": START + year}, last_due={"nightly": at(2) + year})
    assert plan(NIGHTLY, ahead, at(9, 3)) == [Start(job="nightly", due=at(9))]
    assert lines_since(NIGHTLY, since, START - year) == {
        "nightly": ("15 1 * * * UTC", START - year)
    }
    # A step of a few seconds, as of a night's first look at an NTP server, is none.
    second = timedelta(seconds=1)
    assert lines_since(NIGHTLY, since, START - second) == since
    assert plan(NIGHTLY, known(nightly=at(9)), at(9) - second) == []


def test_the_longest_due_runs_first() -> None:
    both = Schedule(jobs={"gc": "0 2 * * *", "nightly": "15 1 * * *"})
    assert [start.job for start in plan(both, known(), at(2, 3))] == ["nightly", "gc"]


def run(job: str, due: datetime | None, started: datetime) -> Run:
    return Run(
        id=7,
        job=job,
        why="schedule",
        due=due,
        holder="h",
        started=started,
        heartbeat=started,
        finished=None,
        outcome=State.RUNNING,
        error="",
    )


def test_what_was_cut_off_comes_first_and_stands_for_its_job() -> None:
    cut = Known(since=SINCE, last_due={"nightly": at(8)}, cut_off=[run("nightly", at(8), at(8))])
    both = Schedule(jobs={"gc": "0 2 * * *", "nightly": "15 1 * * *"}, catch_up_h=30.0)
    assert plan(both, cut, at(9, 3)) == [
        Start(job="nightly", due=at(8), run=7),
        Start(job="gc", due=at(9, 2, 0)),
    ]
    old = Known(since=SINCE, last_due={"nightly": at(7)}, cut_off=[run("nightly", at(7), at(7))])
    assert plan(NIGHTLY, old, at(9, 3)) == [Start(job="nightly", due=at(9))]


def test_a_run_by_hand_that_was_cut_off_is_gone_on_with_too() -> None:
    cut = Known(since=SINCE, last_due={}, cut_off=[run("build", None, at(9, 3))])
    assert plan(Schedule(jobs={}), cut, at(9, 4)) == [Start(job="build", due=None, run=7)]


def test_a_run_that_somebody_started_and_ended_is_left_to_him() -> None:
    stopped = replace(run("build", None, at(9, 3)), outcome=State.STOPPED)
    by_daemon = replace(run("gc", at(9, 2), at(9, 3)), outcome=State.STOPPED)
    cut = Known(since=SINCE, last_due={}, cut_off=[stopped, by_daemon])
    assert [start.job for start in plan(Schedule(jobs={}), cut, at(9, 4))] == ["gc"]


def test_every_night_of_a_year_with_clock_changes_has_one_run() -> None:
    """A look every 7 minutes, in a zone whose clocks are changed at that very time."""
    berlin = Schedule(time_zone="Europe/Berlin", jobs={"nightly": "30 2 * * *"})
    now, last, nights = START, {}, []
    while now < START + timedelta(days=365):
        for start in plan(berlin, Known(since={"nightly": START}, last_due=last), now):
            assert start.due is not None
            last = {"nightly": start.due}
            nights.append(start.due)
        now += timedelta(minutes=7)
    assert len(nights) == 365
    assert len(set(nights)) == 365
    assert nights[27] == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 02:30 was left out


def test_the_history_says_whether_a_run_was_on_time() -> None:
    start = Start(job="nightly", due=at(9))
    assert [why(start, moment) for moment in (at(9), at(9, 1, 20), at(9, 1, 21))] == [
        "schedule",
        "schedule",
        "made up",
    ]


def test_a_job_without_a_line_never_comes() -> None:
    assert next_due(NIGHTLY, "build", START) is None
    assert next_due(NIGHTLY, "nightly", START) == at(2)
