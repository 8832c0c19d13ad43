"""A whole cluster to rehearse on: a lab's blades, its own headnode, an upstream to sync from.

`blades.lab` puts up the nodes; here they are given their parts. What a rehearsal's headnode does is
done by the same `headnode` commands that a real one runs, in the lab's headnode node.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blades import lab
from blades.inventory import all_blades
from blades.lab import HEADNODE, UPSTREAM, Lab
from blades.secrets import secret_of
from blades.setup import setup_files
from config import template
from config.load import atoms_of, load
from config.model import TreeKind
from headnode.errors import NodeError
from headnode.files import write_atomic
from headnode.node.spec import Life
from headnode.process import Completed, environment, last_lines
from headnode.wording import counted
from mirror.upstream.assemble import assemble
from mirror.upstream.tarballs import fetch_tarballs
from schedules.site import Site

HTTP_PORT = 8080
RSYNC_PORT = 8730
START_S = 30.0
COMMAND_S = 3600.0
PROFILE = "lab/amd64"
PACKAGES = ["cluster-meta/blade"]

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A lab with its headnode's configuration and its upstream's folder."""

    lab: Lab
    config: Path
    upstream: Path
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def argv(self, *words: str | Path) -> list[str]:
        """The command line that runs `headnode …` in the lab's headnode. Pure."""
        return self.lab.headnode.argv([*_python(), "headnode", "--config", self.config, *words])

    def headnode(
        self, *words: str, check: bool = True, on_line: Callable[[str], None] | None = None
    ) -> Completed:
        """Run `headnode …` in the lab's headnode.

        Raises:
            CommandError: it failed, and `check` is set.
        """
        command: list[str | Path] = [*_python(), "headnode", "--config", self.config, *words]
        return self.lab.headnode.run(command, timeout_s=COMMAND_S, check=check, on_line=on_line)


def _python() -> list[str]:
    return [sys.executable, "-m"]


def rings(count: int) -> dict[str, str]:
    """The rings of `count` blades: one canary, and the others. Pure."""
    width = max(2, len(str(count)))
    canary = {"canary": f"blade{1:0{width}}"}
    if count == 1:
        return canary
    return {**canary, "fleet": f"blade[{2:0{width}}-{count:0{width}}]"}


def values(folder: Path, count: int, tree: TreeKind = TreeKind.PROFILES) -> dict[str, Any]:
    """What a rehearsal's cluster.toml says other than the defaults. Pure."""
    blade = {"packages": PACKAGES, "profile": PROFILE, "rings": rings(count), "tree": tree.value}
    return {
        "state": {"path": str(folder / "state"), "reserve_mib": 256},
        "serve": {"host": HEADNODE, "http_port": HTTP_PORT, "rsync_port": RSYNC_PORT},
        "mirror": {
            "repos": {
                "gentoo": {
                    "upstreams": [f"rsync://{UPSTREAM}:{RSYNC_PORT}/gentoo-portage"],
                    "min_interval_h": 0,
                }
            },
            "distfiles": {"upstreams": [f"http://{UPSTREAM}:{HTTP_PORT}"]},
        },
        "classes": {"blade": blade},
        "kernel": {"flavours": str(folder / "flavours")},
        "schedule": {"jobs": {}},  # a rehearsal's nights come when they are called
        "rollout": {
            "transport": "exec",
            "exec_command": f"{shlex.quote(str(folder / 'enter'))} %h",
            "settle_s": 0,
        },
    }


def up(
    folder: Path,
    count: int,
    *,
    lower: Path = Path("/"),
    life: Life = Life.WITH_STARTER,
    cache: Path | None = None,
    tree: TreeKind = TreeKind.PROFILES,
    more: Mapping[str, Any] | None = None,
    beneath: tuple[Path, ...] = (),
    report: Report = lambda line: None,
) -> Rehearsal:
    """Put up a lab of `count` blades with its upstream and its configuration.

    `cache` keeps the tarballs of real software between labs; `tree` is how blades have the trees;
    `more` are tables of cluster.toml, beside `values` or in place of them; `beneath` are uppers
    that every blade is laid over.

    Raises:
        NodeError, EnvironmentLacksError: it does not come up; what did is down again.
    """
    folder = folder.resolve()
    report("Putting the upstream together: a tree of ebuilds, and their sources")
    assembled = assemble(folder / "upstream", tarballs=fetch_tarballs(cache or folder / "cache"))
    for name in assembled.stand_ins:
        report(f"{name}: its own sources cannot be had here, a small stand-in takes its place")
    config = folder / "cluster.toml"
    write_atomic(config, template.render({**values(folder, count, tree), **(more or {})}))
    site = Site(cluster=load(config))
    if site.signs and not site.keys.trusted():
        site.keys.make("headnode lab")
    files = {
        blade.name: setup_files(
            site.cluster,
            blade,
            atoms_of(site.klass(blade.class_name)),
            site.keyring(),
            secret_of(site.state, blade.name),
        )
        for blade in all_blades(site.cluster)
    }
    report(f"Putting up {counted(count, 'blade')}")
    rehearsal = Rehearsal(
        lab=lab.up(folder, files, lower=lower, life=life, beneath=beneath),
        config=config,
        upstream=folder / "upstream",
    )
    try:
        _start_upstream(rehearsal, life)
    except BaseException:
        down(rehearsal)
        raise
    return rehearsal


def _start_upstream(rehearsal: Rehearsal, life: Life) -> None:
    ports = ["--rsync-port", str(RSYNC_PORT), "--http-port", str(HTTP_PORT)]
    root = ["--root", str(rehearsal.upstream), "--listen", "0.0.0.0"]  # noqa: S104 (in the lab)
    argv = [*_python(), "mirror.upstream.serve", *root, *ports]
    start_server(rehearsal, UPSTREAM, argv, "ready", life)


def start_headnode(rehearsal: Rehearsal, life: Life = Life.WITH_STARTER) -> None:
    """Start `headnode serve` in the lab's headnode, and wait until it serves.

    Raises:
        NodeError: it does not.
    """
    argv = [*_python(), "headnode", "--config", str(rehearsal.config), "serve"]
    start_server(rehearsal, HEADNODE, argv, "Serving", life)


def start_server(
    rehearsal: Rehearsal, node: str, argv: Sequence[str], ready: str, life: Life
) -> None:
    """Start a server in a node, to end with the lab; wait for the line that starts with `ready`.

    Raises:
        NodeError: it ended, or said nothing of the kind.
    """
    log = rehearsal.lab.folder / f"{node}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            rehearsal.lab.node(node).argv(argv),
            stdin=subprocess.PIPE if life is Life.WITH_STARTER else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment(),
            start_new_session=True,
        )
    assert process.stdout is not None  # noqa: S101 (asked for a pipe)
    line = process.stdout.readline()
    if not line.startswith(ready):
        process.kill()
        said = last_lines(line + log.read_text())
        raise NodeError(f"The server in the lab's {node} did not start:\n{said}")
    rehearsal.servers.append(process)


def down(rehearsal: Rehearsal) -> None:
    """Take the lab down; its servers end with it. State, logs and packages stay in its folder."""
    lab.down(rehearsal.lab.folder)
    for process in rehearsal.servers:
        process.wait()


@contextmanager
def running(folder: Path, count: int, **options: Any) -> Iterator[Rehearsal]:
    """A rehearsal for the block (see `up`), down after it, however it ends."""
    rehearsal = up(folder, count, **options)
    try:
        yield rehearsal
    finally:
        down(rehearsal)
