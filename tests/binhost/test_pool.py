"""A name in the pool never changes its content, whatever happens while it is filled."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from binhost import pool_index
from binhost.index import field, join_entries
from binhost.pool import Pool, clear_staging
from binhost.pool_index import join_digests
from headnode.errors import PublishError
from headnode.process import run


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


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file with its inode, change time and content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_package_enters_by_a_link_and_with_an_entry(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1")
    stock = pool.add(staging, [name])
    assert stock.entries == pool.entries()
    assert stock.sha256 == pool.stock().sha256
    assert (pool.folder / name).samefile(staging / name)
    assert (pool.folder / name).stat().st_mode & 0o777 == 0o644
    assert field(stock.entries[name], "SIZE") == str((staging / name).stat().st_size)


def test_the_digests_are_those_that_sha256sum_checks(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1")
    stock = pool.add(staging, [name])
    assert stock.sha256 == {name: hashlib.sha256((staging / name).read_bytes()).hexdigest()}
    run(["sha256sum", "--check", "--strict", "sha256"], timeout_s=30, cwd=pool.folder)


def test_an_entry_without_a_digest_is_named(pool: Pool, staging: Path, make_package: Any) -> None:
    name = make_package(staging, "a-1")
    pool.add(staging, [name])
    pool.index.digests_file.unlink()
    with pytest.raises(PublishError) as error:
        pool.entries()
    assert str(error.value) == (
        f"{pool.index.digests_file} lacks {name}. It is damaged: put it back from a backup."
    )


def test_adding_twice_changes_nothing(pool: Pool, staging: Path, make_package: Any) -> None:
    names = [make_package(staging, "a-1"), make_package(staging, "b-2")]
    pool.add(staging, names)
    before = state(pool.folder)
    pool.add(staging, names)
    assert state(pool.folder) == before
    clear_staging(staging, pool.entries())
    pool.add(staging, names)
    assert state(pool.folder) == before


def test_old_entries_stay_as_they_are_when_others_come(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    first = pool.add(staging, [make_package(staging, "b-1")]).entries
    second = pool.add(staging, [make_package(staging, "a-1")]).entries
    assert first.items() < second.items()
    assert pool.index.entries_file.read_text() == join_entries(second.values())


def test_only_new_files_are_read(pool: Pool, staging: Path, make_package: Any) -> None:
    old = pool.add(staging, [make_package(staging, "a-1"), make_package(staging, "c-1")])
    for name in old.entries:  # nothing could be learnt from them any more
        (pool.folder / name).write_bytes(b"")
        (staging / name).unlink()
    both = pool.add(staging, [*old.entries, make_package(staging, "b-1")])
    assert {name: both.entries[name] for name in old.entries} == old.entries
    assert {name: both.sha256[name] for name in old.sha256} == old.sha256
    assert len(both.entries) == 3


def test_a_package_of_the_older_format_enters_as_well(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1", suffix=".xpak")
    assert name == "app-misc/a/a-1-1.xpak"
    stock = pool.add(staging, [name])
    assert field(stock.entries[name], "CPV") == "app-misc/a-1"
    assert pool.files() == {name}
    clear_staging(staging, stock.entries)
    assert not list(staging.iterdir())


@pytest.mark.parametrize("known", [True, False])
def test_one_build_in_two_formats_is_refused(
    pool: Pool, staging: Path, make_package: Any, known: bool
) -> None:
    gpkg, xpak = make_package(staging, "a-1"), make_package(staging, "a-1", suffix=".xpak")
    if known:
        pool.add(staging, [gpkg])
    before = state(pool.folder)
    with pytest.raises(PublishError) as error:
        pool.add(staging, [xpak] if known else [xpak, gpkg])
    first, second = (xpak, gpkg) if known else (gpkg, xpak)
    assert str(error.value) == (
        f"{first} and {second} are the same build of one package. "
        "Build the package again: it then gets a build id of its own."
    )
    assert state(pool.folder) == before


def test_the_same_name_with_other_content_is_refused_and_changes_nothing(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1")
    pool.add(staging, [name])
    (staging / name).unlink()
    make_package(staging, "a-1", image=b"other")
    before = state(pool.folder)
    with pytest.raises(PublishError) as error:
        pool.add(staging, [name])
    assert str(error.value) == (
        f"The pool has another {name}; a published name never changes its content. "
        f"Remove {staging / name} and build the package again."
    )
    assert state(pool.folder) == before


def test_a_file_that_no_entry_names_is_not_written_over(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1")
    make_package(pool.folder, "a-1", image=b"other")
    before = state(pool.folder)
    with pytest.raises(PublishError, match="The pool has another app-misc/a/a-1-1"):
        pool.add(staging, [name])
    assert state(pool.folder) == before


def test_a_crash_between_link_and_entry_is_healed_by_the_next_add(
    pool: Pool, staging: Path, make_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_package(staging, "a-1")

    def stop(*args: Any) -> None:
        (pool.folder / ".entries.half").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_index, "join_digests", stop)
        pool.add(staging, [name])
    assert (pool.folder / name).exists()
    assert pool.entries() == {}
    assert list(pool.add(staging, [name]).entries) == [name]
    there = sorted(path.name for path in pool.folder.iterdir())
    assert there == ["app-misc", "build-ids", "entries", "sha256"]


def test_a_linked_package_without_an_entry_is_entered_even_if_staging_lost_it(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(pool.folder, "a-1")
    assert list(pool.add(staging, [name]).entries) == [name]


def test_nothing_is_linked_when_one_of_several_is_not_whole(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    good, bad = make_package(staging, "a-1"), make_package(staging, "b-1")
    (staging / bad).write_bytes(b"")
    with pytest.raises(PublishError, match=r"b-1-1\.gpkg\.tar is not a whole gpkg: empty file"):
        pool.add(staging, [good, bad])
    assert pool.files() == set()


def test_a_package_that_is_nowhere_is_named(pool: Pool, staging: Path) -> None:
    with pytest.raises(PublishError) as error:
        pool.add(staging, ["app-misc/a/a-1-1.gpkg.tar"])
    assert str(error.value) == (
        f"app-misc/a/a-1-1.gpkg.tar was built, but is neither in {staging} nor in the pool. "
        "Run headnode build again."
    )


def test_staging_keeps_what_the_pool_has_not(pool: Pool, staging: Path, make_package: Any) -> None:
    published, built = make_package(staging, "a-1"), make_package(staging, "a-2")
    (staging / "Packages").write_text("stale")
    clear_staging(staging, pool.add(staging, [published]).entries)
    assert list(state(staging)) == [built]


def test_ten_thousand_entries_are_read_in_a_fraction_of_a_second(
    pool: Pool, staging: Path, make_package: Any
) -> None:
    name = make_package(staging, "a-1", RDEPEND="dev-libs/x " * 30)
    entry = pool.add(staging, [name]).entries[name]
    many = (
        entry.replace("a-1-1", f"a-1-{number}").replace("BUILD_ID: 1", f"BUILD_ID: {number}")
        for number in range(10_000)
    )
    many = list(many)
    pool.index.entries_file.write_text(join_entries(many))
    pool.index.digests_file.write_text(
        join_digests({field(each, "PATH") or "": "0" * 64 for each in many})
    )
    started = time.process_time()
    assert len(pool.entries()) == 10_000
    assert time.process_time() - started < 0.5
