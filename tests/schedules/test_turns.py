import pytest

from blades.inventory import Blade
from config.model import JOBS, Class, Cluster
from headnode.errors import RolloutError
from schedules.jobs import tasks_of
from schedules.rollout import BladeReport, Result
from schedules.site import Site
from schedules.turns import judge

BLADES = [Blade(name=f"blade{n}", class_name="blade", ring="canary") for n in (1, 2, 3)]


def reports(*results: Result) -> list[BladeReport]:
    return [
        BladeReport(blade=blade.name, ring="canary", result=result, error=f"why {blade.name}")
        for blade, result in zip(BLADES, results, strict=True)
    ]


def test_a_ring_that_is_well_says_how_many_did_what() -> None:
    found = reports(Result.UPDATED, Result.UNCHANGED, Result.UPDATED)
    assert judge("canary", BLADES, found) == "canary: 1 unchanged, 2 updated"


def test_a_blade_that_is_off_or_hangs_holds_nobody_up() -> None:
    found = reports(Result.UPDATED, Result.UNREACHED, Result.TIMED_OUT)
    assert judge("canary", BLADES, found) == "canary: 1 timed out, 1 unreached, 1 updated"


def test_one_pull_that_failed_stops_the_rollout() -> None:
    with pytest.raises(RolloutError) as caught:
        judge("canary", BLADES, reports(Result.UPDATED, Result.FAILED, Result.UNREACHED))
    assert str(caught.value) == (
        "The rollout stopped in ring canary, at blade2:\nblade2: why blade2\n"
        "The rings behind it keep what they have. headnode blades show BLADE has the log; "
        "headnode rollback takes it back."
    )


def test_a_ring_that_nobody_of_has_tried_stops_it_too() -> None:
    with pytest.raises(RolloutError) as caught:
        judge("canary", BLADES, reports(*[Result.UNREACHED] * 3))
    assert caught.value.what.startswith("The rollout stopped in ring canary, at blade[1-3]:\n")


def test_a_night_is_the_chain_of_all_jobs_each_of_every_class() -> None:
    one = Site(cluster=Cluster())
    chain = [*JOBS[1:], "tidy"]
    assert [task.name for task in tasks_of("nightly", one)] == chain
    classes = {name: Class(rings={"all": name}) for name in ("blade", "store")}
    two = Site(cluster=Cluster(classes=classes))
    assert [task.name for task in tasks_of("nightly", two)] == [
        "mirror-sync",
        *(f"{job} {name}" for job in JOBS[2:] for name in classes),
        "tidy",
    ]


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_tasks_of_names_of_their_own(job: str) -> None:
    names = [task.name for task in tasks_of(job, Site(cluster=Cluster()))]
    assert names
    assert len(set(names)) == len(names)
