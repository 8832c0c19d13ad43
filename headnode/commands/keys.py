"""`headnode keys`: which key signs, and which blades trust."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from headnode.commands.context import Settings, json_option, now
from headnode.console import say, show_json, table
from headnode.errors import ConfigError
from schedules.moving import replace_key_once
from schedules.site import Site


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
        added = site.keys.make(_own_name())
    elif Path(key).is_file():
        added = site.keys.take(Path(key).read_text(), key)
    else:
        added = site.keys.trust(key)
    signs = " It signs." if added == site.keys.signer() else ""
    say(f"Blades trust {added} from their ring's next deployment on.{signs}")


def _own_name() -> str:
    return f"headnode {socket.gethostname()}"


@keys.command()
@click.argument("key")
@click.option(
    "--by-hand",
    is_flag=True,
    help="No ring need tell of it: every blade is given its files again.",
)
@click.pass_obj
def use(settings: Settings, key: str, by_hand: bool) -> None:
    """Have KEY sign from now on; every ring must have a deployment that tells of it.

    Where the keys that blades know are lost, none can tell of it: --by-hand.

    Example: headnode keys use 0123456789ABCDEF0123456789ABCDEF01234567
    """
    site = settings.site()
    if not by_hand:
        _require_told(site, key)
    site.keys.use(key, by_hand=by_hand)
    say(f"{key} signs from now on.")


def _require_told(site: Site, key: str) -> None:
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            current = site.binhost(class_name).ring(ring).current()
            if current and current.keys and key not in current.keys:
                raise ConfigError(
                    f"The blades of the ring {ring} of {class_name} were not told of {key} yet.",
                    remedy="headnode serve renews the deployments within the hour; have the "
                    "blades pull then. If no key that they know is left, give every blade its "
                    "files again after this with --by-hand.",
                )


@keys.command()
@click.argument("key")
@click.pass_obj
def replace(settings: Settings, key: str) -> None:
    """Have blades trust KEY no more, at once: it got into wrong hands. Another one signs.

    That is a new one, unless there is one already. Every ring gets a deployment that tells of it,
    signed by both.

    Example: headnode keys replace 0123456789ABCDEF0123456789ABCDEF01234567
    """
    site = settings.site()
    done = replace_key_once(site, key, name=_own_name(), now=now())
    for each in done:
        deployment = each.deployment
        say(f"Ring {deployment.ring} of {deployment.class_name} tells its blades.")
    say(
        f"{site.keys.signer()} signs. Blades trust {key} no more when they have pulled, nor any "
        "package that it signed."
    )


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
