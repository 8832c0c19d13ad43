"""What rsync prints: the state of a transfer, what changed, and the figures at the end.

Source: rsync(1): `--info=progress2`, `--out-format`, `--stats`; rsync 3.5.0.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from headnode.process import TAIL_LINES


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of a transfer: bytes so far, 0 to 100 percent, bytes a second, seconds to go."""

    size_bytes: int
    percent: int
    rate_bps: float
    eta_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What `--stats` said at the end."""

    files: int = 0
    created: int = 0
    deleted: int = 0
    transferred: int = 0
    total_bytes: int = 0
    received_bytes: int = 0


PROGRESS = re.compile(r"\s*([\d.,]+)\s+(\d+)%\s+([\d.]+)([kMGT]?)B/s\s+(\d+):(\d\d):(\d\d)")
UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
ITEM = re.compile(r"(?P<what>[<>ch.][fdLDS]\S{9}|\*deleting) +(?P<path>\S.*)")
STATS = {
    "files": "Number of files",
    "created": "Number of created files",
    "deleted": "Number of deleted files",
    "transferred": "Number of regular files transferred",
    "total_bytes": "Total file size",
    "received_bytes": "Total bytes received",
}


def parse_progress(line: str) -> Progress | None:
    """Read a line of `--info=progress2`, or None if it is something else."""
    found = PROGRESS.match(line)
    if not found:
        return None
    size, percent, rate, unit, hours, minutes, seconds = found.groups()
    return Progress(
        size_bytes=int(re.sub(r"\D", "", size)),
        percent=int(percent),
        rate_bps=float(rate) * UNITS[unit],
        eta_s=int(hours) * 3600 + int(minutes) * 60 + int(seconds),
    )


def parse_stats(lines: Iterable[str]) -> Stats:
    """Read the block that `--stats` prints; what is not there is 0."""
    said = dict(line.split(": ", 1) for line in lines if ": " in line)
    return Stats(
        **{
            name: int(re.sub(r"\D", "", said.get(label, "0").split()[0]))
            for name, label in STATS.items()
        }
    )


@dataclass(slots=True)
class Output:
    """What rsync prints, taken in as it comes; of what is no item, only the last lines are kept.

    `altered` (created too) and `deleted` have the paths that were itemised, a folder's with a slash
    at its end.
    """

    on_progress: Callable[[Progress], None]
    altered: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=2 * TAIL_LINES))
    rest: str = ""

    @property
    def changes(self) -> int:
        """How many paths were itemised."""
        return len(self.altered) + len(self.deleted)

    def feed(self, data: bytes) -> None:
        r"""Take in some output; a line ends in \n, and a state of the progress in \r."""
        *lines, self.rest = re.split(r"[\r\n]", self.rest + data.decode(errors="backslashreplace"))
        for line in lines:
            self.take(line)

    def take(self, line: str) -> None:
        """Take in one line."""
        if item := ITEM.match(line):
            (self.deleted if item["what"] == "*deleting" else self.altered).append(item["path"])
        elif progress := parse_progress(line):
            self.on_progress(progress)
        elif line.strip():
            self.last.append(line)
