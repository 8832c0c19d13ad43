"""The ledger's tables. A change to them raises `SCHEMA`, and `store` refuses what is newer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA = 1
# What was written for a time further ahead than this, was by a clock that was set back since.
AHEAD = timedelta(minutes=5)


class Utc(TypeDecorator[datetime]):
    """An aware time, in UTC also where the database keeps no time zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back what was meant."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

schema = Table("ledger", metadata, Column("version", Integer, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String, nullable=False),
    Column("why", String, nullable=False),
    Column("due", Utc),  # the time of the schedule that it is the run of; none by hand
    Column("headnode", String, nullable=False),  # its host name
    Column("holder", String, nullable=False),  # host and process
    Column("started", Utc, nullable=False),
    Column("heartbeat", Utc, nullable=False),
    Column("finished", Utc),
    Column("outcome", String, nullable=False),
    Column("error", Text, nullable=False, default=""),
    Index("runs_by_job", "job", "id"),
)

steps = Table(
    "steps",
    metadata,
    Column("run", Integer, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("number", Integer, nullable=False),  # its place
    Column("started", Utc, nullable=False),
    Column("finished", Utc),
    Column("outcome", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("said", Text, nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
)

blades = Table(
    "blades",
    metadata,
    Column("name", String, primary_key=True),
    Column("ring", String, nullable=False),
    Column("result", String, nullable=False),
    Column("tried", Utc, nullable=False),
    Column("first_tried", Utc, nullable=False),
    Column("generation", Integer),
    Column("sequence", Integer),
    Column("packages", Integer),
    Column("kernel", String, nullable=False, default=""),
    Column("kernel_due", String, nullable=False, default=""),
    Column("source_builds", Integer),
    Column("seconds", Float),
    Column("fetched_bytes", BigInteger),
    Column("contact", Utc),
    Column("success", Utc),
    Column("error", Text, nullable=False, default=""),
    Column("error_at", Utc),
    Column("error_log", Text, nullable=False, default=""),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("blade", String, nullable=False),
    Column("number", BigInteger),  # of those that the blade itself sent: never twice
    Column("at", Utc, nullable=False),
    Column("ring", String, nullable=False),
    Column("result", String, nullable=False),
    Column("generation", Integer),
    Column("sequence", Integer),
    Column("packages", Integer),
    Column("changes", JSON, nullable=False),
    Column("emerge_started", Boolean, nullable=False),
    Column("source_builds", Integer),
    Column("seconds", Float, nullable=False),
    Column("fetched_bytes", BigInteger),
    Column("error", Text, nullable=False),
    Column("log", Text, nullable=False),
    UniqueConstraint("blade", "number", name="a_report_counts_once"),
    Index("reports_by_blade", "blade", "at"),
    Index("reports_by_time", "at"),
)
