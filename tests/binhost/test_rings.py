"""A ring moves by one rename, its index only grows newer, and a reader never meets half of one."""

import errno
import gzip
import hashlib
import json
import multiprocessing
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from binhost import rings
from binhost.records import BuildResult, Deployment, Generation
from binhost.rings import TIMESTAMP_STEP_S, Ring, check_files
from headnode.errors import PublishError

NAME = "app-misc/a/a-1-1.gpkg.tar"
ENTRY = f"CPV: app-misc/a-1\nPATH: {NAME}\nSIZE: 4\n"
SPAWN = multiprocessing.get_context("fork")


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(folder=tmp_path / "rings/canary", class_name="blade", name="canary")


@pytest.fixture
def generation(tmp_path: Path, finished: Any) -> Generation:
    result: BuildResult = finished(tmp_path, NAME)
    fields = result.model_dump(exclude={"built", "distributed", "finished", "packages", "seconds"})
    return Generation(
        number=1,
        parent=None,
        made=result.finished,
        why="",
        packages={NAME: "aa"},
        entries_sha256="",
        **fields,
    )


def deploy(
    ring: Ring, generation: Generation, now: datetime, number: int = 1, **more: Any
) -> Deployment:
    return ring.deploy(
        generation.model_copy(update={"number": number}),
        {NAME: ENTRY},
        repos=more.get("repos", {}),
        pool_url="http://h/pool",
        now=now,
        valid=timedelta(days=14),
        signer=more.get("signer"),
    )


def test_a_ring_that_never_had_anything_has_nothing(ring: Ring) -> None:
    assert (ring.current(), ring.newest()) == (None, None)


def test_a_deployment_has_what_it_says_and_its_index_the_time_it_says(
    ring: Ring, generation: Generation, tmp_path: Path
) -> None:
    tree = tmp_path / "mirror/tree"
    tree.mkdir(parents=True)
    made = deploy(ring, generation, generation.made, repos={"gentoo": tree})
    assert ring.current() == ring.newest() == made
    assert ring.pool_url() == "http://h/pool"
    assert (ring.folder / "current").readlink() == Path("deployments/1")
    current = ring.folder / "current"
    for name, digest in made.sha256.items():
        assert hashlib.sha256((current / name).read_bytes()).hexdigest() == digest
        assert (current / name).stat().st_mtime == made.timestamp
    assert f"TIMESTAMP: {made.timestamp}\n" in (current / "Packages").read_text()
    assert (current / "repos/gentoo").resolve() == tree
    assert not (current / "repos/gentoo").readlink().is_absolute()


