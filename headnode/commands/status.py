"""`headnode status`."""

from __future__ import annotations

import time
from collections.abc import Callable

import click
from rich.live import Live

from headnode import console
from headnode.commands.context import Settings, json_option, now
from headnode.console import say, show_json
from headnode.errors import ExitCode
from headnode.status import terminal
from headnode.status.gather import Gatherer
from headnode.status.model import Level, Status

EVERY_S = 2.0


@click.command()
@click.option(
    "--watch", is_flag=True, help="Go on showing it until Ctrl-C; a line a change off a terminal."
)
@json_option
@click.pass_obj
def status(settings: Settings, watch: bool, as_json: bool) -> ExitCode:
    """Show the whole cluster at a glance: blades, rings, what changed, and what wants a look.

    Exits with 3 if something is to be done at once.

    Example: headnode status --watch
    """
    if watch and as_json:
        raise click.UsageError("Give --watch or --json, not both.")
    gatherer = Gatherer(settings.site())

    def look() -> Status:
        return gatherer.status(now())

    if watch:
        _watch(look)
    found = look()
    if as_json:
        show_json(found)
    else:
        console.out.print(terminal.render(found), soft_wrap=False)
    return ExitCode.PARTLY if found.verdict.level is Level.BAD else ExitCode.OK


def _watch(look: Callable[[], Status]) -> None:
    """Show it again and again, until interrupted."""
    out = console.out
    if out.is_terminal:
        with Live(terminal.render(look()), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(EVERY_S)
                live.update(terminal.render(look()), refresh=True)
    said: object = None
    while True:
        found = look()
        if found.verdict != said:
            said = found.verdict
            say(terminal.line(found))
        time.sleep(EVERY_S)
