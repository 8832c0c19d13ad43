"""What is added to the pool's index is there whole or not at all, and nothing else is touched."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from binhost import journal as module
from binhost.journal import Journal, parse_digests
from headnode.errors import PublishError

New = Mapping[str, tuple[str, str]]


def package(name: str) -> New:
    """A package of that name: its entry, and a digest."""
    path = f"app-misc/{name}/{name}-1.gpkg.tar"
    return {path: (f"BUILD_ID: 1\nCPV: app-misc/{name}\nPATH: {path}\nSIZE: 7\n", f"{7:064x}")}


OLD: New = {**package("a"), **package("b")}
NEW: New = {**package("c"), **package("d")}
ALL = {**OLD, **NEW}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal with OLD in it."""
    found = Journal(folder=tmp_path)
    found.add(OLD, {})
    return found


def content(journal: Journal) -> dict[str, tuple[str, str]]:
    """All that counts: name -> entry and digest."""
    sha256 = journal.digests()
    return {name: (entry, sha256[name]) for name, entry in journal.entries(sha256).items()}


def test_one_more_is_written_behind_what_is_there(journal: Journal) -> None:
    files = (journal.entries_file, journal.digests_file)
    before = [(path.stat().st_ino, path.read_bytes()) for path in files]
    journal.add(NEW, journal.digests())
    for path, (number, old) in zip(files, before, strict=True):
        assert path.stat().st_ino == number
        assert path.read_bytes().startswith(old)
    assert content(journal) == ALL


def test_to_add_reads_no_more_than_the_end(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "_text", lambda self: pytest.fail("it was read whole"))
    journal.add(NEW, {name: digest for name, (_, digest) in OLD.items()})


def test_cut_off_at_any_byte_it_is_as_before_and_the_next_is_whole(journal: Journal) -> None:
    old = {path: path.read_bytes() for path in (journal.entries_file, journal.digests_file)}
    journal.add(NEW, journal.digests())
    whole = {path: path.read_bytes() for path in old}
    entries, digests = old
    first = whole[digests].index(b"\n", len(old[digests])) + 1
    steps = [
        *(
            {**old, entries: whole[entries][:end]}
            for end in range(len(old[entries]), len(whole[entries]))
        ),
        *({**whole, digests: whole[digests][:end]} for end in range(len(old[digests]), first)),
    ]
    assert len(steps) > 200
    for step in steps:
        for path, cut in step.items():
            path.write_bytes(cut)
        assert content(journal) == OLD, step
        journal.add(NEW, journal.digests())
        assert content(journal) == ALL, step


def test_what_a_lost_power_left_as_zeros_does_not_count(journal: Journal) -> None:
    for path in (journal.entries_file, journal.digests_file):
        with path.open("ab") as file:
            file.write(bytes(100))
    assert content(journal) == OLD
    journal.add(NEW, journal.digests())
    assert content(journal) == ALL
    assert b"\0" not in journal.entries_file.read_bytes() + journal.digests_file.read_bytes()


def test_one_of_two_that_has_its_digest_is_in(journal: Journal) -> None:
    journal.add(NEW, journal.digests())
    text = journal.digests_file.read_text()
    journal.digests_file.write_text(text[: text.rindex("\n", 0, -1) + 1])
    [third, fourth] = NEW
    assert content(journal) == {**OLD, third: ALL[third]}
    journal.add({fourth: ALL[fourth]}, journal.digests())
    assert content(journal) == ALL


def test_an_entry_before_the_last_that_lacks_its_digest_is_damage(journal: Journal) -> None:
    lines = journal.digests_file.read_text().splitlines(keepends=True)
    journal.digests_file.write_text("".join(lines[1:]))
    with pytest.raises(PublishError) as error:
        content(journal)
    assert str(error.value) == (
        f"{journal.digests_file} lacks {next(iter(OLD))}. It is damaged: put it back from a backup."
    )


def test_a_first_publish_that_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(folder=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "join_digests", lambda digests: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            journal.add(OLD, {})
    assert content(journal) == {}
    journal.add(NEW, journal.digests())
    assert content(journal) == NEW


def test_a_file_whose_last_entry_has_no_empty_line_behind_it_goes_on(journal: Journal) -> None:
    text = journal.entries_file.read_text()
    assert text.endswith("\n\n")
    journal.entries_file.write_text(text[:-1])
    journal.add(NEW, journal.digests())
    assert content(journal) == ALL


def test_what_is_dropped_is_gone_from_both(journal: Journal) -> None:
    journal.add(NEW, journal.digests())
    [third, _] = NEW
    journal.drop([third])
    assert content(journal) == {name: each for name, each in ALL.items() if name != third}
    journal.add({third: ALL[third]}, journal.digests())
    assert content(journal) == ALL


def test_lines_that_are_no_digests_say_nothing() -> None:
    good = f"{1:064x}  a/b/c-1.gpkg.tar\n"
    assert parse_digests(good) == {"a/b/c-1.gpkg.tar": f"{1:064x}"}
    assert parse_digests("") == {}
    assert parse_digests(f"{good}{2:064x}  a/b/c-2.gp") == parse_digests(good)
    assert parse_digests(f"short  x\n{good}") == parse_digests(good)
