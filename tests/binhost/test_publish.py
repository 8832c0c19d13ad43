"""Publishing: all of it or none, whatever is wrong and wherever it is killed."""

import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from binhost import generations, pool_index, rings
from binhost.entries import Entries
from binhost.gates import GateError, Move, Waivers
from binhost.index import field, parse_entries
from binhost.keys import Keys
from binhost.publish import Binhost, Order, Published, promote, publish, renew, rollback
from binhost.records import GateReport
from binhost.signing import Signer
from headnode.errors import BusyError, ConfigError, PublishError
from headnode.files import locked

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def binhost(tmp_path: Path) -> Binhost:
    return host(tmp_path)


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


def order(ring: str = "canary", **more: Any) -> Order:
    return Order(ring=ring, now=NOW, **more)


def go(binhost: Binhost, ring: str = "canary", **more: Any) -> Published:
    return publish(binhost, order(ring, **more))


def served(binhost: Binhost, ring: str = "canary") -> tuple[int, set[str]]:
    """The generation that a ring serves and the CPVs of its index, each file of it checked."""
    folder = (binhost.folder / "rings" / ring / "current").resolve(strict=True)
    said = json.loads((folder / "deployment.json").read_bytes())
    for name, digest in said["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    content = (folder / "Packages").read_text()
    assert gzip.decompress((folder / "Packages.gz").read_bytes()).decode() == content
    assert (folder / "repos/gentoo").is_symlink()
    entries = parse_entries(content.partition("\n\n")[2])
    for name, entry in entries.items():
        data = (binhost.pool.folder / name).read_bytes()
        assert field(entry, "SHA1") == hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return said["generation"], {str(field(entry, "CPV")) for entry in entries.values()}


def tree_of(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below `folder`, lock files left out."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or (path.is_file() and path.name != ".lock")
    }


@pytest.fixture
def old(binhost: Binhost, make_package: Any, finished: Any) -> Binhost:
    """A binhost whose canary ring has a generation of a-1."""
    finished(binhost.build_folder, make_package(binhost.staging, "a-1"))
    go(binhost)
    return binhost


def build_more(binhost: Binhost, make_package: Any, finished: Any) -> None:
    """What a build leaves that went from a-1 to a-2, and added b."""
    names = [make_package(binhost.staging, pf) for pf in ("a-2", "b-1")]
    (binhost.staging / "Packages").write_text("Portage's own")
    finished(binhost.build_folder, *names, snapshots="s2")


def test_what_was_built_is_in_front_of_the_ring_and_staging_is_empty(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    assert served(old) == (1, {"app-misc/a-1"})
    build_more(old, make_package, finished)
    done = go(old)
    assert done.moved
    assert done.new_packages == ("app-misc/a/a-2-1.gpkg.tar", "app-misc/b/b-1-1.gpkg.tar")
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})
    assert tree_of(old.staging) == {}


def test_publishing_again_writes_nothing(old: Binhost) -> None:
    before = tree_of(old.folder)
    done = go(old)
    assert (done.moved, done.new_packages, done.deployment.sequence) == (False, (), 1)
    assert tree_of(old.folder) == before


