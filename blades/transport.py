"""Runs a shell line on many blades at once, through ClusterShell.

By OpenSSH, or by a command of the administrator's (`exec`), which is how the lab's blades are
reached. A blade that fails, does not answer or takes too long is an outcome, not an exception.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ClusterShell.Event import EventHandler
from ClusterShell.NodeSet import NodeSet
from ClusterShell.Task import task_self
from ClusterShell.Worker.Exec import ExecClient, ExecWorker
from ClusterShell.Worker.Ssh import WorkerSsh
from ClusterShell.Worker.Worker import WorkerError

from config.model import Rollout, TransportKind
from headnode.errors import RolloutError

# A command that ssh itself could not start: ssh(1), EXIT STATUS.
SSH_FAILED = 255
# ServerAliveInterval: a blade that loses power in the middle is given up after 90 s, not only at
# the time limit of the pull.
SSH_OPTIONS = "-oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command did on one blade. `code` is None if it was cut off at the time limit."""

    blade: str
    code: int | None
    output: str
    seconds: float


class _Watch(EventHandler):  # type: ignore[misc]  # ClusterShell has no types
    """Notes when each blade starts and ends."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self.started: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.on_outcome = on_outcome

    def ev_pickup(self, worker: Any, node: str) -> None:
        self.started[node] = time.monotonic()

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        self.note(worker, node, rc)

    def note(self, worker: Any, node: str, code: int | None) -> None:
        outcome = Outcome(
            blade=node,
            code=code,
            output=_text(worker.node_buffer(node)),
            seconds=time.monotonic() - self.started.get(node, time.monotonic()),
        )
        self.outcomes[node] = outcome
        self.on_outcome(outcome)


class _Client(ExecClient):  # type: ignore[misc]
    """A command in a process group of its own: what is cut off, ends with all that it started."""

    def _build_cmd(self) -> tuple[list[str], Any]:
        command, variables = super()._build_cmd()
        return ["setsid", "sh", "-c", command], variables

    def _close(self, abort: bool, timeout: bool) -> None:
        if abort:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
        super()._close(abort, timeout)


class _Worker(ExecWorker):  # type: ignore[misc]
    SHELL_CLASS = _Client


def _text(buffer: Any) -> str:
    return bytes(buffer or b"").decode("utf-8", "replace")


def run_on(
    blades: Sequence[str],
    line: str,
    options: Rollout,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, Outcome]:
    """Run `line` on every blade, `options.fanout` at a time, and return each one's outcome.

    With ssh, what is cut off by the time limit or by Ctrl-C is the way to the blade; what was
    started on it may run on. Its standard input is empty.

    Raises:
        RolloutError: `options.exec_command` cannot be read.
    """
    # The task of this thread: an exception in `on_outcome`, and Ctrl-C, come out here. One with a
    # thread of its own would print a traceback and leave its caller waiting (ClusterShell 1.10).
    task = task_self()
    task.set_info("fanout", options.fanout)
    task.set_info("ssh_options", f"{SSH_OPTIONS} {options.ssh_options}".rstrip())
    watch = _Watch(on_outcome)
    if not blades:
        return watch.outcomes
    worker = _worker(NodeSet.fromlist(list(blades)), line, options, watch)
    try:
        task.schedule(worker)
        worker.set_write_eof()
        task.resume()
        for node in worker.iter_keys_timeout():  # for these, ev_hup was not called
            watch.note(worker, node, None)
    except WorkerError as error:
        raise RolloutError(f"exec_command {options.exec_command!r}: {error}.") from error
    finally:
        task.abort(kill=True)  # ends what still runs, and leaves no task to this thread
    return watch.outcomes


def _worker(nodes: NodeSet, line: str, options: Rollout, watch: _Watch) -> Any:
    common = {"handler": watch, "timeout": options.timeout_s, "stderr": False}
    if options.transport is TransportKind.SSH:
        return WorkerSsh(nodes, command=line, **common)
    # ClusterShell replaces %h and the like in all of its command; the line is none of its business.
    command = f"{options.exec_command} {shlex.quote(line).replace('%', '%%')}"
    return _Worker(nodes, command=command, **common)
