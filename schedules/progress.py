"""What a rollout is at, on disk: `<state>/rollout.json`, whole at any moment.

Whoever asks reads it while the rollout runs, and a rollout that was killed goes on from it. Whether
one runs is told by the lock beside it, which ends with its process; restarts of blades, and blades
that catch up, hold the same lock, each under a name of its own.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from binhost.records import Record, read, save
from headnode.errors import PublishError
from headnode.files import holder

FILE = "rollout.json"
LOCK = "rollout.lock"
# Who holds the lock.
ROLLOUT = "headnode rollout run"
CATCH_UP = "headnode rollout run --missed"
REBOOT = "headnode rollout reboot"


class Phase(StrEnum):
    """What a rollout is doing, or how it ended."""

    RUNNING = "running"
    GOING_BACK = "going back"
    DONE = "done"
    STOPPED = "stopped"
    WENT_BACK = "went back"
    INTERRUPTED = "interrupted"


class BladeState(Record):
    """How far a blade is. `result` is what its report says, empty while it pulls."""

    ring: str
    wave: int
    result: str = ""
    generation: int | None = None
    error: str = ""
    seconds: float = 0.0


class Progress(Record):
    """A rollout. `deployments` has the sequence of each `class/ring` that it was begun with."""

    started: datetime
    changed: datetime
    nodes: str | None
    phase: Phase
    why: str = ""
    deployments: dict[str, int] = Field(default_factory=dict)
    blades: dict[str, BladeState] = Field(default_factory=dict)


def load(state: Path) -> Progress | None:
    """The last rollout, whether it runs or not; None if there is none, or its file is damaged."""
    try:
        return read(state / FILE, Progress)
    except PublishError:
        return None


def store(state: Path, progress: Progress) -> None:
    """Put a rollout's state in place."""
    save(state / FILE, progress)


def is_running(state: Path, what: str = ROLLOUT) -> bool:
    """Whether a rollout (or `what`) is at work. Takes no lock, so it is in nobody's way."""
    return holder(state / LOCK).startswith(f"{what} (")
