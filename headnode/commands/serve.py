"""`headnode serve`."""

from __future__ import annotations

import os

import click

from binhost import nginx
from binhost.site import Limits
from config.load import find
from headnode import daemon
from headnode.commands.context import Settings
from headnode.console import say
from schedules.site import Site


@click.command()
@click.option(
    "--nginx",
    "for_nginx",
    is_flag=True,
    help="Print a configuration with which nginx serves the same files, and serve nothing.",
)
@click.pass_obj
def serve(settings: Settings, for_nginx: bool) -> None:
    """Serve packages, distfiles and trees to the blades, until it is stopped.

    Example: headnode serve
    """
    if for_nginx:
        say(nginx.render(front(settings.site()), Limits()).rstrip("\n"))
    else:
        daemon.serve(settings.site, find(settings.config_path).absolute())


def front(site: Site) -> nginx.Front:
    """What nginx has to do for a cluster."""
    options = site.cluster.serve
    return nginx.Front(
        state=site.state.absolute(),
        listen=options.listen,
        port=options.http_port,
        backend_port=options.backend_port,
        access_log=options.access_log,
        privileged=os.geteuid() == 0,
    )
