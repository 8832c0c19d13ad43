"""The oracle is tomllib: the locator must find the same paths that tomllib's data has."""

import tomllib
from typing import Any

import pytest

from config.locate import Loc, line_of, lines_of

TRICKY = r'''# a comment with [brackets] and = signs
top.dotted."quoted key" = 1 # = [x]
bare = 1979-05-27 07:32:00.5

[ table . "with.dot" ] # after the header
'lit#eral' = 'C:\new\' # not an escape
text = "a \" quote # [no.header]"
long = """
[not.a.table]
key = "value" ""
\""" still in it
"""""
raw = \'\'\'
a = 'b'\'\'\'
numbers = [ # comment ]
    1, 2.5,
    [ "three", { four = 4, five.six = [6] } ], # ]
    "]",
]
inline = { a = "}", b = { "c d" = [1, 2] } }
empty = [ ]
none = {}
after = -inf

[[many]]
name = "first"
[[many.sub]]
deep = 1
[many.table]
x = 1

[[many]]
name = "second"
[[many.sub]]
[[many.sub]]
deep = 2

[a.b.c]
d = 1
[a]
"" = "the empty key"
"\u0061b" = 'escaped'
'''.replace("\\'", "'")


def paths(data: Any, at: Loc = ()) -> set[Loc]:
    items = list(data.items() if isinstance(data, dict) else enumerate(data))
    below = [paths(each, (*at, key)) for key, each in items if isinstance(each, dict | list)]
    return {(*at, key) for key, _ in items}.union(*below)


def test_every_path_of_a_tricky_document_is_found_and_no_other() -> None:
    assert set(lines_of(TRICKY)) == paths(tomllib.loads(TRICKY))


def test_every_path_is_found_with_the_line_ends_of_another_system() -> None:
    text = TRICKY.replace("\n", "\r\n")
    assert lines_of(text) == lines_of(TRICKY)


@pytest.mark.parametrize(
    ("loc", "beginning"),
    [
        (("top", "dotted", "quoted key"), "top.dotted"),
        (("top",), "top.dotted"),
        (("table", "with.dot"), "[ table"),
        (("table", "with.dot", "long"), 'long = """'),
        (("table", "with.dot", "raw"), "raw ="),
        (("table", "with.dot", "numbers", 1), "    1, 2.5"),
        (("table", "with.dot", "numbers", 2, 1, "five", "six", 0), '    [ "three"'),
        (("table", "with.dot", "numbers", 3), '    "]",'),
        (("table", "with.dot", "inline", "b", "c d"), "inline ="),
        (("table", "with.dot", "after"), "after ="),
        (("many", 1, "name"), 'name = "second"'),
        (("many", 1, "sub", 1, "deep"), "deep = 2"),
        (("a", "b"), "[a.b.c]"),
        (("a",), "[a]"),
        (("a", "ab"), '"\\u0061b"'),
    ],
)
def test_a_path_is_on_the_line_that_gives_it(loc: Loc, beginning: str) -> None:
    line = lines_of(TRICKY)[loc]
    assert TRICKY.splitlines()[line - 1].startswith(beginning)


def test_a_path_that_is_not_there_is_on_the_line_of_the_table_around_it() -> None:
    lines = lines_of("[serve]\nhost = 'a'\n")
    assert line_of(lines, ("serve", "missing", 3)) == 1
    assert line_of(lines, ("other",)) is None