def test_a_package_of_yesterdays_index_is_still_in_the_pool(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    before = {name: data for name, data in tree_of(old.pool.folder).items() if "/" in name}
    build_more(old, make_package, finished)
    go(old)
    assert before.items() <= tree_of(old.pool.folder).items()


def test_a_ring_gets_its_index_anew_when_the_headnode_has_another_address(old: Binhost) -> None:
    moved = replace(old, pool_url="http://10.0.0.1/binhost/blade/pool")
    done = go(moved)
    assert (done.moved, done.deployment.sequence, done.generation.number) == (True, 2, 1)
    assert moved.ring("canary").pool_url() == "http://10.0.0.1/binhost/blade/pool"
    assert not go(moved).moved


def test_an_older_generation_goes_in_front_of_a_ring_as_a_newer_deployment(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    second = go(old).deployment
    back = rollback(old, order(), None)
    assert back.deployment.sequence == 3
    assert back.deployment.timestamp > second.timestamp
    assert served(old) == (1, {"app-misc/a-1"})
    after = replace(order("fleet"), earlier=("canary",))
    with pytest.raises(PublishError) as error:
        promote(old, after, None)
    assert str(error.value) == (
        "The newest generation, 2, is one that the ring canary went back from. Name the one that "
        "fleet is to have: headnode promote GENERATION --ring fleet."
    )
    assert promote(old, after, 2).generation.number == 2
    assert promote(old, order(), None).generation.number == 2, "the first ring may have it again"


def test_a_ring_keeps_what_it_went_back_to_until_something_newer_is_built(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    go(old)
    rollback(old, order(), None)
    again = go(old)
    assert (again.moved, again.generation.number, again.left) == (False, 1, 2)
    assert promote(old, order(), 2).moved
    assert go(old).left is None


def test_a_generation_whose_publish_was_killed_at_the_end_is_published_after_a_renewal(
    old: Binhost, make_package: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_more(old, make_package, finished)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rings, "point_symlink", Mock(side_effect=KeyboardInterrupt))
        go(old)
    moved = replace(old, pool_url="http://10.0.0.1/binhost/blade/pool")
    renewed = renew(moved, order())
    assert renewed is not None
    assert (renewed.deployment.sequence, renewed.generation.number) == (3, 1)
    done = go(moved)
    assert (done.moved, done.left, served(moved)[0]) == (True, None, 2)


def test_a_ring_without_an_older_generation_cannot_go_back(old: Binhost) -> None:
    with pytest.raises(PublishError) as error:
        rollback(old, order(), None)
    assert str(error.value) == (
        "The ring canary never had an older generation. headnode generations list shows what "
        "there is; name one with --to."
    )


def refuse(move: Move) -> list[GateReport]:
    return [
        GateReport(gate="smoke", passed=False, report=f"{move.kind} is refused."),
        GateReport(gate="integrity", passed=True, report="Good."),
    ]


def when_written(binhost: Binhost, act: Callable[[Move], Any]) -> Callable[[Move], Any]:
    """A gate that acts when the generation's entries are beside: they are written meanwhile."""

    def gate(move: Move) -> Any:
        entries = binhost.generations.folder / f".{move.generation.number}.new/entries"
        deadline = time.monotonic() + 60
        while not entries.exists() or entries.read_bytes() != Entries.of(move.entries).content:
            assert time.monotonic() < deadline
        return act(move)

    return gate


def test_a_gate_that_is_shut_leaves_nothing_of_the_generation_that_was_being_written(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    before = tree_of(old.generations.folder)
    with pytest.raises(GateError):
        go(old, gates=when_written(old, refuse))
    assert tree_of(old.generations.folder) == before
    assert [path.name for path in old.generations.folder.iterdir()] == ["1"]
    go(old)
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})


def test_a_publish_killed_while_the_gates_are_asked_leaves_the_old_and_the_next_one_ends_well(
    old: Binhost, make_package: Any, finished: Any, killed_at: Any
) -> None:
    build_more(old, make_package, finished)
    die = when_written(old, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert killed_at(0, lambda: go(old, gates=die))
    assert served(old) == (1, {"app-misc/a-1"})
    assert old.generations.numbers() == [1]
    go(old)
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})
    assert sorted(path.name for path in old.generations.folder.iterdir()) == ["1", "2"]


def test_entries_that_cannot_be_written_make_no_generation_although_the_gates_are_open(
    old: Binhost, make_package: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_more(old, make_package, finished)
    before = tree_of(old.folder / "rings")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(generations, "fill_durably", Mock(side_effect=full))
        go(old)
    assert tree_of(old.folder / "rings") == before
    assert [path.name for path in old.generations.folder.iterdir()] == ["1"]
    go(old)
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})


@pytest.mark.parametrize("kind", ["publish", "promote", "rollback"])
def test_a_gate_that_is_shut_leaves_everything_served_as_it_was(
    old: Binhost, make_package: Any, finished: Any, kind: str
) -> None:
    build_more(old, make_package, finished)
    if kind != "publish":
        go(old, "other" if kind == "promote" else "canary")
    before, known = tree_of(old.folder / "rings"), old.generations.numbers()
    shut = order(gates=refuse)
    with pytest.raises(GateError) as error:
        if kind == "publish":
            publish(old, shut)
        elif kind == "promote":
            promote(old, shut, 2)
        else:
            rollback(old, shut, None)
    number = 1 if kind == "rollback" else 2
    assert str(error.value) == (
        f"Generation {number} does not pass smoke; the ring canary is as it was.\n"
        f"smoke: {kind} is refused.\n"
        "Put that right and run it again, or let it through with --waive smoke --note WHY."
    )
    assert tree_of(old.folder / "rings") == before
    assert old.generations.numbers() == known


def test_a_waived_gate_lets_through_and_the_generation_keeps_why(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    waivers = Waivers(names=frozenset({"smoke"}), note="the lab has no GPU")
    done = go(old, gates=refuse, waivers=waivers)
    kept = old.generations.read(done.generation.number).gates
    assert [(each.gate, each.passed, each.waived) for each in kept] == [
        ("smoke", False, "the lab has no GPU"),
        ("integrity", True, ""),
    ]
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})


