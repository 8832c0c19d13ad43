"""What a check of `headnode doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: a problem keeps something from working, a warning may."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found, and what to do about it."""

    level: Level
    text: str
    remedy: str = ""


def good(text: str) -> Finding:
    """All is well."""
    return Finding(level=Level.GOOD, text=text)


def warning(text: str, remedy: str = "") -> Finding:
    """Something may go wrong."""
    return Finding(level=Level.WARNING, text=text, remedy=remedy)


def problem(text: str, remedy: str = "") -> Finding:
    """Something does not work."""
    return Finding(level=Level.PROBLEM, text=text, remedy=remedy)
