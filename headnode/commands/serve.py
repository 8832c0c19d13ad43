"""`headnode serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from binhost import nginx
from binhost.site import Limits
from config import service
from headnode import daemon
from headnode.commands.context import Settings
from headnode.console import say
from headnode.scheduler import Scheduler
from mirror import rsyncd
from schedules.site import Site


@click.command()
@click.option(
    "--nginx",
    "for_nginx",
    is_flag=True,
    help="Print a configuration with which nginx serves the same files, and serve nothing.",
)
@click.option(
    "--tls",
    nargs=2,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CERTIFICATE KEY",
    help="For --nginx: answer by TLS on port 443 as well.",
)
@click.option("--systemd", "printed", flag_value="systemd", help="Print a unit for systemd.")
@click.option("--openrc", "printed", flag_value="openrc", help="Print a script for OpenRC.")
@click.option("--logrotate", "printed", flag_value="logrotate", help="Print a file for logrotate.")
@click.pass_obj
def serve(
    settings: Settings, for_nginx: bool, tls: tuple[Path, Path] | None, printed: str | None
) -> None:
    """Serve packages, distfiles and trees to the blades, until it is stopped.

    Example: headnode serve --systemd > /etc/systemd/system/headnode.service
    """
    if tls and not for_nginx:
        raise click.UsageError("--tls is for --nginx: headnode itself answers without TLS.")
    if for_nginx:
        say(nginx.render(front(settings.site(), tls), Limits()).rstrip("\n"))
    elif printed:
        say(service.KINDS[printed](program(settings)).rstrip("\n"))
    else:
        argv = [*settings.program, "--config", str(settings.path.absolute())]
        daemon.serve(settings.site, Scheduler(argv, settings.clock))


def program(settings: Settings) -> service.Program:
    """What is installed here, as it is configured."""
    site = settings.site()
    return service.Program(
        path=Path(sys.prefix) / "bin/headnode",
        config=settings.path.absolute(),
        rsyncd_log=rsyncd.log_path(site.state.absolute()),
        access_log=site.cluster.serve.access_log,
    )


def front(site: Site, tls: tuple[Path, Path] | None = None) -> nginx.Front:
    """What nginx has to do for a cluster."""
    options = site.cluster.serve
    return nginx.Front(
        state=site.state.absolute(),
        listen=options.listen,
        port=options.http_port,
        backend_port=options.backend_port,
        access_log=options.access_log,
        privileged=os.geteuid() == 0,
        tls=(tls[0].absolute(), tls[1].absolute()) if tls else None,
    )