def test_a_move_to_a_known_generation_keeps_its_gates_in_the_deployment(old: Binhost) -> None:
    waivers = Waivers(names=frozenset({"smoke"}), note="why")
    done = promote(old, order("fleet", gates=refuse, waivers=waivers), None)
    current = old.ring("fleet").current()
    assert current == done.deployment
    assert [each.waived for each in current.gates] == ["why", ""]


def test_a_gate_is_waived_by_a_name_that_there_is_and_with_a_note() -> None:
    with pytest.raises(ConfigError) as error:
        Waivers(names=frozenset({"smok"}), note="x")
    assert str(error.value) == (
        "There is no gate smok. The gates are integrity, licence, monotonic, closure, soname, "
        "smoke, converged, way-back."
    )
    with pytest.raises(ConfigError) as error:
        Waivers(names=frozenset({"smoke"}), note=" ")
    assert str(error.value) == (
        "A gate is waived with a reason, which the generation keeps. Add --note WHY."
    )


def test_nothing_built_is_an_error_with_what_to_do(binhost: Binhost) -> None:
    with pytest.raises(PublishError) as error:
        go(binhost)
    assert str(error.value) == "Nothing was built yet. Run headnode build first."


def test_a_damaged_build_record_is_not_taken_for_none(old: Binhost) -> None:
    (old.build_folder / "result.json").write_text("{")
    with pytest.raises(PublishError, match=r"result\.json is damaged"):
        go(old)


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_damaged_pool_leaves_the_ring_as_it_was(
    old: Binhost, make_package: Any, finished: Any, content: bytes | None
) -> None:
    build_more(old, make_package, finished)
    result = go(old, "other").generation
    before = tree_of(old.folder / "rings/canary")
    broken = old.pool.folder / next(iter(result.packages))
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(PublishError, match="its index entry says"):
        go(old)
    assert tree_of(old.folder / "rings/canary") == before


def test_a_pool_that_lost_its_index_does_not_take_a_changed_file_for_what_was_published(
    old: Binhost, finished: Any, make_package: Any
) -> None:
    [name] = old.pool.files()
    old.pool.index.recent_file.unlink()
    other = make_package(old.staging, "a-1", image=b"other")
    (old.staging / other).replace(old.pool.folder / name)
    finished(old.build_folder, name, make_package(old.staging, "b-1"))
    for _ in range(2):  # nothing of it is written down
        with pytest.raises(PublishError) as error:
            go(old)
        assert str(error.value) == (
            f"{old.pool.folder / name} is not what was published under that name. "
            "headnode generations verify --repair looks for what was."
        )
    assert old.generations.numbers() == [1]


def test_a_pool_that_lost_its_index_gets_it_again_from_its_files(
    old: Binhost, finished: Any, make_package: Any
) -> None:
    before = dict(old.pool.entries())
    old.pool.index.recent_file.unlink()
    finished(old.build_folder, *before, make_package(old.staging, "b-1"))
    go(old)
    assert served(old) == (2, {"app-misc/a-1", "app-misc/b-1"})
    assert before.items() < old.pool.entries().items()


def test_a_digest_that_is_not_what_was_published_is_damage(
    old: Binhost, finished: Any, make_package: Any
) -> None:
    [name] = old.pool.files()
    index = old.pool.index
    text = index.recent_file.read_text()
    index.recent_file.write_text(text.replace(old.pool.stock().sha256[name], "0" * 64))
    finished(old.build_folder, name, make_package(old.staging, "b-1"))
    with pytest.raises(PublishError, match=f"has not the published digest of {name}. It is damag"):
        go(old)


def test_a_package_that_comes_back_without_an_entry_is_entered_again(
    old: Binhost, finished: Any, make_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_index, "RECENT", 0)
    [first] = old.pool.files()
    second = make_package(old.staging, "b-1")
    finished(old.build_folder, second)
    go(old)
    old.pool.index.entries_file.write_text("")
    finished(old.build_folder, first, second)
    go(old)
    assert served(old) == (3, {"app-misc/a-1", "app-misc/b-1"})
    assert set(old.pool.entries()) >= {first}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("PATH: x\n")])
def test_damaged_entries_of_the_generation_before_do_not_get_into_the_next(
    old: Binhost, make_package: Any, finished: Any, damage: Callable[[Path], object]
) -> None:
    build_more(old, make_package, finished)
    damage(old.generations.folder / "1/entries")
    go(old)
    assert served(old) == (2, {"app-misc/a-2", "app-misc/b-1"})