def test_an_index_that_cannot_be_written_leaves_the_ring_as_it_was(
    ring: Ring, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = deploy(ring, generation, generation.made)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(rings, "fill_durably", Mock(side_effect=full))
        deploy(ring, generation, generation.made, number=2)
    assert (ring.current(), ring.sequences()) == (made, [1])
    assert deploy(ring, generation, generation.made, number=2).sequence == 2
    assert sorted(path.name for path in (ring.folder / "deployments").iterdir()) == ["1", "2"]


def test_a_full_disk_is_said_as_such_also_where_gpg_meets_it_first(
    ring: Ring, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = PublishError("deployment.json could not be signed")
    signer = Mock(keyring="", trusted=("AA",), seal=Mock(side_effect=refused))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(rings, "fill_durably", Mock(side_effect=full))
        deploy(ring, generation, generation.made, signer=signer)
    with pytest.raises(PublishError, match="could not be signed"):
        deploy(ring, generation, generation.made, signer=signer)
    assert ring.current() is None


@pytest.mark.parametrize("step_s", [-86_400, 0, 1, 5])
def test_the_timestamp_grows_enough_for_portage_also_when_the_clock_goes_back(
    ring: Ring, generation: Generation, step_s: int
) -> None:
    first = deploy(ring, generation, generation.made)
    second = deploy(ring, generation, generation.made + timedelta(seconds=step_s))
    assert second.timestamp == first.timestamp + TIMESTAMP_STEP_S
    assert second.sequence == 2


def test_a_clock_that_goes_on_is_followed(ring: Ring, generation: Generation) -> None:
    first = deploy(ring, generation, generation.made)
    second = deploy(ring, generation, generation.made + timedelta(hours=1))
    assert second.timestamp == first.timestamp + 3600


def test_a_deployment_that_lost_its_rename_is_passed_over_in_number_and_time(
    ring: Ring, generation: Generation
) -> None:
    deploy(ring, generation, generation.made)
    lost = deploy(ring, generation, generation.made, number=2)
    (ring.folder / "current").unlink()
    third = deploy(ring, generation, generation.made, number=3)
    assert (third.sequence, third.timestamp) == (3, lost.timestamp + TIMESTAMP_STEP_S)


def test_what_a_killed_publish_left_is_cleared(ring: Ring, generation: Generation) -> None:
    (ring.folder / "deployments/.1.new/repos").mkdir(parents=True)
    (ring.folder / ".current.77").symlink_to("nowhere")
    deploy(ring, generation, generation.made)
    assert sorted(path.name for path in ring.folder.iterdir()) == ["current", "deployments"]
    assert [path.name for path in (ring.folder / "deployments").iterdir()] == ["1"]


def test_a_deployment_that_the_ring_never_moved_to_does_not_count_as_one_that_it_had(
    ring: Ring, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(ring, generation, generation.made)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rings, "point_symlink", Mock(side_effect=KeyboardInterrupt))
        deploy(ring, generation, generation.made, number=2)
    assert deploy(ring, generation, generation.made).sequence == 3
    assert ring.sequences() == [1, 3]
    assert not ring.went_back_from(2)


def test_a_renewal_does_not_change_since_when_a_ring_has_its_generation(
    ring: Ring, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ring.first_of_row() is None
    for day, number in enumerate((2, 1, 2, 2, 2)):
        deploy(ring, generation, generation.made + timedelta(days=day), number=number)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rings, "point_symlink", Mock(side_effect=KeyboardInterrupt))
        deploy(ring, generation, generation.made + timedelta(days=9), number=3)
    first = ring.first_of_row()
    assert first is not None
    assert (first.sequence, first.issued) == (3, generation.made + timedelta(days=2))
    (ring.folder / "deployments/4/deployment.json").write_text("{")
    first = ring.first_of_row()
    assert first is not None
    assert first.sequence == 5


def read_on(current: Path, stop: Any, out: Any) -> None:
    """Read the ring until told to stop; answer with the reads made and what was wrong.

    First one file by the moving name, as emerge does, then all of one deployment by its own.
    """
    wrong, reads = [], 0
    while not stop.is_set():
        reads += 1
        try:
            index = (current / "Packages").read_bytes()
            if not index.endswith(f"{ENTRY}\n".encode()):
                wrong.append("a torn index")
            folder = current.resolve()
            said = json.loads((folder / "deployment.json").read_bytes())
            parts = {name: (folder / name).read_bytes() for name in said["sha256"]}
        except OSError as error:
            wrong.append(repr(error))
            continue
        found = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        if found != said["sha256"]:
            wrong.append("digests that differ")
        if gzip.decompress(parts["Packages.gz"]) != parts["Packages"]:
            wrong.append("two indices")
    out.put((reads, wrong))


def test_a_reader_never_sees_a_missing_or_torn_file_over_fifty_deployments(
    ring: Ring, generation: Generation
) -> None:
    deploy(ring, generation, generation.made)
    stop, out = SPAWN.Event(), SPAWN.Queue()
    reader = SPAWN.Process(target=read_on, args=(ring.folder / "current", stop, out))
    reader.start()
    for number in range(2, 52):
        deploy(ring, generation, generation.made, number=number)
    stop.set()
    reads, wrong = out.get(timeout=30)
    reader.join()
    assert wrong == []
    assert reads > 50
    current = ring.current()
    assert current is not None
    assert (current.sequence, current.generation) == (51, 51)


def test_a_missing_pool_file_is_found(tmp_path: Path) -> None:
    with pytest.raises(PublishError) as error:
        check_files(tmp_path, {NAME: ENTRY})
    assert error.value.what == f"{tmp_path / NAME} is not there; its index entry says 4 bytes."


def test_a_short_pool_file_is_found(tmp_path: Path) -> None:
    (tmp_path / NAME).parent.mkdir(parents=True)
    (tmp_path / NAME).write_bytes(b"abc")
    with pytest.raises(PublishError) as error:
        check_files(tmp_path, {NAME: ENTRY})
    assert str(error.value) == (
        f"{tmp_path / NAME} has 3 bytes; its index entry says 4 bytes. Put it back from a backup, "
        "or remove it and run headnode build: the package is then built anew."
    )


def test_whole_pool_files_pass(tmp_path: Path) -> None:
    (tmp_path / NAME).parent.mkdir(parents=True)
    (tmp_path / NAME).write_bytes(b"abcd")
    check_files(tmp_path, {NAME: ENTRY})
