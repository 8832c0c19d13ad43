"""What the ledger keeps of blades, as the status has it: a real ledger, written by reports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from headnode.files import locked
from headnode.status.gather import Gatherer
from headnode.status.model import Health, NextRun, Run
from headnode.status.sources import fleet
from headnode.status.sources.binhost import rings
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import State
from schedules.rollout import BladeReport, Result
from schedules.runner import headnode_name, lock_path
from schedules.site import Site

EARLY = datetime(2026, 3, 3, 2, tzinfo=UTC)
LATE = EARLY + timedelta(days=1)
Place = Callable[..., Any]


def write(site: Site, blade: str, at: datetime, result: Result, **facts: Any) -> None:
    report = BladeReport(blade=blade, ring="fleet", result=result, **facts)
    with Ledger.of(site) as ledger:
        ledger.pulled(report, at)


def test_without_a_ledger_nothing_is_known_and_none_is_made(empty: Place) -> None:
    site = empty(4)
    night = NextRun(job="nightly", at=LATE.replace(day=5, hour=1, minute=15), note="15 1 * * *")
    assert fleet.read_fleet(site, LATE) == fleet.Fleet(next_runs=(night,))
    assert fleet.pulls_of(site, "blade01") == ((), "")
    assert not (site.state / "headnode.sqlite").exists()


def test_a_blade_that_failed_keeps_its_generation_and_says_why(empty: Place) -> None:
    site = empty(4)
    write(site, "blade03", EARLY, Result.UPDATED, generation=4, kernel="6.12.8")
    write(site, "blade03", LATE, Result.FAILED, generation=5, error="disk full", log="the log")
    [heard] = fleet.read_fleet(site, LATE).heard.values()
    assert heard == fleet.Heard(
        result="failed",
        good=False,
        tried=LATE,
        seen=LATE,
        generation=4,
        error="disk full",
    )


def test_an_old_error_is_not_held_against_a_blade_that_is_well_again(empty: Place) -> None:
    site = empty(4)
    write(site, "blade03", EARLY, Result.FAILED, error="disk full")
    write(site, "blade03", LATE, Result.UNCHANGED, generation=5)
    [heard] = fleet.read_fleet(site, LATE).heard.values()
    assert (heard.good, heard.generation, heard.error) == (True, 5, "")


def test_a_blade_s_pulls_come_newest_first_with_the_newest_log(empty: Place) -> None:
    site = empty(4)
    write(site, "blade03", EARLY, Result.FAILED, error="disk full", log="the log")
    took = {"seconds": 0.4, "source_builds": 0, "fetched_bytes": 5 << 20}
    write(site, "blade03", LATE, Result.UNCHANGED, generation=5, **took)
    pulls, log = fleet.pulls_of(site, "blade03")
    assert [(each.at, each.result, each.good, each.error) for each in pulls] == [
        (LATE, "unchanged", True, ""),
        (EARLY, "failed", False, "disk full"),
    ]
    assert [(each.source_builds, each.fetched_bytes) for each in pulls] == [
        (0, 5 << 20),
        (None, None),
    ]
    assert log == "the log"


def test_a_damaged_ledger_is_said_and_the_rest_is_still_told(empty: Place) -> None:
    site = empty(4)
    site.state.mkdir(parents=True)
    (site.state / "headnode.sqlite").write_bytes(b"no database" * 999)
    status = Gatherer(site).status(LATE)
    [point, *_] = status.verdict.points
    assert point.text.startswith("What blades did cannot be told: The ledger ")
    assert {each.health for each in status.blades} == {Health.NEVER}
    assert Gatherer(site).blade(status, "blade01").pulls == ()  # type: ignore[union-attr]


def begun(site: Site) -> int:
    """A night whose sync is done and whose build is at work, as its process writes it."""
    wanted = runs.Claim(
        job="nightly", why="due at 02:00", due=LATE, headnode=headnode_name(), holder="here"
    )
    with Ledger.of(site) as ledger, ledger.store.writing() as connection:
        run = runs.claim(connection, wanted, LATE)
        runs.begin_step(connection, run, 1, "mirror-sync", LATE)
        ended = LATE + timedelta(minutes=4)
        runs.end_step(connection, run, "mirror-sync", State.OK, said="new: gentoo", now=ended)
        runs.begin_step(connection, run, 2, "build", ended)
        runs.beat(connection, run, LATE + timedelta(minutes=20))
    return run


def shown(site: Site) -> list[tuple[str, str, datetime | None, str]]:
    found: tuple[Run, ...] = fleet.read_fleet(site, LATE).runs
    return [(each.step or each.job, each.result, each.ended, each.note) for each in found]


def test_a_night_at_work_has_its_steps_and_no_end(empty: Place) -> None:
    site = empty(4)
    begun(site)
    with locked(lock_path(site.state), "headnode schedule run nightly"):
        assert shown(site) == [
            ("nightly", "running", None, "due at 02:00"),
            ("mirror-sync", "good", LATE + timedelta(minutes=4), "new: gentoo"),
            ("build", "running", None, ""),
        ]


def test_a_night_whose_process_has_gone_was_cut_off_when_it_was_last_alive(empty: Place) -> None:
    site = empty(4)
    begun(site)
    alive = LATE + timedelta(minutes=20)
    assert shown(site) == [
        ("nightly", "cut off", alive, "due at 02:00"),
        ("mirror-sync", "good", LATE + timedelta(minutes=4), "new: gentoo"),
        ("build", "cut off", alive, ""),
    ]


def test_a_night_that_failed_is_a_point_of_the_verdict(empty: Place) -> None:
    site = empty(4)
    run, ended = begun(site), LATE + timedelta(minutes=9)
    with Ledger.of(site) as ledger, ledger.store.writing() as connection:
        error = "slurm did not build: its compile phase failed.\nIt ends: …"
        runs.end_step(connection, run, "build", State.FAILED, error=error, now=ended)
        runs.end(connection, run, State.FAILED, error, ended)
    status = Gatherer(site).status(LATE + timedelta(hours=5))
    [point, *_] = status.verdict.points
    assert (point.text, point.remedy) == (
        "The job nightly failed on 2026-03-04 02:09 UTC: slurm did not build: its compile phase "
        "failed.",
        "headnode schedule run nightly",
    )


def test_a_ring_whose_deployment_was_renewed_has_its_generation_since_before(
    look: Callable[..., Any],
) -> None:
    site = look(4).site
    before = {each.name: each for each in rings(site)}["fleet"]
    ring = site.binhost("blade").ring("fleet")
    generation = site.binhost("blade").generations.read(before.generation)
    renewed = before.since + timedelta(days=7)
    ring.deploy(
        generation,
        site.binhost("blade").generations.entries(generation),
        repos={},
        pool_url="http://headnode/pool",
        now=renewed,
        valid=timedelta(days=14),
        signer=None,
    )
    found = {each.name: each for each in rings(site)}["fleet"]
    assert (found.since, found.issued) == (before.since, renewed)
