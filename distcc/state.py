"""Who compiles what just now: the state files that each running distcc keeps.

Source: struct dcc_task_state of distcc 3.4 (src/state.h), written as it lies in memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

# struct_size, magic, process number, file, host, slot, phase, and a pointer that means nothing.
FORMAT = struct.Struct("@NLL128s128siiP")
MAGIC = 0x44494800
PHASES = ("starting", "waiting", "connecting", "preprocessing", "sending", "compiling", "receiving")
PREFIX = "binstate_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One job under way. `host` is empty where none was chosen yet; `slot` is of that host."""

    host: str
    slot: int
    file: str
    phase: str


def parse_task(content: bytes) -> Task | None:
    """The job that a state file tells of; None for a job that is done, or no such file. Pure."""
    if len(content) < FORMAT.size:
        return None
    size, magic, _, file, host, slot, phase, _ = FORMAT.unpack(content[: FORMAT.size])
    if (size, magic) != (FORMAT.size, MAGIC) or not 0 <= phase < len(PHASES):
        return None
    return Task(host=_text(host), slot=slot, file=_text(file), phase=PHASES[phase])


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def tasks(folder: Path, *, since: float) -> list[Task]:
    """The jobs under way in the DISTCC_DIR `folder`, by host and slot.

    Each has come to its phase after `since` (seconds since the epoch): what was killed leaves its
    file, and no job stays in one phase for longer than its time limit.
    """
    found = []
    for path in (folder / "state").glob(f"{PREFIX}*"):
        try:
            task = parse_task(path.read_bytes()) if path.stat().st_mtime > since else None
        except FileNotFoundError:  # it ended just now
            continue
        found += [task] if task else []
    return sorted(found, key=lambda task: (task.host, task.slot, task.file))
