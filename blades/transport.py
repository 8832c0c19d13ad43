"""Runs a shell line on many blades at once, through ClusterShell.

By OpenSSH, itself or through gateways (`blades.gateways`), or by a command of the administrator's
(`exec`), which is how the lab's blades are reached. A blade that fails, does not answer or takes
too long is an outcome, not an exception.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from typing import Any

from ClusterShell.NodeSet import NodeSet
from ClusterShell.Task import task_self
from ClusterShell.Worker.Exec import ExecClient, ExecWorker
from ClusterShell.Worker.Ssh import WorkerSsh
from ClusterShell.Worker.Worker import WorkerError

from blades.gateways import run_through
from blades.outcome import SSH_FAILED, SSH_OPTIONS, Outcome, Watch, output_of
from config.model import Rollout, TransportKind
from headnode.errors import RolloutError

__all__ = ["SSH_FAILED", "Outcome", "run_on"]


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
    if not blades:
        return {}
    if options.gateways:
        return run_through(blades, line, options, on_outcome)
    # The task of this thread: an exception in `on_outcome`, and Ctrl-C, come out here. One with a
    # thread of its own would print a traceback and leave its caller waiting (ClusterShell 1.10).
    task = task_self()
    task.set_info("fanout", options.fanout)
    task.set_info("ssh_options", f"{SSH_OPTIONS} {options.ssh_options}".rstrip())
    watch = Watch(on_outcome)
    worker = _worker(NodeSet.fromlist(list(blades)), line, options, watch)
    try:
        task.schedule(worker)
        worker.set_write_eof()
        task.resume()
        for node in worker.iter_keys_timeout():  # for these, ev_hup was not called
            watch.note(node, None, output_of(worker, node))
    except WorkerError as error:
        raise RolloutError(f"exec_command {options.exec_command!r}: {error}.") from error
    finally:
        task.abort(kill=True)  # ends what still runs, and leaves no task to this thread
    return watch.outcomes


def _worker(nodes: NodeSet, line: str, options: Rollout, watch: Watch) -> Any:
    common = {"handler": watch, "timeout": options.timeout_s, "stderr": False}
    if options.transport is TransportKind.SSH:
        return WorkerSsh(nodes, command=line, **common)
    # ClusterShell replaces %h and the like in all of its command; the line is none of its business.
    command = f"{options.exec_command} {shlex.quote(line).replace('%', '%%')}"
    return _Worker(nodes, command=command, **common)
