"""`headnode init`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import click

from config import template
from config.load import from_values
from headnode.commands.context import Settings
from headnode.console import say
from headnode.errors import ConfigError
from headnode.files import write_atomic
from schedules.site import Site


@click.command()
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--state", type=click.Path(path_type=Path), help="Folder of the state.")
@click.option("--key", help="Sign with this key of yours: its fingerprint  [default: a new one]")
@click.option(
    "--gnupghome",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="gpg's home with --key in it; an agent or a card may hold it.",
)
@click.pass_obj
def init(
    settings: Settings, force: bool, state: Path | None, key: str | None, gnupghome: Path | None
) -> None:
    """Write a commented cluster.toml to start from, and make the key that signs.

    Example: headnode --config /etc/headnode/cluster.toml init
    """
    path = settings.config_path or Path("cluster.toml")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already.", remedy="--force replaces it.")
    signing = {"key": key, "home": str(gnupghome.resolve()) if gnupghome else None}
    values: dict[str, Any] = {
        "state": {"path": str(state.resolve())} if state else {},
        "signing": {name: value for name, value in signing.items() if value},
    }
    text = template.render(values)
    keys = Site(cluster=from_values(values)).keys
    if key:
        keys.trust(key)
    elif not keys.trusted():
        keys.make(f"headnode {socket.gethostname()}")
    write_atomic(path, text)
    say(
        f"Wrote {path}; {keys.signer()} signs. Set [serve] host, and the packages and rings of "
        "your class, next."
    )
