"""`headnode keys`: which key signs, and which blades trust."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from headnode.commands.context import Settings, json_option
from headnode.console import say, show_json, table
from headnode.errors import ConfigError


@click.group()
def keys() -> None:
    """Look after the keys that packages and deployments are signed with.

    A second key is trusted by blades before it signs: add it, let every ring have a deployment
    (headnode serve sees to that) and its blades pull, and then use it.

    Example: headnode keys list
    """


@keys.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the keys that blades are told to trust, and which rings know each.

    Example: headnode keys list --json
    """
    site = settings.site()
    signer = site.keys.signer()
    rings: dict[str, list[str]] = {}
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            current = site.binhost(class_name).ring(ring).current()
            for key in current.keys if current else ():
                rings.setdefault(key, []).append(f"{class_name}/{ring}")
    rows = [(key, key == signer, rings.get(key, [])) for key in site.keys.trusted()]
    if as_json:
        show_json([{"key": key, "signs": signs, "rings": known} for key, signs, known in rows])
        return
    table(
        ("key", "signs", "known to the rings"),
        ((key, "yes" if signs else "", ", ".join(known) or "-") for key, signs, known in rows),
    )


@keys.command()
@click.argument("key", required=False)
@click.pass_obj
def add(settings: Settings, key: str | None) -> None:
    """Have blades trust KEY: a fingerprint in gpg's home, a file of a public key, or a new key.

    The first key also signs; a later one does when `headnode keys use` says so.

    Example: headnode keys add
    """
    site = settings.site()
    if key is None:
        added = site.keys.make(f"headnode {socket.gethostname()}")
    elif Path(key).is_file():
        added = site.keys.take(Path(key).read_text(), key)
    else:
        added = site.keys.trust(key)
    signs = " It signs." if added == site.keys.signer() else ""
    say(f"Blades trust {added} from their ring's next deployment on.{signs}")


@keys.command()
@click.argument("key")
@click.pass_obj
def use(settings: Settings, key: str) -> None:
    """Have KEY sign from now on; every ring must have a deployment that tells of it.

    Example: headnode keys use 0123456789ABCDEF0123456789ABCDEF01234567
    """
    site = settings.site()
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            current = site.binhost(class_name).ring(ring).current()
            if current and current.keys and key not in current.keys:
                raise ConfigError(
                    f"The blades of the ring {ring} of {class_name} were not told of {key} yet.",
                    remedy="headnode serve renews the deployments within the hour; have the "
                    "blades pull then.",
                )
    site.keys.use(key)
    say(f"{key} signs from now on.")


@keys.command()
@click.argument("key")
@click.pass_obj
def drop(settings: Settings, key: str) -> None:
    """Have blades trust KEY no more: they then refuse every package that only it has signed.

    Example: headnode keys drop 0123456789ABCDEF0123456789ABCDEF01234567
    """
    site = settings.site()
    site.keys.drop(key)
    say(f"Blades trust {key} no more from their ring's next deployment on.")
