"""Runs and steps, in SQLite and in a real PostgreSQL server alike."""

from datetime import UTC, datetime, timedelta

from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Claim, State, is_too_old

NIGHT = datetime(2026, 3, 1, 1, 15, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


def claim(ledger: Ledger, job: str, minutes: float, headnode: str = "here") -> int:
    wanted = Claim(job=job, why="schedule", due=at(minutes), headnode=headnode, holder="h")
    with ledger.store.writing() as connection:
        return runs.claim(connection, wanted, at(minutes))


def test_a_step_that_is_begun_again_counts_its_tries_and_forgets_its_end(ledger: Ledger) -> None:
    number = claim(ledger, "nightly", 0)
    with ledger.store.writing() as connection:
        assert runs.begin_step(connection, number, 0, "build", at(1)) == 1
        runs.end_step(connection, number, "build", State.FAILED, error="no", now=at(2))
        assert runs.begin_step(connection, number, 0, "build", at(3)) == 2
        [step] = runs.read_run(connection, number).steps
        assert (step.started, step.finished, step.outcome, step.error) == (
            *(at(3), None),
            *(State.RUNNING, ""),
        )
        assert step.seconds is None
        runs.end_step(connection, number, "build", State.OK, said="good", now=at(5))
        [step] = runs.read_run(connection, number).steps
    assert (step.seconds, step.said, step.tries) == (120.0, "good", 2)


def test_what_nobody_ended_was_cut_off_also_when_it_was_asked_to_stop(ledger: Ledger) -> None:
    numbers = [claim(ledger, "nightly", minutes) for minutes in range(4)]
    with ledger.store.writing() as connection:
        for number, outcome in zip(
            numbers[1:], (State.OK, State.STOPPED, State.FAILED), strict=True
        ):
            runs.end(connection, number, outcome, "", at(9))
        assert [run.id for run in runs.cut_off(connection, "here")] == [numbers[0], numbers[2]]
        runs.take_over(connection, numbers[2], "another", at(10))
        run = runs.read_run(connection, numbers[2])
    assert (run.holder, run.outcome, run.heartbeat) == ("another", State.RUNNING, at(10))


def test_headnodes_that_share_a_ledger_do_not_touch_each_other_s_runs(ledger: Ledger) -> None:
    mine, other = claim(ledger, "nightly", 0), claim(ledger, "nightly", 5, "there")
    with ledger.store.reading() as connection:
        assert runs.last_due(connection, "here", at(9)) == {"nightly": at(0)}
        assert runs.last_due(connection, "there", at(9)) == {"nightly": at(5)}
        assert [run.id for run in runs.cut_off(connection, "here")] == [mine]
        assert [run.id for run in runs.read_runs(connection, "there")] == [other]


def test_a_run_of_a_time_that_is_still_to_come_hides_none_that_was(ledger: Ledger) -> None:
    """One night with the clock a year ahead."""
    claim(ledger, "nightly", 0)
    claim(ledger, "nightly", 9000)
    claim(ledger, "gc", 9000)
    with ledger.store.reading() as connection:
        assert runs.last_due(connection, "here", at(1)) == {"nightly": at(0)}
        assert runs.last_due(connection, "here", at(9000)) == {
            "nightly": at(9000),
            "gc": at(9000),
        }


def test_a_heartbeat_moves_nothing_else(ledger: Ledger) -> None:
    number = claim(ledger, "gc", 0)
    with ledger.store.writing() as connection:
        before = runs.read_run(connection, number)
        runs.beat(connection, number, at(7))
        after = runs.read_run(connection, number)
    assert (before.heartbeat, after.heartbeat) == (at(0), at(7))
    assert (before.started, before.outcome) == (after.started, after.outcome)


def test_old_runs_go_with_their_steps_and_a_job_s_newest_stays(ledger: Ledger) -> None:
    numbers = [claim(ledger, "nightly", minutes) for minutes in range(3)]
    with ledger.store.writing() as connection:
        for number in numbers:
            runs.begin_step(connection, number, 0, "build", at(number))
            runs.end(connection, number, State.OK, "", at(3))
        assert runs.forget_runs(connection, at(4)) == 2
        assert [run.id for run in runs.read_runs(connection, "here")] == [numbers[2]]
        assert len(runs.read_run(connection, numbers[2]).steps) == 1


def test_how_old_a_run_is_counts_from_when_it_was_due(ledger: Ledger) -> None:
    number = claim(ledger, "nightly", 0)
    with ledger.store.reading() as connection:
        run = runs.read_run(connection, number)
    hour = timedelta(hours=1)
    assert [is_too_old(run, moment, hour) for moment in (at(60), at(61))] == [False, True]
