"""What is known of blades, in SQLite and in a real PostgreSQL server alike."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest

from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import (
    ERROR_CHARACTERS,
    LOG_CHARACTERS,
    BladeState,
    Pulled,
    forget_blades,
    forget_reports,
)
from schedules.ledger.recorder import Recorder
from schedules.rollout import BladeReport, Result

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
UPDATED = BladeReport(
    blade="blade01",
    ring="canary",
    result=Result.UPDATED,
    generation=7,
    sequence=9,
    packages=11,
    changes=("-app-misc/a-1", "+app-misc/a-2"),
    emerge_started=True,
    source_builds=0,
    kernel="6.12.1",
    kernel_due="6.12.2",
    fetched_bytes=5 << 32,
    seconds=3.5,
    log="what emerge said",
)
FAILED = BladeReport(
    blade="blade01",
    ring="canary",
    result=Result.FAILED,
    generation=8,
    sequence=10,
    error="no room",
    kernel="6.12.1",
    seconds=1.0,
    log="the log of that",
)


def at(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def state(ledger: Ledger) -> BladeState:
    return ledger.blades()["blade01"]


def test_a_blade_s_row_is_what_its_report_said(ledger: Ledger) -> None:
    ledger.pulled(UPDATED, at(1))
    assert ledger.blades() == {
        "blade01": BladeState(
            name="blade01",
            ring="canary",
            result="updated",
            tried=at(1),
            first_tried=at(1),
            generation=7,
            sequence=9,
            packages=11,
            kernel="6.12.1",
            kernel_due="6.12.2",
            source_builds=0,
            seconds=3.5,
            fetched_bytes=5 << 32,
            contact=at(1),
            success=at(1),
            error="",
            error_at=None,
            error_log="",
        )
    }


def test_a_failed_pull_leaves_the_generation_that_the_blade_had(ledger: Ledger) -> None:
    ledger.pulled(UPDATED, at(1))
    ledger.pulled(FAILED, at(2))
    known = state(ledger)
    assert (known.result, known.generation, known.sequence, known.packages) == ("failed", 7, 9, 11)
    assert (known.contact, known.success, known.tried) == (at(2), at(1), at(2))
    assert (known.error, known.error_at, known.error_log) == ("no room", at(2), "the log of that")


def test_the_last_error_stays_when_all_is_well_again(ledger: Ledger) -> None:
    ledger.pulled(FAILED, at(1))
    ledger.pulled(UPDATED, at(2))
    known = state(ledger)
    assert (known.result, known.generation, known.success) == ("updated", 7, at(2))
    assert (known.error, known.error_at) == ("no room", at(1))


def test_a_blade_that_says_it_cannot_reach_the_headnode_has_answered(ledger: Ledger) -> None:
    ledger.pulled(UPDATED, at(1))
    said = {"kernel": "6.12.2", "error": "the blade cannot reach the headnode"}
    cut_off = BladeReport(blade="blade01", ring="canary", result=Result.UNREACHED, **said)
    ledger.pulled(cut_off, at(2))
    known = state(ledger)
    assert (known.result, known.contact, known.success) == ("unreached", at(2), at(1))
    assert (known.kernel, known.generation, known.error) == ("6.12.2", 7, said["error"])


@pytest.mark.parametrize("result", [Result.UNREACHED, Result.TIMED_OUT])
def test_a_blade_that_did_not_answer_was_tried_and_not_heard(
    ledger: Ledger, result: Result
) -> None:
    ledger.pulled(UPDATED, at(1))
    silent = BladeReport(blade="blade01", ring="canary", result=result, error="no answer")
    ledger.pulled(silent, at(2))
    known = state(ledger)
    assert (known.result, known.tried, known.contact) == (result.value, at(2), at(1))
    assert (known.kernel, known.seconds, known.error) == ("6.12.1", 3.5, "no answer")


def test_a_late_report_is_kept_and_changes_nothing_newer(ledger: Ledger) -> None:
    ledger.pulled(UPDATED, at(2))
    ledger.pulled_all([Pulled(report=FAILED, at=at(1), number=3)], at(2))
    assert state(ledger).result == "updated"
    assert [each.at for each in ledger.reports("blade01")] == [at(2), at(1)]


def test_a_report_replaces_what_was_written_while_the_clock_was_ahead(ledger: Ledger) -> None:
    ledger.pulled(FAILED, at(9000))
    ledger.pulled(UPDATED, at(9000))
    silent = BladeReport(blade="blade01", ring="canary", result=Result.UNREACHED)
    late = Pulled(report=silent, at=at(1), number=3)
    assert ledger.pulled_all([late], at(2)) == 1
    known = state(ledger)
    assert (known.result, known.tried, known.generation) == ("unreached", at(1), 7)
    # It was before now, and nobody knows by how much.
    assert [known.first_tried, known.contact, known.success, known.error_at] == [at(1)] * 4
    ledger.pulled(FAILED, at(2))
    assert (state(ledger).result, state(ledger).contact, state(ledger).success) == (
        *("failed", at(2)),
        at(1),
    )


def test_a_number_counts_once_and_pushed_pulls_have_none(ledger: Ledger) -> None:
    first = Pulled(report=UPDATED, at=at(1), number=1)
    assert ledger.pulled_all([first, first], at(1)) == 1
    again = Pulled(report=FAILED, at=at(2), number=1)
    assert ledger.pulled_all([again], at(2)) == 0
    assert state(ledger).result == "updated"
    other = Pulled(report=dataclasses.replace(UPDATED, blade="blade02"), at=at(2), number=1)
    assert ledger.pulled_all([other, Pulled(report=UPDATED, at=at(3))], at(3)) == 2
    assert ledger.pulled_all([Pulled(report=UPDATED, at=at(3))], at(3)) == 1
    assert ledger.count_reports() == 4


def test_a_pull_with_nothing_to_do_keeps_no_log(ledger: Ledger) -> None:
    unchanged = dataclasses.replace(UPDATED, result=Result.UNCHANGED, changes=())
    ledger.pulled(unchanged, at(1))
    [kept] = ledger.reports("blade01")
    assert (kept.log, kept.changes, kept.result) == ("", (), "unchanged")


def test_of_a_long_log_the_end_is_kept_and_no_nul(ledger: Ledger) -> None:
    long = "x" * (1 << 20) + "\0the end"
    ledger.pulled(dataclasses.replace(FAILED, log=long, error=long), at(1))
    [kept] = ledger.reports("blade01")
    assert kept.log == "x" * (LOG_CHARACTERS - 8) + "the end"
    assert len(kept.error) == ERROR_CHARACTERS - 1
    assert state(ledger).error_log == kept.log


def test_times_come_back_in_utc_and_a_time_without_zone_is_refused(ledger: Ledger) -> None:
    ledger.pulled(UPDATED, at(1).astimezone(timezone(timedelta(hours=5))))
    assert state(ledger).tried == at(1)
    assert state(ledger).tried.tzinfo is UTC
    with pytest.raises(Exception, match="2026-03-01 00:00:00 has no time zone"):
        ledger.pulled(UPDATED, MIDNIGHT.replace(tzinfo=None))


def test_old_reports_go_and_old_logs_sooner_and_blades_stay(ledger: Ledger) -> None:
    for hours in (1, 2, 3):
        ledger.pulled(FAILED, at(hours))
    with ledger.store.writing() as connection:
        gone = forget_reports(connection, reports_before=at(2), logs_before=at(3))
    assert gone == 1
    assert [(each.at, each.log) for each in ledger.reports("blade01")] == [
        (at(3), "the log of that"),
        (at(2), ""),
    ]
    assert state(ledger).error_log == "the log of that"


def test_for_ever_is_for_ever(ledger: Ledger) -> None:
    ledger.pulled(FAILED, at(1))
    with ledger.store.writing() as connection:
        assert forget_reports(connection, reports_before=None, logs_before=None) == 0
    assert ledger.reports("blade01")[0].log == "the log of that"


def test_a_blade_that_left_the_cluster_is_forgotten_in_time(ledger: Ledger) -> None:
    for name, hours in (("blade01", 1), ("gone01", 1), ("gone02", 5)):
        ledger.pulled(dataclasses.replace(UPDATED, blade=name), at(hours))
    with ledger.store.writing() as connection:
        forget_blades(connection, ["blade01"], before=at(3))
    assert sorted(ledger.blades()) == ["blade01", "gone02"]


def test_a_recorder_has_written_all_it_took_when_it_ends(ledger: Ledger) -> None:
    with Recorder(ledger) as recorder:
        for number in range(300):
            name = f"blade{number}"
            recorder.pulled(dataclasses.replace(UPDATED, blade=name), at(number))
    assert recorder.lost == 0
    assert len(ledger.blades()) == 300


def test_how_long_a_blade_s_last_update_took_is_known_whatever_came_after(ledger: Ledger) -> None:
    assert ledger.update_seconds() == {}
    slow = dataclasses.replace(UPDATED, seconds=60.0)
    idle = dataclasses.replace(UPDATED, result=Result.UNCHANGED, seconds=0.1)
    other = dataclasses.replace(UPDATED, blade="blade02", seconds=5.0)
    told = (slow, other, UPDATED, idle, FAILED)
    for hours, report in enumerate(told):
        ledger.pulled(report, at(hours))
    assert ledger.update_seconds() == {"blade01": 3.5, "blade02": 5.0}
    assert ledger.update_seconds(most=1) == {"blade01": 3.5}
