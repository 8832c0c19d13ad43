"""A build id that was given once is never given again, whatever was removed since."""

from pathlib import Path
from typing import Any

import pytest

from binhost import build_ids, pool_index
from binhost.pool import Pool
from binhost.pool_index import PoolIndex
from headnode.errors import PublishError


@pytest.fixture(autouse=True)
def nothing_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything in the large files at once (tests/binhost/test_pool_index.py: the small)."""
    monkeypatch.setattr(pool_index, "RECENT", 0)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(folder=tmp_path / "pool")


def collect(pool: Pool, name: str) -> None:
    """Remove a package with its entry and digest, as a clean-up does."""
    pool.index.drop({name})
    (pool.folder / name).unlink()


def test_what_was_given_survives_the_packages(pool: Pool, staging: Path, make_package: Any) -> None:
    names = [make_package(staging, "a-1", build_id=number) for number in (3, 12)]
    pool.add(staging, names)
    assert pool.index.build_ids_file.read_text() == "app-misc/a-1 12\n"
    for name in names:
        collect(pool, name)
    assert pool.build_ids(pool.entries()) == {"app-misc/a-1": 12}
    pool.add(staging, [make_package(staging, "a-1", build_id=7), make_package(staging, "b-1")])
    assert pool.index.build_ids_file.read_text() == "app-misc/a-1 12\napp-misc/b-1 1\n"


def test_the_id_of_a_package_that_a_killed_publish_linked_counts(
    pool: Pool, staging: Path, make_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_package(staging, "a-1", build_id=3)

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PoolIndex, "add", stop)
        pool.add(staging, [name])
    assert pool.files() == {name}
    assert pool.build_ids(pool.files()) == {"app-misc/a-1": 3}


def test_a_pool_that_is_older_than_its_file_of_ids_gets_one_of_all_that_it_has(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    pool.add(staging, [make_package(staging, "a-1", build_id=4)])
    pool.index.build_ids_file.unlink()
    assert pool.build_ids(pool.files()) == {"app-misc/a-1": 4}
    pool.add(staging, [make_package(staging, "b-1")])
    assert pool.index.build_ids_file.read_text() == "app-misc/a-1 4\napp-misc/b-1 1\n"


def test_a_damaged_file_of_ids_stops_a_publish_that_would_write_it(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1")
    pool.folder.mkdir()
    pool.index.build_ids_file.write_text("app-misc/a-1 \n")
    with pytest.raises(PublishError) as error:
        pool.add(staging, [name])
    assert str(error.value) == (
        f"{pool.index.build_ids_file} is damaged: a line is not a version and a number. "
        "Put it back from a backup: without it, a build could get the name of another."
    )
    assert pool.entries() == {}
    pool.index.build_ids_file.write_text("")
    assert list(pool.add(staging, [name]).entries) == [name]


def test_every_name_above_the_highest_whole_build_is_kept_free_holes_included() -> None:
    whole = {"app-misc/a/a-1-2.gpkg.tar", "app-misc/b/b-1-3.gpkg.tar"}
    highest = {"app-misc/a-1": 4, "app-misc/b-1": 3, "app-misc/gone-1": 1}
    assert build_ids.above(highest, whole) == {
        "app-misc/a-1": ["app-misc/a/a-1-4.gpkg.tar", "app-misc/a/a-1-3.gpkg.tar"],
        "app-misc/gone-1": ["app-misc/gone/gone-1-1.gpkg.tar"],
    }


@pytest.mark.parametrize(
    ("name", "cpv", "build_id"),
    [
        ("app-misc/a/a-1-2.gpkg.tar", "app-misc/a-1", 2),
        ("sys-libs/glibc/glibc-2.41-r3-12.xpak", "sys-libs/glibc-2.41-r3", 12),
        ("x11-libs/gtk+/gtk+-3.24.1_p1-1.gpkg.tar", "x11-libs/gtk+-3.24.1_p1", 1),
        ("app-misc/a/a-1-x.gpkg.tar", "app-misc/a-1", 0),
    ],
)
def test_a_name_says_version_and_build_id(name: str, cpv: str, build_id: int) -> None:
    assert build_ids.cpv_and_id(name) == (cpv, build_id)
