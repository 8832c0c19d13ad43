"""Runs a shell line on blades through gateways: ClusterShell's tree, one level deep.

The headnode has one ssh to each gateway, in which `ClusterShell.Gateway` takes orders and sends
results back; the ssh to a blade is the gateway's. Every gateway reaches every blade, so what one of
them cannot take, another does. A gateway that was never reached has begun nothing: its blades go
through the others. Under one that goes down later a blade may be in the middle of its pull: it
counts as unreached. Where no gateway is left, all are unreached; no other way is tried.

Each blade has a worker of its own (`Branch`), and the headnode hands out no more of them at once
than the fan-out. Given all blades at once, a gateway would tell neither when each begins nor,
before the last has ended, which were cut off at the time limit.

Source: ClusterShell 1.10.1, Worker/Tree.py, Propagation.py, Gateway.py.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ClusterShell.NodeSet import NodeSet
from ClusterShell.Propagation import RouteResolvingError
from ClusterShell.Task import task_self
from ClusterShell.Topology import TopologyError, TopologyGraph, TopologyTree
from ClusterShell.Worker.Ssh import SshClient, WorkerSsh
from ClusterShell.Worker.Tree import TreeWorker

from blades.outcome import SSH_FAILED, SSH_OPTIONS, Outcome, Watch, output_of
from config.model import Rollout

log = logging.getLogger(__name__)

ROOT = "_headnode_"  # the tree's root, with a name that no machine has
LOOK_S = 1.0
# A gateway cuts off what takes too long. One that has not said so this much later hangs itself.
GRACE_S = 30.0
KEPT_LINES = 3
# What a blade's command ends with when its gateway goes down; none of headnode-pull's codes.
GATEWAY_LOST = os.EX_PROTOCOL
MOST_FILES = 65536


class _GatewayClient(SshClient):  # type: ignore[misc]  # ClusterShell has no types
    """The ssh to a gateway. Blades have other options (`ssh_options`), which the gateway uses."""

    def _build_cmd(self) -> tuple[list[str], None]:
        options = shlex.split(self.worker.task.info("gateway_options"))
        own = ["-oForwardAgent=no", "-oForwardX11=no"]
        return ["ssh", *options, *own, str(self.key), str(self.command)], None


class _GatewayWorker(WorkerSsh):  # type: ignore[misc]
    SHELL_CLASS = _GatewayClient


class Branch(TreeWorker):  # type: ignore[misc]
    """A line on one blade, through the gateway that has had the fewest."""

    def __init__(self, blade: str, line: str, options: Rollout, handler: Tree) -> None:
        nodes = NodeSet.fromlist([blade])
        super().__init__(nodes, handler, options.timeout_s, command=line, stderr=False)
        self.blade = blade
        self.gateway = ""
        self.lost = "went down"  # why its gateway is none any more, if it has lost it
        self.stranded = False  # no gateway is left
        self.begun = time.monotonic()
        self.invoke_gateway = gateway_line(options.gateway_python)
        # Its port is for writing to the command and for being started by the engine, and takes two
        # file handles until the task ends: thousands of blades would use them up.
        self._port.streams.clear()

    def _engine_clients(self) -> list[Any]:
        return []

    def start(self, task: Any) -> None:
        """Take its way; also while `task` runs."""
        task.schedule(self)
        self._start()

    def _execute_remote(self, cmd: str, targets: Any, gateway: Any, timeout: float) -> None:
        self.gateway, self.begun = str(gateway), time.monotonic()
        super()._execute_remote(cmd, targets, gateway, timeout)

    def _relaunch(self, previous_gateway: str) -> None:
        self.eh.is_down(previous_gateway, "is not reached")
        super()._relaunch(previous_gateway)

    def _launch(self, nodes: Any) -> None:
        try:
            super()._launch(nodes)
        except RouteResolvingError:
            self.stranded = True
            self._target_count += 1
            self._on_node_close(self.blade, SSH_FAILED)
            self._check_fini()

    def give_up(self, why: str) -> None:
        """End as if its gateway were down, because of `why`."""
        self.lost = why
        self._on_remote_node_close(self.blade, GATEWAY_LOST, self.gateway)


class Tree(Watch):
    """Hands the blades out, `fanout` at a time, and notes each one's outcome."""

    def __init__(
        self,
        task: Any,
        blades: Sequence[str],
        line: str,
        options: Rollout,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        super().__init__(on_outcome)
        self.task, self.line, self.options = task, line, options
        self.gateways = NodeSet(options.gateways)
        self.left = deque(blades)
        self.at_work: set[Branch] = set()
        self.said: dict[str, deque[str]] = {}  # the last words of each gateway's ssh
        self.down: set[str] = set()
        self.stranded = False
        self.over = False  # what comes from here on is the task being taken down

    def begin(self) -> None:
        """Hand out the first ones."""
        for _ in range(min(self.options.fanout, len(self.left))):
            self._next()

    def _next(self) -> None:
        if self.stranded:
            self.give_up()
        elif self.left and not self.over:
            branch = Branch(self.left.popleft(), self.line, self.options, self)
            self.at_work.add(branch)
            branch.start(self.task)

    def give_up(self) -> None:
        """Note that nothing leads to the blades that are left."""
        while self.left:
            self.note(self.left.popleft(), SSH_FAILED, self._no_way())

    def cut_off(self, why: str) -> None:
        """Note that the way to all blades that are at work was lost."""
        for branch in self.at_work:
            said = output_of(branch, branch.blade)
            self.note(branch.blade, SSH_FAILED, f"{said}\n{why}".lstrip(), way_lost=True)

    def ev_read(self, worker: Any, node: str, sname: str, msg: bytes) -> None:
        """Keep what a gateway's ssh says."""
        if node in self.gateways:  # each worker that goes that way is told of it
            words = self.said.setdefault(node, deque(maxlen=KEPT_LINES))
            line = msg.decode("utf-8", "replace").strip()
            if line and line not in words:
                words.append(line)

    def ev_hup(self, worker: Any, node: str, rc: int) -> None:
        """Note the end of a blade's command, or of the way to it."""
        if self.over:
            return
        said = output_of(worker, node)
        if worker.stranded:
            self.stranded = True
            self.note(node, SSH_FAILED, self._no_way())
        elif rc == GATEWAY_LOST:
            self.is_down(worker.gateway, worker.lost)
            why = f"gateway {worker.gateway} {worker.lost}{self._words(worker.gateway)}"
            self.note(node, SSH_FAILED, f"{said}\n{why}".lstrip(), way_lost=True)
        elif rc == SSH_FAILED:
            self.note(node, rc, f"through gateway {worker.gateway}: {said}")
        else:
            self.note(node, rc, said)

    def ev_close(self, worker: Any, timedout: bool) -> None:
        """Hand out the next one."""
        if self.over:
            return
        if worker.blade not in self.outcomes:  # at the time limit, ev_hup is not called
            self.note(worker.blade, None, output_of(worker, worker.blade))
        self.at_work.discard(worker)
        self._next()

    def ev_timer(self, timer: Any) -> None:
        """Give up gateways that say nothing of a blade whose time has long been over."""
        limit_s = self.options.timeout_s + GRACE_S
        now = time.monotonic()
        for gateway in {each.gateway for each in self.at_work if now - each.begun > limit_s}:
            self.task.router.mark_unreachable(gateway)
            # All that it has: its connection ends with the last, and so nothing comes of it later.
            for branch in [each for each in self.at_work if each.gateway == gateway]:
                branch.give_up(f"did not answer within {limit_s:g} s")

    def is_down(self, gateway: str, how: str) -> None:
        """Say once that a gateway is none any more."""
        if gateway not in self.down:
            self.down.add(gateway)
            log.warning("gateway %s %s%s", gateway, how, self._words(gateway))

    def _words(self, gateway: str) -> str:
        words = "\n".join(self.said.get(gateway, ()))
        return f": {words}" if words else ""

    def _no_way(self) -> str:
        each = (f"{gateway}{self._words(gateway)}" for gateway in map(str, self.gateways))
        return "no gateway is reached; " + "; ".join(each)


def run_through(
    blades: Sequence[str],
    line: str,
    options: Rollout,
    on_outcome: Callable[[Outcome], None],
) -> dict[str, Outcome]:
    """Run `line` on every blade through `options.gateways`; see `transport.run_on`."""
    task = task_self()
    tree = Tree(task, blades, line, options, on_outcome)
    _prepare(task, tree)
    bad = ""
    try:
        tree.begin()
        task.resume()
    except TopologyError as error:  # a gateway cannot go on, and says why; that ends the task
        bad = str(error).partition(":")[0]
        tree.cut_off(f"gateway {error}")
    finally:
        tree.over = True
        task.abort(kill=True)
    if not tree.left:
        return tree.outcomes
    log.warning("gateway %s cannot go on", bad)
    others = str(tree.gateways - NodeSet(bad))
    if not others:
        tree.give_up()
        return tree.outcomes
    options = options.model_copy(update={"gateways": others})
    return {**tree.outcomes, **run_through([*tree.left], line, options, on_outcome)}


def _prepare(task: Any, tree: Tree) -> None:
    options = tree.options
    task.set_info("fanout", options.fanout)
    # -n: the standard input of blades is empty, also of those that are sent another way.
    task.set_info("ssh_options", f"-n {SSH_OPTIONS} {options.ssh_options}".rstrip())
    task.set_info("gateway_options", f"{SSH_OPTIONS} {options.gateway_options}".rstrip())
    task.set_info("grooming_delay", 0)  # results are not held back to be sent together
    task.set_default("distant_worker", _GatewayWorker)
    task.topology = topology(str(tree.gateways), [*tree.left])
    task.timer(LOOK_S, handler=tree, interval=LOOK_S, autoclose=True)
    clear = task._engine.clear

    def taken_down(**how: bool) -> None:
        """Close all connections: on Ctrl-C and errors that is before they come out of `resume`."""
        tree.over = True
        clear(**how)

    task._engine.clear = taken_down


def topology(gateways: str, blades: Sequence[str]) -> TopologyTree:
    """The tree: the headnode, its gateways, and behind each of them all blades. Pure."""
    graph = TopologyGraph()
    graph.add_route(NodeSet(ROOT), NodeSet(gateways))
    graph.add_route(NodeSet(gateways), NodeSet.fromlist(list(blades)))
    return graph.to_tree(ROOT)


def gateway_line(python: str) -> str:
    """The shell line that a gateway is started by. Pure.

    It keeps two file handles for each blade that it has had, hence the limit. Its log is in the
    home folder: in /tmp, as it comes, other users could put something under its name first.
    """
    log_to = "CLUSTERSHELL_GW_LOG_DIR='~' CLUSTERSHELL_GW_LOG_LEVEL=WARNING"
    start = f"exec env {log_to} {shlex.quote(python)} -m ClusterShell.Gateway -Bu"
    more = f"ulimit -n {MOST_FILES} || ulimit -n $(ulimit -Hn)"
    return f"exec sh -c {shlex.quote(f'{{ {more}; }} 2> /dev/null; {start}')}"
