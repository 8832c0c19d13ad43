"""`headnode lab`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from blades import lab as labs
from headnode import rehearsal
from headnode.console import note, say
from headnode.node.spec import NODE_PATH, Life

lab_option = click.option(
    "--lab",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".lab"),
    show_default=True,
    help="Folder of the lab.",
)


@click.group()
def lab() -> None:
    """Put up simulated blades on this machine, to rehearse on.

    Example: headnode lab up 4 && headnode lab exec blade01 emerge --info
    """


@lab.command()
@click.argument("count", type=click.IntRange(1, 1000), default=4)
@lab_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="Root that the blades are laid over  [default: this machine's, which is only read]",
)
def up(count: int, folder: Path, root: Path) -> None:
    """Put up COUNT blades, a headnode and an upstream, apart from this machine.

    Example: headnode lab up 4
    """
    running = rehearsal.up(folder, count, lower=root, life=Life.UNTIL_STOPPED, report=note)
    rehearsal.start_headnode(running, Life.UNTIL_STOPPED)
    say(f"{count} blades are up in {folder}, and their headnode serves. Go on with:")
    for words in NEXT:
        say(f"  headnode lab exec {words}")


NEXT = (
    "headnode headnode mirror sync",
    "headnode headnode build",
    "headnode headnode publish",
    "headnode headnode rollout run --nodes blade01",
    "blade01 bladeinfo --version",
)


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@lab_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(folder: Path, node: str, command: tuple[str, ...]) -> None:  # noqa: A001 (its name)
    """Run COMMAND in NODE: a blade, `headnode` or `upstream`.

    In `headnode`, the headnode command uses the lab's configuration.

    Example: headnode lab exec blade01 emerge --pretend --update @world
    """
    found = labs.load(folder)
    variables = {"TERM": os.environ.get("TERM", "dumb")}
    if node == labs.HEADNODE:
        variables["PATH"] = f"{sys.prefix}/bin:{NODE_PATH}"
        variables["HEADNODE_CONFIG"] = str(found.folder / "cluster.toml")
    setting = [f"{name}={value}" for name, value in variables.items()]
    argv = found.node(node).argv(["env", *setting, *command])
    os.execvp(argv[0], argv)  # noqa: S606 (its terminal and its exit code are the command's)


@lab.command()
@lab_option
def down(folder: Path) -> None:
    """Take the lab down, or clear what a killed one left. Its state folder stays.

    Example: headnode lab down
    """
    say("The lab is down." if labs.down(folder) else f"No lab is up in {folder}.")
