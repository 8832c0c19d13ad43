"""Conditional requests: whether a client already has this file, or part of it.

Source: RFC 9110, 8.8 (validators) and 13 (conditions). Portage sends If-Modified-Since with five
seconds added and wants 304 for every file that is not newer (portage/util/_urlopen.py); equality
would never be true.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum

Fields = Callable[[str], str | None]
"""Looks up a request's header field by its name; None where the request has none."""


class Verdict(Enum):
    """What the conditions of a request ask for."""

    SEND = "send"
    UNCHANGED = "the client has it (304)"
    FAILED = "not the file the client meant (412)"


def etag(facts: os.stat_result) -> str:
    """A strong entity tag: another content has another inode, size or time (ns)."""
    return f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"'


def modified_s(facts: os.stat_result) -> int:
    """When the file was last written, in whole seconds since the epoch, as HTTP counts."""
    return facts.st_mtime_ns // 1_000_000_000


def last_modified(facts: os.stat_result) -> str:
    """The Last-Modified field."""
    return formatdate(modified_s(facts), usegmt=True)


def date_s(field: str | None) -> int | None:
    """A date field in seconds since the epoch; None where it is missing or no date."""
    try:
        moment = parsedate_to_datetime(field or "")
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def judge(fields: Fields, facts: os.stat_result) -> Verdict:
    """Evaluate If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since, in this order."""
    if not _is_meant(fields, facts):
        return Verdict.FAILED
    return Verdict.UNCHANGED if _is_known(fields, facts) else Verdict.SEND


def _is_meant(fields: Fields, facts: os.stat_result) -> bool:
    if (tags := fields("If-Match")) is not None:
        return tags.strip() == "*" or etag(facts) in _listed(tags)
    limit = date_s(fields("If-Unmodified-Since"))
    return limit is None or modified_s(facts) <= limit


def _is_known(fields: Fields, facts: os.stat_result) -> bool:
    if (tags := fields("If-None-Match")) is not None:
        weak = {tag.removeprefix("W/") for tag in _listed(tags)}
        return tags.strip() == "*" or etag(facts) in weak
    since = date_s(fields("If-Modified-Since"))
    return since is not None and modified_s(facts) <= since


def _listed(tags: str) -> list[str]:
    return [tag.strip() for tag in tags.split(",")]


def range_applies(if_range: str | None, facts: os.stat_result) -> bool:
    """Whether the part a client has is of this very file, so that a Range may be answered."""
    if if_range is None:
        return True
    return if_range.strip() == etag(facts) or date_s(if_range) == modified_s(facts)
