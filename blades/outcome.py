"""What became of a shell line on a blade, and the handler of ClusterShell's that notes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ClusterShell.Event import EventHandler

# A command that ssh itself could not start: ssh(1), EXIT STATUS.
SSH_FAILED = 255
# ServerAliveInterval: a machine that loses power in the middle is given up after 90 s, not only at
# the time limit of the pull.
SSH_OPTIONS = "-oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command did on one blade. `code` is None if it was cut off at the time limit.

    `way_lost`: a gateway went down under it, which says nothing of the blade.
    """

    blade: str
    code: int | None
    output: str
    seconds: float
    way_lost: bool = False


class Watch(EventHandler):  # type: ignore[misc]  # ClusterShell has no types
    """Notes when each blade starts and ends."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self.started: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.on_outcome = on_outcome

    def ev_pickup(self, worker: Any, node: str) -> None:
        """Begin to count a blade's seconds."""
        self.started[node] = time.monotonic()

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        """Note the end of a blade's command."""
        self.note(node, rc, output_of(worker, node))

    def note(self, node: str, code: int | None, output: str, *, way_lost: bool = False) -> None:
        """Keep a blade's outcome, and show it."""
        now = time.monotonic()
        outcome = Outcome(
            blade=node,
            code=code,
            output=output,
            seconds=now - self.started.get(node, now),
            way_lost=way_lost,
        )
        self.outcomes[node] = outcome
        self.on_outcome(outcome)


def output_of(worker: Any, node: str) -> str:
    """What a worker's command has printed on a node so far."""
    return bytes(worker.node_buffer(node) or b"").decode("utf-8", "replace")
