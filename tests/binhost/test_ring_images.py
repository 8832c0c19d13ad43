"""The trees' images as rings have them: made, named, used again, and let go."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.publish import Order, publish, rollback
from binhost.records import Deployment, TreeImage
from config.model import Cluster
from headnode.errors import EnvironmentLacksError, LedgerError
from headnode.files import locked
from mirror import sets
from mirror.image import folder_of
from schedules.ledger.ledger import Ledger
from schedules.moving import Renewed, renew_once
from schedules.rollout import BladeReport, Result
from schedules.site import Site
from schedules.upkeep import gc_once

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=30)

NOTHING = Renewed(done=(), failed={})


def site_of(folder: Path, tree: str = "profiles") -> Site:
    classes = {"blade": {"tree": tree}, "other": {"rings": {"all": "other1"}}}
    return Site(
        cluster=Cluster.model_validate(
            {
                "state": {"path": str(folder / "state"), "reserve_mib": 0},
                "classes": classes,
                "signing": {"mode": "off"},
                "binhost": {"keep_generations": 1, "keep_days": 0},
            }
        )
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_of(tmp_path)


@pytest.fixture
def night(site: Site, make_package: Any, finished: Any) -> Any:
    """Publish generation `number`, of a tree with that number in its package.mask."""

    def publish_one(number: int) -> Deployment:
        profiles = site.state / f"mirror/repos/gentoo/snapshots/{number}/profiles"
        profiles.mkdir(parents=True)
        (profiles / "package.mask").write_text(f"app-misc/masked{number}\n")
        names = sets.write_set(site.state, {"gentoo": str(number)})
        binhost = site.binhost("blade")
        package = make_package(binhost.staging, f"a-{number}")
        finished(binhost.build_folder, package, snapshots=names)
        return publish(binhost, Order(ring="canary", now=NOW)).deployment

    return publish_one


def image_of(deployment: Deployment) -> TreeImage:
    assert deployment.image is not None
    return deployment.image


def images(site: Site) -> set[str]:
    return {path.stem for path in folder_of(site.state).glob("*.squashfs")}


def test_a_deployment_names_an_image_that_is_there_by_its_digest_and_size(
    site: Site, night: Any
) -> None:
    named = image_of(night(1))
    content = (folder_of(site.state) / f"{named.sha256}.squashfs").read_bytes()
    assert named == TreeImage(
        kind="profiles", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )


def test_a_ring_that_went_back_has_its_old_image_again(site: Site, night: Any) -> None:
    first, second = image_of(night(1)), image_of(night(2))
    assert first.sha256 != second.sha256
    back = rollback(site.binhost("blade"), Order(ring="canary", now=NOW), None).deployment
    assert (back.sequence, image_of(back)) == (3, first)
    assert images(site) == {first.sha256, second.sha256}


def test_a_ring_is_deployed_anew_when_its_trees_are_to_come_in_another_way(
    site: Site, night: Any, tmp_path: Path
) -> None:
    image = image_of(night(1))
    (by_rsync,) = renew_once(site_of(tmp_path, "rsync"), now=NOW).done
    assert (by_rsync.deployment.sequence, by_rsync.deployment.image) == (2, None)
    (full,) = renew_once(site_of(tmp_path, "full"), now=NOW).done
    assert image_of(full.deployment).kind == "full"
    (again,) = renew_once(site, now=NOW).done
    assert image_of(again.deployment) == image
    assert renew_once(site, now=NOW) == NOTHING


def test_an_image_that_was_lost_is_made_again(site: Site, night: Any) -> None:
    image = image_of(night(1))
    (folder_of(site.state) / f"{image.sha256}.squashfs").unlink()
    assert renew_once(site, now=NOW) == NOTHING
    assert images(site) == {image.sha256}


def test_gc_lets_go_of_images_that_no_kept_generation_has_and_says_so_before(
    site: Site, night: Any
) -> None:
    first, second, third = (image_of(night(number)) for number in (1, 2, 3))
    going = {f"{first.sha256}.squashfs": first.size_bytes}
    plan = gc_once(site, "blade", now=LATER, dry_run=True)
    assert plan.images == going
    assert f"delete image {first.sha256}.squashfs ({first.size_bytes} bytes)" in plan.lines()
    assert len(images(site)) == 3
    assert gc_once(site, "blade", now=LATER).images == going
    assert images(site) == {second.sha256, third.sha256}
    assert gc_once(site, "blade", now=LATER).images == {}


def test_gc_keeps_what_a_blade_said_last_that_it_has(site: Site, night: Any) -> None:
    for number in range(1, 6):
        night(number)
    says = BladeReport(blade="other1", ring="all", result=Result.UPDATED, generation=2)
    with Ledger.of(site) as ledger:  # other1 is of another class: its 2 is not this one's
        ledger.pulled(says, NOW)
    assert "delete generation 2" in gc_once(site, "blade", now=LATER, dry_run=True).lines()
    with Ledger.of(site) as ledger:
        ledger.pulled(replace(says, blade="blade01"), NOW)
    assert "keep generation 2: a blade reported it" in gc_once(site, "blade", now=LATER).lines()
    site.state.joinpath("headnode.sqlite").write_bytes(b"damaged")
    with pytest.raises(LedgerError):
        gc_once(site, "blade", now=LATER)


def test_gc_lets_no_image_go_while_any_class_publishes(site: Site, night: Any) -> None:
    for number in (1, 2, 3):
        night(number)
    with locked(site.binhost("other").lock, "headnode publish"):
        assert gc_once(site, "blade", now=LATER).images == {}
    assert len(images(site)) == 3


def test_a_headnode_that_cannot_make_images_says_what_it_lacks_and_the_ring_stays(
    site: Site, night: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(1)
    monkeypatch.setattr("headnode.process.SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacksError) as caught:
        night(2)
    assert str(caught.value) == (
        "Programs that this command runs are not installed. Install them and run it again:\n"
        "  - mksquashfs: squashfs-tools (Debian), sys-fs/squashfs-tools[zstd] (Gentoo)"
    )
    current = site.binhost("blade").ring("canary").current()
    assert current is not None
    assert (current.sequence, current.generation) == (1, 1)
