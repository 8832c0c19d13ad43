"""Text from elsewhere is harmless on a terminal and in XML, and still says what it said."""

import pytest

from headnode.status.plain import MOST_LINE, plain, plain_line, plain_log

REPLACED = "\ufffd"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a new title\x07left", "left"),
        ("\x1b]8;;http://elsewhere\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hcleared", "cleared"),
        ("\x9b31mred", "red"),
        ("a\x00b\x08c\x7f", f"a{REPLACED}b{REPLACED}c{REPLACED}"),
        ("gpj.\u202eexe", f"gpj.{REPLACED}exe"),
        ("zero\u200bwidth", f"zero{REPLACED}width"),
        ("lone \ud800", f"lone {REPLACED}"),
        ("\x1b", REPLACED),
        ("<b>&amp;\t“naïve” 日本\n", "<b>&amp;\t“naïve” 日本\n"),
    ],
)
def test_what_nobody_sees_is_taken_out_or_made_visible(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_line_is_one_line_and_not_endless() -> None:
    assert plain_line(" a\n b\t c ") == "a b c"
    assert plain_line("x" * 1000) == "x" * (MOST_LINE - 1) + "…"


def test_a_log_keeps_its_last_lines() -> None:
    assert plain_log("one\r\ntwo\nthree\n", most=2) == "two\nthree"
