"""`headnode serve`."""

from __future__ import annotations

import click

from headnode import daemon
from headnode.commands.context import Settings


@click.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serve packages, distfiles and trees to the blades, until it is stopped.

    Example: headnode serve
    """
    daemon.serve(settings.site)
