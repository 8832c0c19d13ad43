"""What restarts are at, on disk: `<state>/reboot.json`, whole at any moment.

For whoever asks. A run that goes on after a kill does not read it: the blades themselves, and
`drained.json`, know better.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import Field

from binhost.records import Record, read, save
from headnode.errors import PublishError
from schedules.progress import Phase

FILE = "reboot.json"


class BladeAt(Record):
    """How far a blade is: what it does (empty before its turn), and what it came to in the end."""

    ring: str
    batch: int
    does: str = ""
    fate: str = ""
    kernel: str = ""
    kernel_due: str = ""
    error: str = ""
    seconds: float = 0.0


class RebootProgress(Record):
    """A run of `headnode rollout reboot`: `done`, or `stopped` by a failure, when it has ended."""

    started: datetime
    changed: datetime
    phase: Phase = Phase.RUNNING
    blades: dict[str, BladeAt] = Field(default_factory=dict)


def load(state: Path) -> RebootProgress | None:
    """The last run, whether it goes on or not; None if there is none, or its file is damaged."""
    try:
        return read(state / FILE, RebootProgress)
    except PublishError:
        return None


def store(state: Path, progress: RebootProgress) -> None:
    """Put what a run is at in place."""
    save(state / FILE, progress)


def lines(known: RebootProgress, *, running: bool) -> Iterator[str]:
    """What a run is at, in words. Pure."""
    phase = str(known.phase)
    if known.phase is Phase.RUNNING and not running:
        phase = "was killed; headnode rollout reboot goes on with it"
    through = sum(bool(each.fate) for each in known.blades.values())
    yield f"Reboots of {known.started:%Y-%m-%d %H:%M} UTC: {phase}."
    yield f"{through} of {len(known.blades)} blades are through."
