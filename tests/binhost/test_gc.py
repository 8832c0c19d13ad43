"""What is collected, what is kept and why, and that it can be killed anywhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.gc import Plan, Policy, gc
from binhost.index import parse_entries
from binhost.kept import kept_packages, used_snapshot_sets
from binhost.publish import Binhost, Order, promote, publish, rollback
from binhost.tags import write_tags
from headnode.errors import BusyError, PublishError
from headnode.files import locked
from schedules.ledger.ledger import Ledger
from schedules.ledger.store import Store, url_of
from schedules.rollout import BladeReport, Result

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
ONE = Policy(newest=1, grace=timedelta(days=3))


def host(folder: Path) -> Binhost:
    return Binhost(
        class_name="blade",
        folder=folder / "binhost/blade",
        build_folder=folder / "build/blade",
        pool_url="http://headnode/binhost/blade/pool",
        repos_of=lambda _: {"gentoo": folder / "tree"},
        keys=None,
        valid=timedelta(days=14),
    )


def name_of(number: int) -> str:
    return f"app-misc/a/a-{number}-1.gpkg.tar"


Fill = Callable[..., Binhost]


@pytest.fixture
def fill(make_package: Any, finished: Any) -> Fill:
    """Publish generations 1 to `count`, a day apart: a-N, and b-1 in all of them."""

    def make(folder: Path, count: int = 5) -> Binhost:
        binhost = host(folder)
        for number in range(1, count + 1):
            names = [make_package(binhost.staging, f"a-{number}")]
            names.append(make_package(binhost.staging, "b-1"))
            finished(binhost.build_folder, *names, snapshots=f"s{number}")
            publish(binhost, Order(ring="canary", now=NOW + timedelta(days=number)))
        return binhost

    return make


@pytest.fixture
def five(tmp_path: Path, fill: Fill) -> Binhost:
    return fill(tmp_path)


def check_whole(binhost: Binhost) -> None:
    """Everything that is offered is there, and what is numbered is whole."""
    stock = binhost.pool.stock()
    assert all((binhost.pool.folder / name).is_file() for name in stock.entries)
    for number in binhost.generations.numbers():
        generation = binhost.generations.read(number)
        assert generation.packages.keys() <= stock.entries.keys()
        assert binhost.generations.entries(generation).keys() == generation.packages.keys()
    for ring in binhost.rings():
        current = ring.current()
        assert current
        index = (ring.folder / "current/Packages").read_text().partition("\n\n")[2]
        assert parse_entries(index).keys() <= stock.entries.keys()
        for sequence in ring.sequences():
            assert ring.deployment(sequence).generation in binhost.generations.numbers()


def test_only_what_nothing_needs_goes_and_a_dry_run_says_exactly_that(five: Binhost) -> None:
    size = (five.pool.folder / name_of(1)).stat().st_size
    gone = {name_of(number) for number in (1, 2, 3)}
    dry = gc(five, ONE, now=LATER, dry_run=True)
    assert list(dry.lines()) == [
        "keep generation 4: ring canary can go back to it",
        "keep generation 5: ring canary has it, ring canary's newest deployment is of it, among "
        "the newest",
        *(f"delete deployment {number} of ring canary" for number in (1, 2, 3)),
        *(f"delete generation {number}" for number in (1, 2, 3)),
        *(f"delete package {name_of(number)} ({size} bytes)" for number in (1, 2, 3)),
        f"3 generations, 3 deployments and 3 packages ({3 * size} bytes) go; 2 generations stay.",
    ]
    assert five.generations.numbers() == [1, 2, 3, 4, 5]
    before = five.pool.files()
    assert gc(five, ONE, now=LATER) == dry
    assert five.pool.files() == before - gone
    assert set(five.pool.stock().entries) == set(five.pool.stock().sha256) == before - gone
    assert five.generations.numbers() == [4, 5]
    assert five.ring("canary").sequences() == [4, 5]
    check_whole(five)
    again = gc(five, ONE, now=LATER)
    assert (again.generations, again.deployments, again.files) == ((), (), {})


def test_a_ring_can_still_go_back_and_the_next_numbers_grow(
    five: Binhost, make_package: Any, finished: Any
) -> None:
    gc(five, ONE, now=LATER)
    back = rollback(five, Order(ring="canary", now=LATER), None)
    assert (back.generation.number, back.deployment.sequence) == (4, 6)
    finished(five.build_folder, make_package(five.staging, "a-6"))
    done = publish(five, Order(ring="canary", now=LATER))
    assert (done.generation.number, done.deployment.sequence) == (6, 7)


def test_a_generation_that_was_collected_is_said_to_be(five: Binhost) -> None:
    gc(five, ONE, now=LATER)
    for act in (promote, rollback):
        with pytest.raises(PublishError) as error:
            act(five, Order(ring="canary", now=LATER), 2)
        assert str(error.value) == "Generation 2 was collected; there is 4, 5."


def test_what_a_ring_left_within_the_grace_is_kept_for_blades_with_yesterday_s_index(
    five: Binhost,
) -> None:
    # Generation 3 was left when 4 came, on the fourth day: two and a half days ago.
    done = gc(five, ONE, now=NOW + timedelta(days=6, hours=12))
    assert done.generations == (1, 2)
    assert done.kept[3] == ("ring canary left it less than the grace ago",)
    assert (five.pool.folder / name_of(3)).is_file()
    check_whole(five)


def test_a_clock_that_was_set_back_collects_nothing_early(five: Binhost) -> None:
    assert gc(five, ONE, now=NOW - timedelta(days=400)).generations == ()


def test_a_tag_a_report_and_the_newest_protect(five: Binhost) -> None:
    write_tags(five.folder, {"golden": 1})
    policy = Policy(newest=3, grace=timedelta(0), reported=frozenset({2, 99}))
    done = gc(five, policy, now=LATER)
    assert done.generations == ()
    assert done.kept[1] == ("tag golden",)
    assert done.kept[2] == ("a blade reported it",)
    assert done.kept[3] == ("among the newest",)


def test_each_ring_keeps_what_it_has_also_one_that_is_no_longer_configured(five: Binhost) -> None:
    promote(five, Order(ring="old", now=NOW), 2)
    done = gc(five, ONE, now=LATER)
    assert done.generations == (1, 3)
    assert done.kept[2][0] == "ring old has it"
    check_whole(five)


def test_what_the_last_build_names_stays_although_no_generation_does(
    five: Binhost, finished: Any
) -> None:
    finished(five.build_folder, name_of(1), "app-misc/b/b-1-1.gpkg.tar", snapshots="s1")
    assert set(gc(five, ONE, now=LATER).files) == {name_of(2), name_of(3)}
    done = publish(five, Order(ring="canary", now=LATER))
    assert done.generation.number == 6
    check_whole(five)


def test_what_a_killed_repair_left_goes_as_well(five: Binhost) -> None:
    litter = (five.pool.folder / name_of(5)).with_name(".a-5-1.gpkg.tar.x1")
    litter.write_bytes(b"half")
    gc(five, ONE, now=LATER)
    assert not litter.exists()
    check_whole(five)


def test_what_a_killed_publish_left_goes_as_well(five: Binhost) -> None:
    litter = [
        five.generations.folder / ".6.new/entries",
        five.ring("canary").folder / "deployments/.9.new/Packages",
    ]
    for each in litter:
        each.parent.mkdir()
        each.write_bytes(b"half")
    gc(five, ONE, now=LATER)
    assert [each.parent.exists() for each in litter] == [False, False]
    check_whole(five)


def test_build_ids_stay_when_their_packages_go(five: Binhost) -> None:
    gone = name_of(1)
    gc(five, ONE, now=LATER)
    assert gone not in five.pool.files()
    assert five.pool.build_ids([])["app-misc/a-1"] == 1


@pytest.mark.parametrize("lock", ["binhost/blade/.lock", "build/blade/.lock"])
def test_nothing_is_collected_while_a_publish_or_a_build_is_at_work(
    five: Binhost, tmp_path: Path, lock: str
) -> None:
    with locked(tmp_path / lock, "headnode other"), pytest.raises(BusyError) as error:
        gc(five, ONE, now=LATER)
    assert str(error.value) == (
        f"headnode other (process {os.getpid()}) holds {tmp_path / lock}. "
        "Wait for it to end, then run this again."
    )
    assert five.generations.numbers() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("damaged", ["generations/1/generation.json", "tags.json"])
def test_a_damaged_record_stops_it_before_anything_goes(five: Binhost, damaged: str) -> None:
    (five.folder / damaged).write_text("{")
    before = five.pool.files()
    with pytest.raises(PublishError, match="is damaged"):
        gc(five, ONE, now=LATER)
    assert five.pool.files() == before
    assert five.generations.numbers() == [1, 2, 3, 4, 5]


def test_a_class_with_nothing_has_nothing_to_collect(tmp_path: Path) -> None:
    assert gc(host(tmp_path), ONE, now=LATER) == Plan(kept={})


def test_what_the_mirror_must_keep_is_what_kept_generations_were_built_from(
    five: Binhost, tmp_path: Path
) -> None:
    gc(five, ONE, now=LATER)
    assert used_snapshot_sets(tmp_path) == {"s4", "s5"}
    assert kept_packages(tmp_path) == {
        ("s4", "app-misc/a-4"),
        ("s4", "app-misc/b-1"),
        ("s5", "app-misc/a-5"),
        ("s5", "app-misc/b-1"),
    }


def test_a_gc_killed_before_any_of_its_effects_offers_nothing_that_is_gone_and_the_next_ends_well(
    tmp_path: Path, fill: Fill, killed_at: Any
) -> None:
    fill(tmp_path / "first")
    step = 0
    while True:
        step += 1
        shutil.copytree(tmp_path / "first", tmp_path / str(step), symlinks=True)
        binhost = host(tmp_path / str(step))
        if not killed_at(step, lambda host=binhost: gc(host, ONE, now=LATER)):
            break
        check_whole(binhost)
        assert not publish(binhost, Order(ring="canary", now=LATER)).moved
        gc(binhost, ONE, now=LATER)
        check_whole(binhost)
        assert binhost.generations.numbers() == [4, 5]
        assert binhost.pool.files() == set(binhost.pool.entries())
        assert len(binhost.pool.files()) == 3
        assert not [path for path in binhost.folder.rglob(".*") if path.name != ".lock"]
    assert step > 30


FULL = """\
mkdir d && mount -t tmpfs -o size=4m tmpfs d && cp -a state d/
cat /dev/zero > d/log
"$1" -m headnode.cli generations gc --dry-run && "$1" -m headnode.cli generations gc
"""


@pytest.mark.lab
def test_a_disk_without_a_free_byte_can_be_cleaned_up(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / "state")
    config = '[state]\npath = "d/state"\n[signing]\nmode = "off"\n[binhost]\nkeep_generations = 1\n'
    (tmp_path / "cluster.toml").write_text(config)
    with Ledger(Store(url_of("", tmp_path / "state"), 5.0)) as ledger:
        says = BladeReport(blade="blade01", ring="canary", result=Result.UPDATED, generation=2)
        ledger.pulled(says, NOW)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FULL, "sh", sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("keep generation 2: a blade reported it\n") == 2
    assert done.stdout.count("delete generation 1\n") == 2
    assert "No space left" in done.stderr  # the disk was full
