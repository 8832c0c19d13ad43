"""Text that came from a blade, a log or upstream, made harmless to show anywhere. Pure.

A terminal obeys escape sequences, XML refuses control characters, and a direction mark (Unicode,
UAX 9) lets one name look like another. Markup is left as it is: whoever shows it escapes it.
"""

from __future__ import annotations

import re

# Colours and the like (ECMA-48, 5.4), window titles and links (OSC), and two-letter sequences.
ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]"
)
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff"
    r"\ud800-\udfff\ufff9-\ufffb]"
)
CUT = "…"
MOST_LINE = 300
MOST_LOG_LINES = 200


def plain(text: str) -> str:
    """`text` without escape sequences; other characters that nobody sees become U+FFFD."""
    return UNSEEN.sub("\ufffd", ESCAPE.sub("", text.replace("\r\n", "\n")))


def plain_line(text: str, most: int = MOST_LINE) -> str:
    """`text` as one line of `most` characters at most."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else line[: most - 1] + CUT


def plain_log(text: str, most: int = MOST_LOG_LINES) -> str:
    """The last `most` lines of a log, none longer than a screen."""
    lines = plain(text).rstrip().split("\n")[-most:]
    return "\n".join(line if len(line) <= MOST_LINE else line[:MOST_LINE] + CUT for line in lines)
