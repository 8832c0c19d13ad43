"""Deployments are renewed while `headnode serve` runs, and a blade never meets an expired one."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.publish import Order, promote, publish
from config.model import Cluster
from headnode.files import locked
from headnode.renewal import Renewal
from mirror import sets
from schedules.moving import Renewed, renew_once
from schedules.site import Site

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path, make_package: Any, finished: Any) -> Any:
    cluster = Cluster.model_validate({"state": {"path": str(tmp_path / "s"), "reserve_mib": 0}})
    site = Site(cluster=cluster)
    site.keys.make("one")
    (site.state / "mirror/repos/gentoo/snapshots/1").mkdir(parents=True)
    names = sets.write_set(site.state, {"gentoo": "1"})
    binhost = site.binhost("blade")
    finished(binhost.build_folder, make_package(binhost.staging, "a-1"), snapshots=names)
    publish(binhost, Order(ring="canary", now=NOW))
    yield site
    site.keys.end_agent()


def sequence(site: Site) -> int:
    current = site.binhost("blade").ring("canary").current()
    assert current is not None
    return current.sequence


@pytest.mark.parametrize(("days", "renewed"), [(0, []), (6.9, []), (7.1, [2]), (30, [2])])
def test_a_deployment_is_renewed_when_half_of_its_time_is_over(
    site: Site, days: float, renewed: list[int]
) -> None:
    later = NOW + timedelta(days=days)
    done = renew_once(site, now=later).done
    assert [each.deployment.sequence for each in done] == renewed
    assert [each.deployment.expires for each in done] == [later + timedelta(days=14)] * len(renewed)
    assert renew_once(site, now=later) == Renewed(done=(), failed={})


def test_a_key_that_was_added_is_told_of_without_a_publish(site: Site) -> None:
    second = site.keys.make("two")
    (done,) = renew_once(site, now=NOW).done
    assert second in done.deployment.keys
    assert done.deployment.generation == 1


def test_a_headnode_that_was_put_back_numbers_its_deployments_above_what_blades_saw(
    site: Site,
) -> None:
    binhost = site.binhost("blade")
    done = promote(binhost, Order(ring="canary", now=NOW, above=57), None)
    assert (done.moved, done.deployment.sequence, done.deployment.generation) == (True, 58, 1)
    again = promote(binhost, Order(ring="canary", now=NOW, above=57), None)
    assert (again.moved, sequence(site)) == (False, 58)


def test_serve_looks_at_once_and_then_every_hour(site: Site) -> None:
    site.keys.make("two")
    renewal = Renewal()
    renewal.watch(site)
    assert renewal._thread is not None
    renewal._thread.join()
    assert sequence(site) == 2
    site.keys.make("three")
    first = renewal._thread
    renewal.watch(site)
    assert renewal._thread is first


def test_a_publish_at_work_is_not_disturbed_and_it_is_tried_again_soon(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.keys.make("two")
    renewal = Renewal()
    lock = site.binhost("blade").folder / ".lock"
    with locked(lock, "headnode publish"), caplog.at_level(logging.INFO):
        renewal.watch(site)
        assert renewal._thread is not None
        renewal._thread.join()
    assert sequence(site) == 1
    assert "blade/canary is not renewed, and its blades will refuse it" in caplog.text
    renewal._next_s = 0
    renewal.watch(site)
    renewal._thread.join()
    assert sequence(site) == 2


def test_a_ring_that_cannot_be_renewed_holds_up_no_other(
    site: Site, make_package: Any, finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    binhost = site.binhost("blade")
    first = binhost.generations.read(1)
    finished(binhost.build_folder, make_package(binhost.staging, "a-2"), snapshots=first.snapshots)
    publish(binhost, Order(ring="fleet", now=NOW))
    entries = binhost.generations.folder / "1/entries"
    entries.write_text("damaged")
    renewed = renew_once(site, now=NOW + timedelta(days=13))
    assert [each.deployment.ring for each in renewed.done] == ["fleet"]
    assert {ring: str(error) for ring, error in renewed.failed.items()} == {
        "blade/canary": f"{entries} is not what was published. Publish anew."
    }
    site.keys.make("two")
    renewal = Renewal()
    renewal.watch(site)
    assert renewal._thread is not None
    renewal._thread.join()
    assert f"blade/canary is not renewed, and its blades will refuse it: {entries}" in caplog.text
    current = binhost.ring("fleet").current()
    assert current is not None
    assert current.sequence == 3