def test_a_package_that_is_not_whole_changes_nothing(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    path = old.staging / "app-misc/b/b-1-1.gpkg.tar"
    path.write_bytes(path.read_bytes()[:1500])
    before = tree_of(old.folder)
    with pytest.raises(PublishError, match="is not a whole gpkg"):
        go(old)
    assert tree_of(old.folder) == before


def test_two_publishes_at_once_the_second_is_told_who_is_at_work(old: Binhost) -> None:
    path = old.folder / ".lock"
    with locked(path, "headnode publish"), pytest.raises(BusyError) as error:
        go(old)
    assert str(error.value) == (
        f"headnode publish (process {os.getpid()}) holds {path}. "
        "Wait for it to end, then run this again."
    )


def test_a_publish_during_a_build_leaves_staging_to_emerge(
    old: Binhost, make_package: Any, finished: Any
) -> None:
    build_more(old, make_package, finished)
    before = tree_of(old.staging)
    with locked(old.build_folder / ".lock", "headnode build"):
        assert go(old).moved
    assert tree_of(old.staging) == before
    go(old)
    assert tree_of(old.staging) == {}


def test_what_a_rename_puts_in_place_is_durable_before_it(
    old: Binhost, make_package: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_more(old, make_package, finished)
    durable, moved = dict[Path, int](), list[str]()
    fsync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        size = os.fstat(handle).st_size
        fsync(handle)
        durable[Path(f"/proc/self/fd/{handle}").readlink()] = size

    def moves(path: Path, target: Path) -> None:
        files = {each: each.stat().st_size for each in path.rglob("*") if each.is_file()}
        assert files.items() | {path: path.stat().st_size}.items() <= durable.items()
        moved.append(str(target.relative_to(old.folder)))
        rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", moves)
    go(old)
    assert moved == ["generations/2", "rings/canary/deployments/2"]


def read_on(folder: Path, stop: Any, out: Any) -> None:
    """Read every ring below `folder` until told to stop; answer with the reads and what was wrong.

    A ring is read the way a blade does: its index, then every package that it names.
    """
    wrong, reads = [], 0
    while not stop.is_set():
        for current in folder.glob("*/binhost/blade/rings/canary/current"):
            try:
                served(host(current.parents[4]))
                reads += 1
            except (AssertionError, OSError) as error:
                wrong.append(f"{current}: {error!r}")
    out.put((reads, wrong))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[None]:
    """A reader that looks at everything all the time, and must never see anything wrong."""
    fork = multiprocessing.get_context("fork")
    stop, out = fork.Event(), fork.Queue()
    reader = fork.Process(target=read_on, args=(tmp_path, stop, out))
    reader.start()
    yield
    stop.set()
    reads, wrong = out.get(timeout=60)
    reader.join()
    assert wrong == []
    assert reads > 100


@pytest.mark.parametrize(("signed", "recent"), [(False, 64), (True, 64), (False, 0)])
@pytest.mark.usefixtures("watched")
def test_a_publish_killed_before_any_of_its_effects_leaves_old_or_new_and_the_next_one_ends_well(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_package: Any,
    finished: Any,
    killed_at: Any,
    monkeypatch: pytest.MonkeyPatch,
    signed: bool,
    recent: int,
) -> None:
    monkeypatch.setattr(pool_index, "RECENT", recent)
    old_state, new_state = (1, {"app-misc/a-1"}), (2, {"app-misc/a-2", "app-misc/b-1"})
    folder = tmp_path_factory.mktemp("k")
    keys = Keys(folder=folder, home=folder / "signing") if signed else None
    if keys:
        keys.make("one")
    seen, step = [], 0
    while True:
        step += 1
        binhost = replace(host(tmp_path / str(step)), keys=keys)
        finished(binhost.build_folder, make_package(binhost.staging, "a-1"))
        go(binhost)
        build_more(binhost, make_package, finished)
        if not killed_at(step, lambda host=binhost: go(host)):
            break
        seen.append(served(binhost))
        assert seen[-1] in (old_state, new_state)
        go(binhost)
        assert served(binhost) == new_state
        assert tree_of(binhost.staging) == {}
        assert not [path for path in binhost.folder.rglob(".*") if path.name != ".lock"]
        if keys:
            assert (
                Signer.of(keys).verify(binhost.pool.folder / n for n in binhost.pool.files()) == {}
            )
        assert binhost.generations.numbers() == [1, 2]
        assert binhost.pool.files() == set(binhost.pool.entries())
    # Old up to one point and new from there on; and there were many points.
    assert sorted(seen, key=lambda state: state[0]) == seen
    assert len(seen) > 40
    assert seen.count(old_state) > 30
    assert seen.count(new_state) > 3
    if keys:
        keys.end_agent()
