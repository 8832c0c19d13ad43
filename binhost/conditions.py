"""Conditional requests: whether a client already has this file, or part of it.

Source: RFC 9110, 8.8 (validators) and 13 (conditions). Portage sends If-Modified-Since with five
seconds added and wants 304 for every file that is not newer (portage/util/_urlopen.py); equality
would never be true.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum
from functools import lru_cache

from binhost.heads import Fields

CONDITIONS = frozenset(
    {"if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "range"}
)


class Verdict(Enum):
    """What the conditions of a request ask for."""

    SEND = "send"
    UNCHANGED = "the client has it (304)"
    FAILED = "not the file the client meant (412)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What tells one content of a file from another: a strong entity tag, and a time.

    `modified_s` is in whole seconds since the epoch, as HTTP counts.
    """

    etag: str
    modified_s: int

    @property
    def last_modified(self) -> str:
        """The Last-Modified field."""
        return formatdate(self.modified_s, usegmt=True)


def validators(facts: os.stat_result) -> Validators:
    """The validators of an open file: another content has another inode, size or time (ns)."""
    return Validators(
        etag=f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"',
        modified_s=facts.st_mtime_ns // 1_000_000_000,
    )


@lru_cache(maxsize=256)
def date_s(field: str | None) -> int | None:
    """A date field in seconds since the epoch; None where it is missing or no date.

    Remembered: all blades ask with the date of the same few files.
    """
    try:
        moment = parsedate_to_datetime(field or "")
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def judge(fields: Fields, file: Validators) -> Verdict:
    """Evaluate If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since, in this order."""
    if not _is_meant(fields, file):
        return Verdict.FAILED
    return Verdict.UNCHANGED if _is_known(fields, file) else Verdict.SEND


def _is_meant(fields: Fields, file: Validators) -> bool:
    if (tags := fields.get("if-match")) is not None:
        return tags.strip() == "*" or file.etag in _listed(tags)
    limit = date_s(fields.get("if-unmodified-since"))
    return limit is None or file.modified_s <= limit


def _is_known(fields: Fields, file: Validators) -> bool:
    if (tags := fields.get("if-none-match")) is not None:
        weak = {tag.removeprefix("W/") for tag in _listed(tags)}
        return tags.strip() == "*" or file.etag in weak
    since = date_s(fields.get("if-modified-since"))
    return since is not None and file.modified_s <= since


def _listed(tags: str) -> list[str]:
    return [tag.strip() for tag in tags.split(",")]


def range_applies(if_range: str | None, file: Validators) -> bool:
    """Whether the part a client has is of this very file, so that a Range may be answered."""
    if if_range is None:
        return True
    return if_range.strip() == file.etag or date_s(if_range) == file.modified_s
