"""What a program takes, measured by a small process that starts it: time, CPU and memory.

Not by the benchmark itself: on Linux what a process had before execve(2) counts as memory that the
program had at most (ru_maxrss of getrusage(2)), and after a fork that is all that the benchmark
has, so that /bin/true comes to hundreds of megabytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What a program took: seconds, CPU seconds with its children's, the most memory of one."""

    code: int
    wall_s: float
    cpu_s: float
    rss_mb: float


class Running:
    """A program that is measured until it ends; what it prints is dropped."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._gauge = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, *argv],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._gauge.stdout is not None
        self._said = self._gauge.stdout
        self.pid = int(self._said.readline())

    @property
    def ended(self) -> bool:
        """Whether it has ended already."""
        return self._gauge.poll() is not None

    def end(self) -> Took:
        """Wait for its end."""
        took = Took(**json.loads(self._said.read()))
        self._said.close()
        self._gauge.wait()
        return took


def main() -> None:
    """Run the command line that is given; print its process, and at the end what it took."""
    started = time.perf_counter()
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL) as process:
        print(process.pid, flush=True)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6
    print(json.dumps({"code": process.returncode, "wall_s": wall, "cpu_s": cpu, "rss_mb": memory}))


if __name__ == "__main__":
    main()
