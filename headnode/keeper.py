"""Keeps a process on standby (`headnode.standby`) while `headnode serve` runs."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from headnode.handover import SOCKET
from headnode.process import environment
from headnode.workers import LONGEST_PAUSE_S, next_pause_s
from schedules.site import Site

log = logging.getLogger(__name__)
FIRST_S = 3.0  # after the servers have started: its start takes a core for a second
STOP_S = (
    20.0  # for commands that are at work when `headnode serve` ends; then they are on their own
)

# What a copy has freed it takes again, whatever its size and in whichever thread: to get memory
# anew costs more than what is then done in it. Source: mallopt(3), GNU libc manual "Tunables".
MEMORY = (
    "glibc.malloc.arena_max=1:"
    "glibc.malloc.mmap_threshold=33554432:"
    "glibc.malloc.trim_threshold=268435456"
)


class Keeper:
    """Starts it, and another when it ends: since the program was changed, or by mishap."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None
        self._pause_s = 0.0
        self._started_s = 0.0
        self._due_s = time.monotonic() + FIRST_S

    def watch(self, site: Site) -> None:
        """See to it that there is one. To be called every second."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._bury(self._process, now)
        if self._process is None and now >= self._due_s:
            self._due_s = now + LONGEST_PAUSE_S  # if none can be started just now
            self._begin(site.state.absolute(), now)

    def stop(self) -> None:
        """Have it end, after the commands that it has; whoever types one now runs it themselves."""
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        if self._process is None:
            return
        _let_go(self._process)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)  # it ends by itself, if later

    def _begin(self, state: Path, now: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headnode.standby", str(state)],
            stdin=subprocess.PIPE,
            env=environment({"GLIBC_TUNABLES": MEMORY}),
            start_new_session=True,
        )
        self._socket, self._started_s = state / SOCKET, now

    def _bury(self, process: subprocess.Popen[bytes], now: float) -> None:
        _let_go(process)
        self._process = None
        self._pause_s = next_pause_s(self._pause_s, now - self._started_s)
        self._due_s = now + self._pause_s
        if process.returncode or self._pause_s:
            log.warning(
                "the process on standby ended with exit code %d, starting another in %g s",
                *(process.returncode, self._pause_s),
            )


def _let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101 (asked for a pipe)
    with suppress(OSError):
        process.stdin.close()
