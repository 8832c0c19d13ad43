import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.model import Class, Cluster, State
from config.model import Ledger as Options
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Claim
from schedules.ledger.runs import State as Ended
from schedules.retention import tidy_once
from schedules.rollout import BladeReport, Result
from schedules.site import Site

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def site_of(folder: Path, **options: int) -> Site:
    return Site(
        cluster=Cluster(
            state=State(path=folder / "state", reserve_mib=0),
            classes={"blade": Class(packages=("a/b",), rings={"canary": "blade1"})},
            ledger=Options(**options),
        )
    )


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def fill(site: Site, ledger: Ledger) -> None:
    for days in (401, 91, 31, 1):
        failed = BladeReport(blade="blade1", ring="canary", result=Result.FAILED, log="said")
        ledger.pulled(failed, days_ago(days))
        for job in ("nightly", "gc"):
            claim = Claim(job=job, why="x", due=None, headnode="here", holder="h")
            with ledger.store.writing() as connection:
                number = runs.claim(connection, claim, days_ago(days))
                runs.begin_step(connection, number, 0, "a", days_ago(days))
                outcome = Ended.RUNNING if days == 401 and job == "gc" else Ended.OK
                runs.end(connection, number, outcome, "", days_ago(days))
    for name, days in (
        ("build/blade/logs/a:b-1.log", 31),
        ("build/blade/logs/a:b-2.log", 29),
        ("build/blade/logs/elog/a:b-1:x.log", 99),
        ("logs/night.log", 31),
        ("reports/odd/blade1.7.json", 31),
        ("reports/numbers/blade1", 99),
        ("binhost/blade/pool/old.gpkg.tar", 99),
    ):
        path = site.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (days_ago(days).timestamp(),) * 2)
    (site.state / "logs/link").symlink_to(site.state / "binhost/blade/pool/old.gpkg.tar")


def files(site: Site) -> list[str]:
    found = (path for path in site.state.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(site.state)) for path in found)
    return [name for name in names if not name.startswith("headnode.sqlite")]


def test_what_is_older_than_its_days_goes_and_nothing_else(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    with Ledger.of(site) as ledger:
        fill(site, ledger)
        assert tidy_once(site, ledger, now=NOW) == "1 runs, 2 reports and 3 logs were old"
        assert [(each.at, each.log) for each in ledger.reports("blade1")] == [
            (days_ago(1), "said"),
            (days_ago(31), ""),
        ]
        kept = [(each.job, each.started, len(each.steps)) for each in ledger.runs("here")]
        assert kept == [
            *((job, days_ago(days), 1) for days in (1, 31, 91) for job in ("gc", "nightly")),
            ("gc", days_ago(401), 1),  # which was cut off, and may be gone on with
        ]
        assert tidy_once(site, ledger, now=NOW) == "0 runs, 0 reports and 0 logs were old"
    assert files(site) == [
        "binhost/blade/pool/old.gpkg.tar",
        "build/blade/logs/a:b-2.log",
        "build/blade/logs/elog/a:b-1:x.log",
        "logs/link",
        "reports/numbers/blade1",
    ]


def test_each_job_s_newest_run_stays_however_old(tmp_path: Path) -> None:
    site = site_of(tmp_path, runs_days=1)
    with Ledger.of(site) as ledger:
        claim = Claim(job="gc", why="x", due=days_ago(500), headnode="here", holder="h")
        for days in (500, 400):
            with ledger.store.writing() as connection:
                number = runs.claim(connection, claim, days_ago(days))
                runs.end(connection, number, Ended.OK, "", days_ago(days))
        tidy_once(site, ledger, now=NOW)
        assert [each.started for each in ledger.runs("here")] == [days_ago(400)]


@pytest.mark.parametrize("what", ["runs_days", "reports_days", "logs_days"])
def test_0_days_are_for_ever(tmp_path: Path, what: str) -> None:
    site = site_of(tmp_path, **{what: 0})
    with Ledger.of(site) as ledger:
        fill(site, ledger)
        said = tidy_once(site, ledger, now=NOW)
    gone = {"runs_days": 0, "reports_days": 1, "logs_days": 2}[what]
    words = ["1 runs", "2 reports", "3 logs"]
    words[gone] = "0 " + words[gone].split()[1]
    assert said == f"{words[0]}, {words[1]} and {words[2]} were old"
