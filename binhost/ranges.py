"""The Range field of a request: which bytes of a file are asked for.

Several ranges are answered as `multipart/byteranges`, those that touch or overlap as one. What no
honest client sends is ignored, and the whole file answered, which the RFC allows (14.2) and which
costs a liar more than us: more than `MOST_RANGES`, more than two that overlap, another unit, bad
syntax.

Source: RFC 9110, 14.1.2, 14.2 and 15.3.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_RANGES = 16
MOST_OVERLAPS = 2
# Every part of a multipart reply has a head of its own, larger than a gap of this many bytes.
GAP_BYTES = 80
# 18 digits are an exabyte; longer numbers are not worth parsing.
ONE_RANGE = re.compile(r"[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")
UNIT = re.compile(r"bytes=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of a file from `start` on."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.length

    def content_range(self, size_bytes: int) -> str:
        """The Content-Range field that goes with these bytes of a file of `size_bytes`."""
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


class UnsatisfiableError(Exception):
    """The ranges are well formed and have no byte of the file: to be answered with 416."""


def parse_range(field: str, size_bytes: int) -> tuple[Span, ...]:
    """Read `field` for a file of `size_bytes`; no span means the whole file.

    The spans are apart from one another, in the order in which they were asked for.

    Raises:
        UnsatisfiableError: every range begins behind the file's end, or is empty.
    """
    if not (unit := UNIT.match(field)) or field.count(",") > 2 * MOST_RANGES:
        return ()
    words = [word for word in field[unit.end() :].split(",") if word.strip()]
    spans = [_span(word, size_bytes) for word in words]
    if not spans or len(spans) > MOST_RANGES or None in spans:
        return ()
    asked = [span for span in spans if span and span.length]
    if not asked:
        raise UnsatisfiableError
    ordered = sorted(asked, key=lambda span: span.start)
    if _overlaps(ordered) > MOST_OVERLAPS:
        return ()
    return tuple(sorted(_joined(ordered), key=lambda span: _turn(span, asked)))


def _span(word: str, size_bytes: int) -> Span | None:
    """One range; None where it is none, without length where the file has no byte of it."""
    match = ONE_RANGE.fullmatch(word)
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size_bytes)
        return Span(size_bytes - length, length)
    start = int(first)
    if last and int(last) < start:
        return None
    end = min(int(last) + 1, size_bytes) if last else size_bytes
    return Span(start, max(0, end - start))


def _overlaps(spans: list[Span]) -> int:
    """How many of `spans`, in order, begin before all earlier ones have ended."""
    count = end = 0
    for span in spans:
        count += span.start < end
        end = max(end, span.end)
    return count


def _turn(span: Span, asked: list[Span]) -> int:
    """The place in `asked` of the first range that `span` answers."""
    return next(turn for turn, each in enumerate(asked) if span.start <= each.start < span.end)


def _joined(spans: list[Span]) -> list[Span]:
    joined = [spans[0]]
    for span in spans[1:]:
        last = joined[-1]
        if span.start <= last.end + GAP_BYTES:
            joined[-1] = Span(last.start, max(last.end, span.end) - last.start)
        else:
            joined.append(span)
    return joined
