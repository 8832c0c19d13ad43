"""Nodes that run: started side by side, entered, and ended.

The namespaces are made by unshare(1) and entered by nsenter(1), since Python has no call for them
before 3.12.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import NodeError
from headnode.node.machine import require_namespaces
from headnode.node.script import setup_script
from headnode.node.spec import (
    NODE_PATH,
    Life,
    NodeSpec,
    check_spec,
    follow_links,
    prepare_store,
)
from headnode.process import PINNED, Completed, environment, run

START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is up. `pid` is its first process, `started` that process's start time.

    The start time (field 22 of proc_pid_stat(5), in clock ticks after boot) tells the process from
    a later one that got the same number.
    """

    name: str
    pid: int
    started: int
    store: Path

    def alive(self) -> bool:
        """Whether the node is still up."""
        return start_time(self.pid) == self.started

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` in the node."""
        return enter_argv(self.pid, command)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout_s: float,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `command` in the node (see `headnode.process.run`)."""
        return run(self.argv(command), timeout_s=timeout_s, check=check, on_line=on_line)

    def stop(self) -> None:
        """End the node and everything in it, and wait until it is gone."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name} (process {self.pid}) does not end.")
            time.sleep(0.01)
        if holder := _KEPT.pop(self.pid, None):
            _finish(holder)


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks after boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def enter_argv(pid: int, command: Sequence[str | Path]) -> list[str]:
    """The command line that runs `command` in the namespaces of process `pid`. Pure."""
    clean = {
        **PINNED,
        "PATH": NODE_PATH,
        "HOME": "/root",
        "TERM": "dumb",
        "USER": "root",
        "LOGNAME": "root",
    }
    return [
        *("nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid"),
        *("env", "-i", *(f"{key}={value}" for key, value in clean.items())),
        *(str(word) for word in command),
    ]


def start(spec: NodeSpec, *, inside: int | None = None, life: Life = Life.WITH_STARTER) -> Node:
    """Bring up one node; see `start_all`."""
    return start_all([spec], inside=inside, life=life)[0]


def start_all(
    specs: Iterable[NodeSpec], *, inside: int | None = None, life: Life = Life.WITH_STARTER
) -> list[Node]:
    """Bring up nodes side by side, and return them when all are up.

    With `inside`, they live in the PID namespace of that process (a lab's first): ending it ends
    them all.

    Raises:
        NodeError: one did not come up, or cannot; those that did are ended.
        EnvironmentLacksError: the rights or the programs for it are missing.
    """
    require_namespaces()
    specs = list(specs)
    for spec in specs:
        check_spec(spec)
    holders: list[subprocess.Popen[str]] = []
    try:
        for spec in specs:
            prepare_store(spec)
            holders.append(_launch(spec, inside, life))
        nodes = [_await(spec, holder) for spec, holder in zip(specs, holders, strict=True)]
    except BaseException:
        _kill(holders)
        raise
    _KEPT.update({node.pid: holder for node, holder in zip(nodes, holders, strict=True)})
    return nodes


def _launch(spec: NodeSpec, inside: int | None, life: Life) -> subprocess.Popen[str]:
    unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
    enter = ["nsenter", f"--target={inside}", "--pid"] if inside else []
    with (spec.store / "start.log").open("w") as log:
        return subprocess.Popen(
            [*enter, *unshare, "sh", "-c", setup_script(follow_links(spec), life)],
            stdin=subprocess.PIPE if life is Life.WITH_STARTER else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment({"PATH": NODE_PATH}),
            cwd="/",
            start_new_session=True,
        )


# By the node's process number. Their stdin is what keeps Life.WITH_STARTER nodes up.
_KEPT: dict[int, subprocess.Popen[str]] = {}


def _await(spec: NodeSpec, holder: subprocess.Popen[str]) -> Node:
    assert holder.stdout is not None  # noqa: S101 (asked for a pipe)
    ready, _, _ = select.select([holder.stdout], [], [], START_TIMEOUT_S)
    line = holder.stdout.readline().strip() if ready else ""
    holder.stdout.close()
    pid = int(line) if line.isdigit() else 0
    started = start_time(pid) if pid else None
    if started is None:
        silent = "it gave no reason" if ready else f"no answer within {START_TIMEOUT_S:g} s"
        said = (spec.store / "start.log").read_text(errors="replace").strip()
        raise NodeError(f"Node {spec.name} did not come up: {said or silent}.")
    return Node(name=spec.name, pid=pid, started=started, store=spec.store)


def _kill(holders: Sequence[subprocess.Popen[str]]) -> None:
    """End nodes that may not be up yet: a holder and its first process are one process group."""
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + START_TIMEOUT_S
    for holder in holders:
        _finish(holder)
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(holder.pid, 0)
                time.sleep(0.01)


def _finish(holder: subprocess.Popen[str]) -> None:
    for pipe in (holder.stdin, holder.stdout):
        if pipe is not None:
            pipe.close()
    holder.wait()  # else its starter keeps it as a zombie
