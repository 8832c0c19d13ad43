"""The pool's index: one more package is a small file; on the way to the large nothing is lost."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from binhost import pool_index as module
from binhost.index import field
from binhost.pool_index import Known, PoolIndex
from headnode.errors import PublishError

New = Mapping[str, Known]


def package(name: str, build_id: int = 1) -> New:
    """A package of that name, as it is known."""
    path = f"app-misc/{name}/{name}-1-{build_id}.gpkg.tar"
    entry = f"BUILD_ID: {build_id}\nCPV: app-misc/{name}-1\nPATH: {path}\nSIZE: 7\n"
    return {path: Known(entry=entry, sha256=f"{build_id:064x}")}


OLD: New = {**package("a"), **package("b")}
NEW: New = {**package("c"), **package("d")}
ALL = {**OLD, **NEW}
[C, D] = NEW


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PoolIndex:
    """An index with OLD in its large files, that takes two in its small one."""
    monkeypatch.setattr(module, "RECENT", 0)
    found = PoolIndex(folder=tmp_path)
    found.add(OLD, found.stock())
    monkeypatch.setattr(module, "RECENT", 2)
    return found


def content(index: PoolIndex) -> dict[str, Known]:
    """All that it has."""
    stock = index.stock()
    assert {name: stock.entry(name) for name in stock.entries} == dict(stock.entries)
    return {name: Known(entry, stock.sha256[name]) for name, entry in stock.entries.items()}


def names(index: PoolIndex) -> list[str]:
    return sorted(path.name for path in index.folder.iterdir())


def test_a_few_more_leave_the_large_files_as_they_are(index: PoolIndex) -> None:
    large = (index.entries_file, index.digests_file, index.build_ids_file)
    before = [path.stat() for path in large]
    stock = index.add(NEW, index.stock())
    assert [path.stat() for path in large] == before
    assert stock.sha256 == {name: each.sha256 for name, each in ALL.items()}
    assert content(index) == ALL
    assert json.loads(index.recent_file.read_text()) == {k: v._asdict() for k, v in NEW.items()}


def test_to_add_a_few_reads_no_entries(index: PoolIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = index.stock()
    monkeypatch.setattr(PoolIndex, "entries", lambda self: pytest.fail("they were read"))
    stock = index.add(NEW, stock)
    assert stock.entry(D) == NEW[D].entry


def test_many_more_go_into_the_large_files(index: PoolIndex) -> None:
    stock = index.add({C: NEW[C]}, index.stock())
    more = {D: NEW[D], **package("e", 12)}
    stock = index.add(more, stock)
    assert names(index) == ["build-ids", "entries", "sha256"]
    assert content(index) == {**OLD, C: NEW[C], **more}
    assert {name: stock.entry(name) for name in more} == {k: v.entry for k, v in more.items()}
    assert index.build_ids_file.read_text().splitlines() == [
        *(f"app-misc/{name}-1 1" for name in "abcd"),
        "app-misc/e-1 12",
    ]


def test_a_build_id_counts_before_it_is_written_down(index: PoolIndex) -> None:
    index.add(package("e", 12), index.stock())
    assert "app-misc/e-1" not in index.build_ids_file.read_text()
    assert index.build_ids([])["app-misc/e-1"] == 12


def test_what_is_dropped_is_gone_and_its_build_id_is_not(index: PoolIndex) -> None:
    index.add({C: NEW[C], **package("e", 12)}, index.stock())
    [old, _] = OLD
    index.drop({old, *package("e", 12)})
    assert content(index) == {name: ALL[name] for name in (*OLD, C) if name != old}
    assert names(index) == ["build-ids", "entries", "sha256"]
    assert index.build_ids([])["app-misc/e-1"] == 12
    assert index.build_ids([])["app-misc/a-1"] == 1


class StoppedError(Exception):
    """It was killed here."""


def stops(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[int]:
    """Do it again and again, killed at the first of its effects, the second, … until it is not."""
    write, unlink = module.write_atomic, Path.unlink
    for last in range(20):
        left = last

        def effect() -> None:
            nonlocal left
            if not left:
                raise StoppedError
            left -= 1

        def write_or_stop(path: Path, text: str) -> None:
            effect()
            write(path, text)

        def unlink_or_stop(path: Path, missing_ok: bool = False) -> None:
            effect()
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomic", write_or_stop)
            patch.setattr(Path, "unlink", unlink_or_stop)
            try:
                act()
            except StoppedError:
                stopped = True
            else:
                stopped = False
        if not stopped:
            return
        yield last


def test_killed_between_any_two_files_nothing_is_lost_and_the_next_ends_well(
    index: PoolIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add({C: NEW[C]}, index.stock())
    before = {path: path.read_bytes() for path in index.folder.iterdir()}
    more = {D: NEW[D], **package("e")}

    def restore() -> None:
        for path in index.folder.iterdir():
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)

    seen = []
    for _ in stops(monkeypatch, lambda: index.add(more, index.stock())):
        found = content(index)
        seen.append(len(found))
        assert found.items() >= {**OLD, C: NEW[C]}.items()
        index.add({k: v for k, v in more.items() if k not in found}, index.stock())
        assert content(index) == {**OLD, C: NEW[C], **more}
        restore()
    assert len(seen) == 4
    restore()
    seen = []
    for _ in stops(monkeypatch, lambda: index.drop({C, next(iter(OLD))})):
        found = content(index)
        seen.append(len(found))
        assert found.items() >= {name: OLD[name] for name in list(OLD)[1:]}.items()
        index.drop({C, next(iter(OLD))})
        assert list(content(index)) == list(OLD)[1:]
        restore()
    assert len(seen) == 5


def test_an_entry_without_a_digest_is_damage_and_nothing_is_thrown_away(index: PoolIndex) -> None:
    entries = index.entries_file.read_bytes()
    index.digests_file.write_text("")
    with pytest.raises(PublishError) as error:
        index.entries()
    assert str(error.value) == (
        f"{index.digests_file} lacks {', '.join(OLD)}. It is damaged: put it back from a backup."
    )
    index.add(NEW, index.stock())
    assert index.entries_file.read_bytes() == entries


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"entry": ""}}'])
def test_a_damaged_small_file_is_named(index: PoolIndex, text: str) -> None:
    index.recent_file.write_text(text)
    with pytest.raises(PublishError) as error:
        index.stock()
    assert str(error.value).startswith(f"{index.recent_file} is damaged: ")
    assert str(error.value).endswith(". Put it back from a backup.")


def test_an_entry_that_was_lost_is_named(index: PoolIndex) -> None:
    index.entries_file.write_text("")
    [name, _] = OLD
    with pytest.raises(PublishError) as error:
        index.stock().entry(name)
    assert str(error.value) == (
        f"The pool's index has no entry for {name}. "
        "It is damaged: put the file `entries` back from a backup."
    )


def test_paths_are_the_names(index: PoolIndex) -> None:
    assert {field(each.entry, "PATH") for each in content(index).values()} == set(OLD)
