"""The Range field of a request: which bytes of a file are asked for.

Source: RFC 9110, 14.1.2 and 14.2. One range is answered; several in one field, another unit or
bad syntax are ignored, which the RFC allows, and the whole file is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# 18 digits are an exabyte; longer numbers are not worth parsing.
ONE_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of a file from `start` on."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """The Content-Range field that goes with these bytes of a file of `size_bytes`."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


class UnsatisfiableError(Exception):
    """The range is well formed and has no byte of the file: to be answered with 416."""


def parse_range(field: str, size_bytes: int) -> Span | None:
    """Read `field` for a file of `size_bytes`; None means the whole file.

    Raises:
        UnsatisfiableError: the range begins behind the file's end, or is empty.
    """
    match = ONE_RANGE.fullmatch(field)
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size_bytes)
        return _checked(Span(size_bytes - length, length), size_bytes)
    start = int(first)
    end = min(int(last), size_bytes - 1) if last else size_bytes - 1
    if last and int(last) < start:
        return None
    return _checked(Span(start, end - start + 1), size_bytes)


def _checked(span: Span, size_bytes: int) -> Span:
    if span.length <= 0 or span.start >= size_bytes:
        raise UnsatisfiableError
    return span
