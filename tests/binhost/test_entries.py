"""Entries put in and taken out as text are what taking everything apart would come to."""

import random
from collections.abc import Sequence

import pytest

from binhost.entries import FEW, MANY, Entries, changed
from binhost.index import join_entries, parse_entries
from headnode.errors import PublishError


def entry(name: str) -> str:
    return f"BUILD_ID: 1\nCPV: {name}\nDESC: ü☃\u2028x\nPATH: {name}\nSIZE: 3\nUSE: a PATH: b\n"


def entries(names: Sequence[str]) -> Entries:
    return Entries(join_entries(map(entry, names)).encode())


def unread(name: str) -> str:
    raise AssertionError(f"{name} is not new")


@pytest.mark.parametrize("seed", range(60))
def test_any_change_comes_to_what_joining_all_anew_does(seed: int) -> None:
    pick = random.Random(seed)  # noqa: S311 (the same each time)
    every = [f"c/a{number}/{'aé'[number % 2]}-{number}" for number in range(40)]
    before, after = (sorted(pick.sample(every, pick.randrange(41))) for _ in range(2))
    if seed % 3 == 0:  # few changes
        after = sorted({*before[1:], *pick.sample(every, 2)})
    if seed % 20 == 0:  # an order that no build makes
        pick.shuffle(after)
    new = {name: entry(name) for name in after if name not in before}
    assert changed(entries(before), after, new.__getitem__).text == entries(after).text


@pytest.mark.parametrize("after", ["abcd", "bcde", "bd", "ace", "d", ""])
def test_changes_at_either_end_and_side_by_side(after: str) -> None:
    before = ["b", "c", "d"]
    made = changed(entries(before), list(after), entry)
    assert made.text == entries(list(after)).text
    assert dict(made) == {name: entry(name) for name in after}


def test_what_stays_is_not_looked_into() -> None:
    text = entries(["a", "b"]).text.replace("SIZE: 3", "SIZE:damaged")
    assert changed(Entries(text.encode()), ["a", "b"], unread).text == text
    assert changed(Entries(text.encode()), ["b"], unread).text == text.partition("\n\n")[2]


def test_each_is_found_whether_a_few_or_all_are_asked_for() -> None:
    names = [f"c/{number}" for number in range(FEW + MANY + 5)]
    some = entries(names)
    assert list(some) == names
    assert len(some) == len(names)
    assert [some[name] for name in names] == [entry(name) for name in names]
    assert list(some.values()) == [entry(name) for name in names]
    assert some == parse_entries(some.text)
    assert "c/0" in some
    assert "c" not in some
    with pytest.raises(KeyError):
        entries(["a"])["b"]


def test_nothing_is_no_entries() -> None:
    assert dict(Entries(b"")) == {}
    assert changed(Entries(b""), ["a"], entry).text == entry("a")
    assert changed(entries(["a"]), [], unread).text == ""


def test_two_entries_of_one_file_are_damage() -> None:
    with pytest.raises(PublishError, match="The index has 2 entries for 1 files"):
        list(entries(["a", "a"]))


def test_sizes_are_those_of_the_entries_also_where_one_has_none() -> None:
    both = entries(["a", "b"])
    assert list(both.sizes()) == [("a", 3), ("b", 3)]
    assert list(Entries(both.content.replace(b"SIZE: 3\n", b"", 1)).sizes()) == [
        ("a", None),
        ("b", 3),
    ]


def test_names_that_the_text_lacks_are_damage() -> None:
    with pytest.raises(PublishError) as error:
        changed(Entries(entries(["a"]).content, ["a", "b"]), ["a"], unread)
    assert str(error.value) == (
        "The index has no entry for b. It is damaged: put the file `entries` back from a backup."
    )
