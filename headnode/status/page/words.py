"""Times and amounts in words, for the page and the terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from headnode.status.model import Level

NEVER = "never"
URGENCY: Mapping[Level, str] = {
    Level.GOOD: "good",
    Level.NOTE: "note",
    Level.WARN: "look",
    Level.BAD: "act",
}


def clock(at: datetime | None) -> str:
    """`2026-03-01 02:41 UTC`."""
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else NEVER


def ago(at: datetime | None, now: datetime) -> str:
    """`12 min ago`, `in 3 h`; never, if there is no time."""
    if at is None:
        return NEVER
    seconds = (now - at).total_seconds()
    if abs(seconds) < 60:
        return "just now" if seconds >= 0 else "in a moment"
    length = duration(abs(seconds))
    return f"{length} ago" if seconds > 0 else f"in {length}"


def duration(seconds: float | None) -> str:
    """`4.2 s`, `12 min`, `3 h`, `5 days`; rounded to what counts."""
    if seconds is None:
        return NEVER
    for limit, unit_s, word in ((90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if 90 <= seconds < limit:
            return f"{seconds / unit_s:.0f} {word}"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 86400:.0f} days"
