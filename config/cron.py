"""Lines of cron syntax, and the moments that they mean in a time zone. Pure.

Five fields: minute, hour, day of the month, month, day of the week; `*`, numbers, names (jan, mon),
lists, ranges and steps. Sunday is 0 and 7. Where both days are given, either will do. `@hourly`,
`@daily`, `@weekly` and `@monthly` stand for what they do in crontab(5).

When clocks are changed, every local time still comes exactly once (`due_after`): one that is left
out (clocks go forward) comes at the moment of the change, one that happens twice (clocks go back)
the first time. So a night has one nightly run, always. Times of which several lie in what is left
out come together, as one. What has to run every quarter of an hour, also through the hour that
happens twice, is better given in UTC.

Source: crontab(5) of cronie; APScheduler's own cron fields count Monday as 0, and want both days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
# The longest time between two 29ths of February.
LONGEST_YEARS = 8
SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True, slots=True)
class Field:
    """What a place of the line is called, the numbers that it may have, and names for them."""

    name: str
    least: int
    most: int
    names: Sequence[str] = ()


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of the week", 0, 7, DAYS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A line, taken apart. `either_day`: both kinds of days are given, and one is enough."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Monday is 0, as in datetime
    either_day: bool

    def comes_on(self, day: date) -> bool:
        """Whether it comes at all on a day."""
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.weekday() in self.weekdays
        return of_month or of_week if self.either_day else of_month and of_week

    def local_times(self, start: datetime) -> Iterator[datetime]:
        """The local times (naive) from `start` on, for so long that any day has come."""
        day = start.date()
        while day.year <= start.year + LONGEST_YEARS:
            if self.comes_on(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        moment = datetime.combine(day, time(hour, minute))
                        if moment >= start:
                            yield moment
            day += timedelta(days=1)


def parse(line: str) -> Cron:
    """Take a line of cron syntax apart.

    Raises:
        ValueError: it is none, or means no day that ever comes.
    """
    words = SHORT.get(line.strip().lower(), line).split()
    if len(words) != len(FIELDS):
        raise ValueError(
            f"{line!r} is not cron syntax: five fields (minute, hour, day of the month, month, "
            f"day of the week) as in '15 1 * * *', or {', '.join(SHORT)}"
        )
    numbers = [_numbers(word.lower(), field) for word, field in zip(words, FIELDS, strict=True)]
    cron = Cron(
        minutes=tuple(sorted(numbers[0])),
        hours=tuple(sorted(numbers[1])),
        days=frozenset(numbers[2]),
        months=frozenset(numbers[3]),
        weekdays=frozenset((number + 6) % 7 for number in numbers[4]),
        either_day=words[2][0] != "*" and words[4][0] != "*",
    )
    if next(cron.local_times(datetime(2000, 1, 1)), None) is None:
        raise ValueError(f"{line!r} never comes: there is no such day")
    return cron


def _numbers(word: str, field: Field) -> set[int]:
    found: set[int] = set()
    for part in word.split(","):
        found |= _part(part, field)
    return found


def _part(part: str, field: Field) -> set[int]:
    match = re.fullmatch(r"(\*|[a-z0-9]+)(?:-([a-z0-9]+))?(?:/([0-9]+))?", part)
    if match is None or (match[1] == "*" and match[2]):
        raise ValueError(f"{part!r} is no {field.name} in cron syntax")
    step = int(match[3] or 1)
    if match[1] == "*":
        first, last = field.least, field.most
    else:
        first = _number(match[1], field)
        # `5/10` is from 5 on, as in Vixie's cron.
        last = _number(match[2], field) if match[2] else field.most if match[3] else first
    if step == 0 or first > last:
        raise ValueError(f"{part!r} is no {field.name} in cron syntax: it names none")
    return set(range(first, last + 1, step))


def _number(word: str, field: Field) -> int:
    if word in field.names:
        return field.names.index(word) + field.least
    if word.isdigit() and field.least <= int(word) <= field.most:
        return int(word)
    raise ValueError(f"{word!r} is no {field.name}: it has {field.least} to {field.most}")


def zone_of(name: str) -> tzinfo:
    """The time zone of that name.

    Raises:
        ValueError: there is none.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} is no time zone; one is Europe/Berlin") from error


def due_after(cron: Cron, zone: tzinfo, moment: datetime) -> datetime:
    """The first moment (UTC) after `moment` at which a line comes."""
    return next(_moments(cron, zone, moment))


def latest_due(cron: Cron, zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """The last moment at which a line came, after `after` and not after `until`; None if none."""
    found = None
    for moment in _moments(cron, zone, after):
        if moment > until:
            break
        found = moment
    return found


def _moments(cron: Cron, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """The moments (UTC) after `after` at which a line comes; several of one gap are one."""
    # What is left out or happens twice is at most a day (Samoa, 2011-12-30).
    start = after.astimezone(zone).replace(tzinfo=None) - timedelta(days=1, hours=1)
    last = after
    for local in cron.local_times(start.replace(second=0, microsecond=0)):
        moment = in_utc(local, zone)
        if moment > last:
            last = moment
            yield moment


def in_utc(local: datetime, zone: tzinfo) -> datetime:
    """When a local time is: the first of two, or the end of the gap that it is in."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # In a gap `fold=0` counts with the offset before it and `fold=1` with the one after it, so that
    # the change lies between what they come to (PEP 495).
    low = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    high, before = first, low.astimezone(zone).utcoffset()
    while high - low > MINUTE:
        middle = (low + (high - low) / 2).replace(second=0, microsecond=0)
        low, high = (
            (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
        )
    return high
