"""What the ledger knows of blades and their pulls: written from reports, asked by name.

A blade's row follows its newest report. A report that comes late (it lay in a file while the ledger
was locked) is kept, and changes nothing that is newer. A row from the future (`AHEAD`) was written
under a clock that was set back since: the next report replaces it, and when it came is the latest
that can be said of the row's other times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schedules.ledger.models import AHEAD, blades, reports
from schedules.rollout import BladeReport, Result

LOG_CHARACTERS = 64 << 10  # the end of a log says what went wrong
ERROR_CHARACTERS = 4 << 10
NAME_CHARACTERS = 200
TIMES = ("first_tried", "contact", "success", "error_at")  # of a row, besides `tried`
NO_CONTACT = frozenset({Result.UNREACHED, Result.TIMED_OUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A report on its way into the ledger: when it came (UTC), and its number.

    A blade numbers what it sends itself; a number counts once. What the headnode saw has none.
    """

    report: BladeReport
    at: datetime
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BladeState:
    """How a blade is, as far as anybody has heard.

    `result` is how its newest pull ended, `tried` when that was,
    `first_tried` when anybody first heard of it or tried. `generation`, `sequence` and
    `packages` are what it was brought to last, `seconds` and `fetched_bytes` what the newest pull
    took. `contact`: when it last answered; `success`: when it last was at its ring's generation.
    `error` is the last one, with the end of its log, also when all has been well since.
    """

    name: str
    ring: str
    result: str
    tried: datetime
    first_tried: datetime
    generation: int | None
    sequence: int | None
    packages: int | None
    kernel: str
    kernel_due: str
    source_builds: int | None
    seconds: float | None
    fetched_bytes: int | None
    contact: datetime | None
    success: datetime | None
    error: str
    error_at: datetime | None
    error_log: str = field(repr=False)

    @property
    def reboot_pending(self) -> bool:
        """Whether it is due another kernel than the one that runs."""
        return is_pending(self.kernel, self.kernel_due)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReport:
    """A pull that was reported; `log` is empty where all was well or it is too old."""

    blade: str
    number: int | None
    at: datetime
    ring: str
    result: str
    generation: int | None
    sequence: int | None
    packages: int | None
    changes: tuple[str, ...]
    emerge_started: bool
    source_builds: int | None
    seconds: float
    fetched_bytes: int | None
    error: str
    log: str = field(repr=False)


def is_pending(kernel: str, due: str) -> bool:
    """Whether a blade that runs `kernel` is due another. Pure."""
    return due not in ("", kernel)


def write_pulls(connection: Connection, pulled: Iterable[Pulled], now: datetime) -> int:
    """Write reports in the order in which they came; how many were new."""
    new = 0
    for each in pulled:
        if _write_report(connection, each):
            _write_blade(connection, each, now + AHEAD)
            new += 1
    return new


def _insert(connection: Connection, table: Table) -> Any:
    """INSERT … ON CONFLICT, which both databases have, each in a module of its own."""
    module = postgresql if connection.dialect.name == "postgresql" else sqlite
    return module.insert(table)


def _write_report(connection: Connection, pulled: Pulled) -> bool:
    """Write a row of `reports`, unless that number of the blade is there already."""
    said = pulled.report
    row = {
        "blade": said.blade,
        "number": pulled.number,
        "at": pulled.at,
        "ring": _clean(said.ring, NAME_CHARACTERS),
        "result": said.result.value,
        "generation": said.generation,
        "sequence": said.sequence,
        "packages": said.packages,
        "changes": [_clean(each, NAME_CHARACTERS) for each in said.changes],
        "emerge_started": said.emerge_started,
        "source_builds": said.source_builds,
        "seconds": said.seconds,
        "fetched_bytes": said.fetched_bytes,
        "error": _clean(said.error, ERROR_CHARACTERS),
        # A pull that had nothing to do has nothing to tell, 58 times a night.
        "log": "" if said.result is Result.UNCHANGED else _clean(said.log, LOG_CHARACTERS),
    }
    statement = _insert(connection, reports).on_conflict_do_nothing().returning(reports.c.id)
    return connection.execute(statement, row).first() is not None


def _clean(text: str, most: int) -> str:
    """The end of a text, without what a database has no place for: NUL, half a character."""
    return text[-most:].replace("\0", "").encode("utf-8", "replace").decode()


