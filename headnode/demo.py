"""`make demo`: the main job before one's eyes, in a lab of 4 blades. Every command is a real one.

Sync the tree and the sources, build once, publish, and every blade pulls; then one package gets a
new version upstream, and it reaches every blade; then nothing changed, and nothing is done.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blades import lab
from headnode import rehearsal
from headnode.cli import say_error
from headnode.console import err, note, say, table
from headnode.errors import CommandError, ExitCode, HeadnodeError
from headnode.files import remove_tree
from headnode.node.spec import Life
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

BLADES = 4
BUMPED = "sys-apps/bladeinfo"


def step(running: Rehearsal, *words: str) -> None:
    """Run one headnode command in the lab, and show it with what it prints."""
    show_command(words)
    running.headnode(*words, on_line=lambda line: err.print(f"  {line}", markup=False))


def show_command(words: Sequence[str]) -> None:
    """Show a headnode command the way it is typed."""
    err.print(f"\n$ headnode {shlex.join(words)}", style="bold cyan", markup=False)


def rollout(running: Rehearsal, *words: str) -> list[dict[str, Any]]:
    """Have blades pull, show a line for each, and return their reports."""
    show_command(("rollout", "run", *words))
    reports = list(json.loads(running.headnode("rollout", "run", "--json", *words).output))
    for each in reports:
        changes = " ".join(each["changes"]) if len(each["changes"]) < 4 else ""
        what = f"{each['result']} in {each['seconds']:.1f} s"
        err.print(f"  {each['blade']}: {what} {changes}".rstrip(), markup=False)
    return reports


def night(running: Rehearsal) -> dict[str, dict[str, Any]]:
    """Sync, build, publish to the canary, then to all; each blade's report, by its name."""
    step(running, "mirror", "sync")
    step(running, "build")
    step(running, "publish", "--note", "demo")
    canary = rollout(running, "--nodes", "blade01")
    step(running, "promote", "--ring", "fleet")
    fleet = rollout(running, "--nodes", f"blade[02-{BLADES:02}]")
    return {each["blade"]: each for each in canary + fleet}


def programs_say(running: Rehearsal, blade: str) -> str:
    """What a program from a package prints on a blade."""
    said = running.lab.node(blade).run(["bladeinfo", "--version"], timeout_s=60).output
    return said.strip().partition(",")[0]


def headline(text: str) -> None:
    """Print what comes next."""
    err.print(f"\n== {text}", style="bold", markup=False)


def demo(running: Rehearsal, started: float) -> None:
    """The whole story, in the lab that is up."""
    headline("The first night: mirror, build once, publish, every blade pulls")
    nights = [night(running)]
    headline(f"{BUMPED} gets a new version upstream; the next night brings it to every blade")
    bump(running.upstream, BUMPED)
    nights.append(night(running))
    headline("A night without news: nothing is built, nothing published, no emerge is started")
    nights.append(night(running))
    say("")
    table(
        (
            "blade",
            "ring",
            "generation",
            "packages",
            "first night",
            "new version",
            "no news",
            "it says",
        ),
        (
            (
                blade,
                last["ring"],
                last["generation"],
                last["packages"],
                *(f"{each[blade]['seconds']:.1f} s" for each in nights),
                programs_say(running, blade),
            )
            for blade, last in nights[-1].items()
        ),
    )
    say(f"\nAll of it took {time.monotonic() - started:.0f} s.")


INTERRUPTED = 130  # as a shell counts a command ended by SIGINT
LOOK = """\
The lab stays up. Look closer:
  .venv/bin/headnode lab exec blade01 ls /var/db/pkg/sys-apps
  .venv/bin/headnode lab exec blade02 emerge --pretend --verbose --update --deep @blade
  .venv/bin/headnode lab exec blade03 cat /var/log/headnode-pull.log
  .venv/bin/headnode lab exec headnode headnode generations list
and take it down:
  .venv/bin/headnode lab down
"""

HOW = """\
The lab is down again; its packages, logs and configuration are in {folder}.
`make demo KEEP=1` leaves it up, to look around in the blades.
"""


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--lab", type=Path, default=Path(".lab"), help="folder of the lab")
    options = parser.parse_args()
    started = time.monotonic()
    life = Life.UNTIL_STOPPED if options.keep else Life.WITH_STARTER
    try:
        lab.down(options.lab)
        clear(options.lab)
        running = rehearsal.up(options.lab, BLADES, life=life, report=note)
    except HeadnodeError as error:
        say_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        lab.down(options.lab)
        say_error("stopped")
        return INTERRUPTED
    kept = False
    try:
        rehearsal.start_headnode(running, life)
        demo(running, started)
        kept = options.keep
        return ExitCode.OK
    except CommandError as error:
        say_error(f"the demo stopped: {error.tail or error}")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        say_error("stopped")
        return INTERRUPTED
    finally:
        if not kept:
            rehearsal.down(running)
        say(LOOK if kept else HOW.format(folder=options.lab))


def clear(folder: Path) -> None:
    """Start from nothing: drop the state that an earlier demo left, but not the tarballs."""
    remove_tree(folder / "state")


if __name__ == "__main__":
    sys.exit(main())
