"""Where in a TOML file each key and array item stands, which tomllib does not tell.

Knows only as much TOML as that takes and expects text that tomllib has accepted. tomlkit keeps no
positions either, and spanned-toml, which does, has had no release since 2022.

Source: https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

Loc = tuple[str | int, ...]
"""A path into the data: keys, and positions in arrays from 0, as in pydantic's errors."""

_TOKEN = re.compile(
    r"""
    (?P<skip>    [ \t\r]+ | \#[^\n]* )
  | (?P<string>  \"{3}(?:\\.|[^\\])*?\"{3}\"{0,2} | '{3}.*?'{3}'{0,2}
               | "(?:\\.|[^"\\])*" | '[^']*' )
  | (?P<mark>    [\[\]{},=.\n] )
  | (?P<bare>    [^\s\[\]{},=.\#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def lines_of(text: str) -> dict[Loc, int]:
    """The line, from 1, of each table header, key and array item of valid TOML."""
    scan = _Scan(_tokens(text))
    scan.document()
    return scan.lines


def line_of(lines: dict[Loc, int], loc: Loc) -> int | None:
    """The line of `loc`, else of the nearest table or array around it; None when none is known."""
    for length in range(len(loc), 0, -1):
        if found := lines.get(loc[:length]):
            return found
    return None


def _tokens(text: str) -> list[tuple[str, int]]:
    """Each token with its line; comments and blanks are dropped, ends of lines are kept."""
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            tokens.append((match[0], line))
        line += match[0].count("\n")
    return [*tokens, ("", line)]


def _unquoted(part: str) -> str:
    return str(tomllib.loads(f"key = {part}")["key"]) if part[0] in "\"'" else part


@dataclass(slots=True)
class _Scan:
    """A walk over the tokens, which notes where each key was."""

    tokens: list[tuple[str, int]]
    at: int = 0
    lines: dict[Loc, int] = field(default_factory=dict)
    elements: dict[Loc, int] = field(default_factory=dict)  # arrays of tables: the last position

    @property
    def here(self) -> str:
        return self.tokens[self.at][0]

    def take(self) -> str:
        token = self.here
        self.at += 1
        return token

    def skip_ends(self) -> None:
        while self.here == "\n":
            self.at += 1

    def document(self) -> None:
        table: Loc = ()
        while self.here:
            if self.here == "\n":
                self.at += 1
            elif self.here == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Loc:
        """Read `[a.b]` or `[[a.b]]`; return the table that the next keys are in."""
        line = self.tokens[self.at][1]
        self.at += 1
        many = self.here == "["
        self.at += many
        *before, last = self.key()
        self.at += 1 + many
        table = (*self.reached((), before, line), last)
        if many:
            self.lines.setdefault(table, line)
            self.elements[table] = self.elements.get(table, -1) + 1
            table = (*table, self.elements[table])
        self.lines[table] = line
        return table

    def reached(self, table: Loc, parts: list[str], line: int) -> Loc:
        """The table that `parts` lead to; in an array of tables, its last element."""
        for part in parts:
            table = (*table, part)
            self.lines.setdefault(table, line)
            if table in self.elements:
                table = (*table, self.elements[table])
        return table

    def key(self) -> list[str]:
        parts = [_unquoted(self.take())]
        while self.here == ".":
            self.at += 1
            parts.append(_unquoted(self.take()))
        return parts

    def pair(self, table: Loc) -> None:
        line = self.tokens[self.at][1]
        *before, last = self.key()
        self.at += 1  # the equals sign
        loc = (*self.reached(table, before, line), last)
        self.lines[loc] = line
        self.value(loc)

    def value(self, loc: Loc) -> None:
        if self.here == "[":
            self.array(loc)
        elif self.here == "{":
            self.inline_table(loc)
        else:
            while self.here not in {"", "\n", ",", "]", "}"}:
                self.at += 1

    def array(self, loc: Loc) -> None:
        self.at += 1
        self.skip_ends()
        position = 0
        while self.here != "]":
            self.lines[(*loc, position)] = self.tokens[self.at][1]
            self.value((*loc, position))
            self.skip_ends()
            self.at += self.here == ","
            self.skip_ends()
            position += 1
        self.at += 1

    def inline_table(self, loc: Loc) -> None:
        self.at += 1
        self.skip_ends()
        while self.here != "}":
            self.pair(loc)
            self.skip_ends()  # ends of lines in here came with TOML 1.1
            self.at += self.here == ","
            self.skip_ends()
        self.at += 1
