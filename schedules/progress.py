"""What a rollout is at, on disk: `<state>/rollout.json`, whole at any moment.

Whoever asks reads it while the rollout runs, and a rollout that was killed goes on from it. That
one runs is told by the lock beside it, which ends with its process.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from binhost.records import Record, read, save
from headnode.errors import BusyError, PublishError
from headnode.files import locked

FILE = "rollout.json"
LOCK = "rollout.lock"


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


def is_running(state: Path) -> bool:
    """Whether a rollout is at work."""
    try:
        with locked(state / LOCK, "headnode rollout status"):
            return False
    except BusyError:
        return True
