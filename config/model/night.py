"""What happens by itself, what is written down about it, and who hears of it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from config import cron
from config.model.base import Section
from config.values import Count, Days, Hours, Kind, Line, Minutes, Seconds

JOBS = ("nightly", "mirror-sync", "build", "publish", "rollout", "verify", "gc")


def _check_job(name: str) -> str:
    if name not in JOBS:
        raise ValueError(f"{name!r} is no job: there are {', '.join(JOBS)}")
    return name


def _check_cron(line: str) -> str:
    cron.parse(line)
    return line


JobName = Annotated[str, AfterValidator(_check_job), Kind("job", "jobs")]


def _check_webhook(address: str) -> str:
    if address and not re.fullmatch(r"https?://[^/\s]\S*", address):
        raise ValueError(f"{address!r} is not an http:// or https:// address")
    return address


Webhook = Annotated[str, AfterValidator(_check_webhook), Kind("web address", "web addresses")]
CronLine = Annotated[str, AfterValidator(_check_cron), Kind("cron line", "cron lines")]


class Schedule(Section):
    """When `headnode serve` starts jobs by itself."""

    time_zone: str = Field(
        "UTC",
        description="Time zone of the cron lines, as in Europe/Berlin. When clocks are changed a "
        "local time still comes exactly once: one that is left out comes at the moment of the "
        "change, one that happens twice the first time. UTC has no such nights.",
    )
    catch_up_h: Hours = Field(
        20.0,
        description="Hours for which a run that was missed, since the headnode was off or busy, is "
        "still made up for: once, however many were missed. As long a run that was cut off is "
        "gone on with. A day later the next night does it all anyway. 0: neither.",
    )
    missed_min: Minutes = Field(
        10.0,
        description="Minutes between two looks whether blades that were off when they were to pull "
        "answer now: they then catch up with what their ring has, alone. 0: they wait for the next "
        "rollout.",
    )
    jobs: dict[JobName, CronLine] = Field(
        default_factory=lambda: {"nightly": "15 1 * * *"},
        description="Jobs and when they run, in cron syntax. `nightly` is the whole chain: "
        "mirror-sync, build, publish, rollout, verify, gc, each when the one before is good; those "
        "are jobs of their own, too. Empty: only what is started by hand.",
    )

    @property
    def catch_up(self) -> timedelta:
        """`catch_up_h` as a length of time."""
        return timedelta(hours=self.catch_up_h)

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        cron.zone_of(name)
        return name


class Notices(Section):
    """Who is told, in one message a night, of what is wrong; nothing is sent while all is well."""

    command: Line = Field(
        "",
        examples=['mail --subject "$HEADNODE_SUBJECT" root'],
        description="Shell command that is given the message on standard input, and its subject in "
        "HEADNODE_SUBJECT. Empty: none.",
    )
    mail_to: tuple[Line, ...] = Field(
        (),
        examples=[["admin@example.org"]],
        description="Addresses that get it as mail. Empty: none.",
    )
    mail_from: Line = Field("", description="Address it is from. Empty: headnode@ and host name.")
    smtp: Line = Field(
        "localhost:25",
        description="Mail server and port that takes it, without a password; TLS where it has it.",
    )
    webhook: Webhook = Field(
        "",
        examples=["https://chat.example.org/hooks/abc"],
        description="Address that it is posted to as JSON: subject, troubles, and `text`, which "
        "is what chat servers show. Empty: none.",
    )
    silent_days: Days = Field(
        3.0,
        description="Days after which a blade that has not answered is a trouble: longer than a "
        "weekend's repair would be noticed late, a single night is often just a reboot. 0: never.",
    )
    again_h: Hours = Field(
        20.0,
        description="Hours before the same troubles are told again: once a night, also where jobs "
        "run more often. 0: after each run.",
    )


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
