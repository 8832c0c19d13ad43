"""`headnode binhost`."""

from __future__ import annotations

import click

from blades.inventory import all_blades, select
from headnode.commands.context import Settings, json_option
from headnode.console import say, show_json
from headnode.errors import ConfigError, ExitCode
from schedules.why import why_once


@click.group()
def binhost() -> None:
    """Look at what blades are offered.

    Example: headnode binhost why net-misc/curl
    """


@binhost.command()
@click.argument("atom")
@click.option("--blade", help="Blade that is asked for  [default: the first of the first ring]")
@json_option
@click.pass_obj
def why(settings: Settings, atom: str, blade: str | None, as_json: bool) -> int:
    """Say whether a blade would take ATOM (or a set, as @blade) as a binary, and why not.

    Exit code 0 if it would, 1 if not.

    Example: headnode binhost why net-misc/curl --blade blade01
    """
    site = settings.site()
    known = select(site.cluster, blade) if blade else all_blades(site.cluster)[:1]
    if len(known) != 1:
        raise ConfigError(f"{blade} is more than one blade.", remedy="Name one with --blade.")
    verdict = why_once(site, known[0], atom)
    if as_json:
        show_json(verdict)
    else:
        say(verdict.text)
    return ExitCode.OK if verdict.taken else ExitCode.FAILED
