"""`headnode distcc`."""

from __future__ import annotations

import click

from distcc.hosts import hosts_line
from headnode.commands.context import Settings
from headnode.console import say


@click.group()
def distcc() -> None:
    """Look at who helps to compile.

    Example: headnode distcc hosts
    """


@distcc.command()
@click.pass_obj
def hosts(settings: Settings) -> None:
    """Print the helpers as distcc's DISTCC_HOSTS.

    Example: headnode distcc hosts
    """
    say(hosts_line(settings.site().cluster.distcc))
