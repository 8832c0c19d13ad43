from datetime import UTC, datetime, timedelta

import pytest

from config.cron import due_after, latest_due, parse, zone_of


def moments(line: str, zone: str, start: str, count: int) -> list[str]:
    """The next moments after `start`, in UTC."""
    found, moment = [], datetime.fromisoformat(start).replace(tzinfo=UTC)
    for _ in range(count):
        moment = due_after(parse(line), zone_of(zone), moment)
        found.append(f"{moment:%Y-%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("15 1 * * *", ["2026-01-01 01:15", "2026-01-02 01:15"]),
        ("*/20 3 * * *", ["2026-01-01 03:00", "2026-01-01 03:20"]),
        ("5/25 3 * * *", ["2026-01-01 03:05", "2026-01-01 03:30"]),
        ("0 4 * * sun", ["2026-01-04 04:00", "2026-01-11 04:00"]),
        ("0 4 * * 7", ["2026-01-04 04:00", "2026-01-11 04:00"]),
        ("0 4 * * 0", ["2026-01-04 04:00", "2026-01-11 04:00"]),
        ("0 4 * * 1-5", ["2026-01-01 04:00", "2026-01-02 04:00"]),  # a Thursday, a Friday
        ("0 4 * * MON,Wed", ["2026-01-05 04:00", "2026-01-07 04:00"]),
        ("0 4 13 * fri", ["2026-01-02 04:00", "2026-01-09 04:00"]),  # either day
        ("0 4 */10 * fri", ["2026-05-01 04:00", "2026-07-31 04:00"]),  # `*/10` is no given day
        ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("59 23 31 * *", ["2026-01-31 23:59", "2026-03-31 23:59"]),
        ("@daily", ["2026-01-01 00:00", "2026-01-02 00:00"]),
        ("@weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("1,2 0 1 1,7 *", ["2026-01-01 00:01", "2026-01-01 00:02"]),
    ],
)
def test_a_line_comes_at(line: str, expected: list[str]) -> None:
    assert moments(line, "UTC", "2025-12-31 23:59:59", 2) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("60 1 * * *", "'60' is no minute: it has 0 to 59"),
        ("0 1 0 * *", "'0' is no day of the month: it has 1 to 31"),
        ("0 1 * foo *", "'foo' is no month: it has 1 to 12"),
        ("0 5-3 * * *", "'5-3' is no hour in cron syntax: it names none"),
        ("0 */0 * * *", "'*/0' is no hour in cron syntax: it names none"),
        ("0 *-3 * * *", "'*-3' is no hour in cron syntax"),
        ("0 1;2 * * *", "'1;2' is no hour in cron syntax"),
        ("0 1 30 2 *", "'0 1 30 2 *' never comes: there is no such day"),
        (
            "1 * * *",
            "'1 * * *' is not cron syntax: five fields (minute, hour, day of the month, month, day "
            "of the week) as in '15 1 * * *', or @hourly, @daily, @midnight, @weekly, @monthly",
        ),
    ],
)
def test_what_is_no_line_is_said(line: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(line)
    assert str(caught.value) == message


# In Berlin clocks went forward on 2026-03-29 at 02:00 (01:00 UTC), and back on 2026-10-25 at 03:00.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 1 * * *", ["2026-03-28 00:30", "2026-03-29 00:30", "2026-03-29 23:30"]),
        ("0 2 * * *", ["2026-03-28 01:00", "2026-03-29 01:00", "2026-03-30 00:00"]),
        ("30 2 * * *", ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]),
        ("0 3 * * *", ["2026-03-28 02:00", "2026-03-29 01:00", "2026-03-30 01:00"]),
    ],
)
def test_where_clocks_go_forward_a_time_that_is_left_out_comes_at_the_change(
    line: str, expected: list[str]
) -> None:
    assert moments(line, "Europe/Berlin", "2026-03-27 12:00", 3) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 1 * * *", ["2026-10-23 23:30", "2026-10-24 23:30", "2026-10-26 00:30"]),
        ("30 2 * * *", ["2026-10-24 00:30", "2026-10-25 00:30", "2026-10-26 01:30"]),
        ("0 3 * * *", ["2026-10-24 01:00", "2026-10-25 02:00", "2026-10-26 02:00"]),
    ],
)
def test_where_clocks_go_back_a_time_that_happens_twice_comes_the_first_time(
    line: str, expected: list[str]
) -> None:
    assert moments(line, "Europe/Berlin", "2026-10-23 12:00", 3) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"])
@pytest.mark.parametrize("line", ["0 0 * * *", "15 0 * * *", "30 1 * * *", "5 2 * * *"])
def test_a_year_has_one_night_a_day_whatever_the_clocks_do(line: str, zone: str) -> None:
    """Santiago's clocks change at midnight, Lord Howe's by half an hour."""
    start, local = datetime(2026, 1, 1, 12, tzinfo=UTC), zone_of(zone)
    days, moment = [], start
    while moment < start + timedelta(days=365):
        moment = due_after(parse(line), local, moment)
        days.append(moment.astimezone(local).date())
    assert len(days) == len(set(days))
    assert days == [days[0] + timedelta(days=each) for each in range(len(days))]


def test_times_that_are_left_out_together_come_as_one() -> None:
    assert moments("*/20 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 2) == [
        "2026-03-29 01:00",
        "2026-03-30 00:00",
    ]


def test_a_day_that_is_left_out_comes_as_the_next_one_begins() -> None:
    assert moments("30 1 30 12 *", "Pacific/Apia", "2011-12-01 00:00", 1) == ["2011-12-30 10:00"]


def test_of_several_that_were_missed_the_last_one_is_due() -> None:
    cron, start = parse("15 1 * * *"), datetime(2026, 1, 1, 1, 15, tzinfo=UTC)
    assert latest_due(cron, UTC, start, start + timedelta(hours=23)) is None
    assert latest_due(cron, UTC, start, start + timedelta(days=1)) == start + timedelta(days=1)
    assert latest_due(cron, UTC, start, start + timedelta(days=9, hours=1)) == start + timedelta(
        days=9
    )
    monthly = parse("0 0 1 * *")
    assert latest_due(monthly, UTC, start, start + timedelta(days=70)) == datetime(
        2026, 3, 1, tzinfo=UTC
    )


def test_a_zone_that_is_none_is_said() -> None:
    for name in ("Europe/Nowhere", "../etc/passwd", "", "Europe"):
        with pytest.raises(ValueError) as caught:
            zone_of(name)
        assert str(caught.value) == f"{name!r} is no time zone; one is Europe/Berlin"
