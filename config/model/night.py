"""What happens by itself, what is written down about it, and who hears of it."""

from __future__ import annotations

from pydantic import Field, field_validator

from config.model.base import Section
from config.values import Count, Seconds


class Ledger(Section):
    """Where headnode writes down what ran and how each blade is, and for how long it is kept."""

    url: str = Field(
        "",
        examples=["postgresql://headnode@db/headnode"],
        description="Database, as an SQLAlchemy address: postgresql://user@host/name where several "
        "headnodes share one ledger (needs psycopg: `pip install headnode[postgresql]`; a password "
        "is best left to ~/.pgpass). Empty: SQLite, in headnode.sqlite of the state folder, which "
        "is enough for ten thousand blades.",
    )
    busy_s: Seconds = Field(
        30.0,
        description="Seconds to wait for a ledger that somebody else is writing in. Reports that "
        "blades send meanwhile are kept in files, so nothing is lost after that either.",
    )
    runs_days: Count = Field(
        400,
        ge=0,
        description="Days for which runs of jobs are kept: a year of nights and a month, so that "
        "this year's can be compared with last year's. 0: for ever.",
    )
    reports_days: Count = Field(
        90,
        ge=0,
        description="Days for which each blade's reports are kept. What a blade has now, and its "
        "last error, do not go with them. 0: for ever.",
    )
    logs_days: Count = Field(
        30,
        ge=0,
        description="Days for which logs are kept: what emerge said on blades, in reports, and "
        "the logs of builds. They are the largest part. 0: for ever.",
    )

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        scheme = url.partition("://")[0].partition("+")[0]
        if url and ("://" not in url or scheme not in ("postgresql", "sqlite")):
            raise ValueError("a ledger is at sqlite:///path or postgresql://user@host/name")
        return url