def _write_blade(connection: Connection, pulled: Pulled, latest: datetime) -> None:
    """Bring a blade's row up to date, unless something newer, of `latest` at most, stands in it."""
    news = _news(pulled)
    first = {"name": pulled.report.blade, "first_tried": pulled.at}
    statement = _insert(connection, blades).values(first | news)
    said, known = statement.excluded, blades.c
    kept = {
        name: case((known[name] > latest, said.tried), else_=known[name])
        for name in TIMES
        if name not in news
    }
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_=kept | {name: said[name] for name in news},
        where=or_(known.tried <= said.tried, known.tried > latest),
    )
    connection.execute(statement)


def _news(pulled: Pulled) -> dict[str, object]:
    """What a report changes in a blade's row. Pure."""
    said, at = pulled.report, pulled.at
    ring = _clean(said.ring, NAME_CHARACTERS)
    row: dict[str, object] = {"ring": ring, "result": said.result.value, "tried": at}
    if said.result not in NO_CONTACT or said.cut_off:
        row |= {
            "contact": at,
            "kernel": _clean(said.kernel, NAME_CHARACTERS),
            "seconds": said.seconds,
            "source_builds": said.source_builds,
            "fetched_bytes": said.fetched_bytes,
        }
    if said.good or said.kernel_due:  # one that was put off did not look
        row["kernel_due"] = _clean(said.kernel_due, NAME_CHARACTERS)
    if said.good:
        row |= {
            "success": at,
            "generation": said.generation,
            "sequence": said.sequence,
            "packages": said.packages,
        }
    elif said.error:
        row |= {
            "error": _clean(said.error, ERROR_CHARACTERS),
            "error_at": at,
            "error_log": _clean(said.log, LOG_CHARACTERS),
        }
    return row


def write_booted(
    connection: Connection, blade: str, kernel: str, due: str, error: str, at: datetime
) -> None:
    """Write down the kernel of a blade after a restart, and what went wrong with it, if anything.

    Empty `kernel`: it did not answer.
    """
    row: dict[str, object] = {}
    if kernel:
        row |= {"contact": at, "kernel": _clean(kernel, NAME_CHARACTERS)}
        row |= {"kernel_due": _clean(due, NAME_CHARACTERS)}
    if error:
        row |= {"error": _clean(error, ERROR_CHARACTERS), "error_at": at, "error_log": ""}
    if row:
        connection.execute(update(blades).where(blades.c.name == blade).values(row))


def read_blades(connection: Connection) -> list[BladeState]:
    """Every blade that was ever heard of or tried, by name."""
    rows = connection.execute(select(blades).order_by(blades.c.name)).mappings()
    return [BladeState(**row) for row in rows]


def read_reports(connection: Connection, blade: str, most: int) -> list[KeptReport]:
    """The newest reports of a blade, the newest first."""
    query = select(reports).where(reports.c.blade == blade)
    query = query.order_by(reports.c.at.desc(), reports.c.id.desc()).limit(most)
    return [_report(row) for row in connection.execute(query).mappings()]


def _report(row: RowMapping) -> KeptReport:
    fields = {name: value for name, value in row.items() if name not in ("id", "changes")}
    return KeptReport(changes=tuple(row["changes"]), **fields)


def read_seconds(connection: Connection, most: int) -> dict[str, float]:
    """How long each blade's last update took, from the newest `most` of them all."""
    query = select(reports.c.blade, reports.c.seconds)
    query = query.where(reports.c.result == Result.UPDATED.value)
    query = query.order_by(reports.c.at.desc(), reports.c.id.desc()).limit(most)
    found: dict[str, float] = {}
    for row in connection.execute(query):
        found.setdefault(row.blade, row.seconds)
    return found


def count_reports(connection: Connection) -> int:
    """How many reports are kept."""
    return int(connection.execute(select(func.count()).select_from(reports)).scalar_one())


def forget_reports(
    connection: Connection, *, reports_before: datetime | None, logs_before: datetime | None
) -> int:
    """Delete reports, and empty logs, that are older; None: none. How many reports went."""
    gone = 0
    if reports_before is not None:
        gone = connection.execute(delete(reports).where(reports.c.at < reports_before)).rowcount
    if logs_before is not None:
        old = (reports.c.at < logs_before, reports.c.log != "")
        connection.execute(update(reports).where(*old).values(log=""))
    return gone


def forget_blades(connection: Connection, known: Sequence[str], before: datetime) -> int:
    """Delete blades that are in no ring any more and were not heard of since `before`."""
    names = [row.name for row in connection.execute(select(blades.c.name, blades.c.tried))]
    gone = sorted(set(names) - set(known))
    for name in gone:
        connection.execute(delete(blades).where(blades.c.name == name, blades.c.tried < before))
    return len(gone)
