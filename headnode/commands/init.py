"""`headnode init`."""

from __future__ import annotations

from pathlib import Path

import click

from config import template
from headnode.commands.context import Settings
from headnode.console import say
from headnode.errors import ConfigError
from headnode.files import write_atomic


@click.command()
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_obj
def init(settings: Settings, force: bool) -> None:
    """Write a commented cluster.toml to start from.

    Example: headnode --config /etc/headnode/cluster.toml init
    """
    path = settings.config_path or Path("cluster.toml")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already.", remedy="--force replaces it.")
    write_atomic(path, template.render())
    say(f"Wrote {path}. Set [serve] host, and the packages and rings of your class, next.")
