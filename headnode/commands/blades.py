"""`headnode blades`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from blades import drained
from blades.enrol import confirmed, enrol, fingerprint, scan
from blades.gateway_keys import enrol_gateway, give_hosts
from blades.inventory import Blade, all_gateways, select
from blades.secrets import secret_of
from blades.setup import mode_of, setup_files, to_tar
from config.cron import zone_of
from config.load import atoms_of
from config.portage import Rendered
from headnode.commands.bladestates import COLUMNS, known_blades, show_blade
from headnode.commands.context import Settings, json_option, now
from headnode.console import say, show_json, table, warn
from headnode.errors import ConfigError, RolloutError
from headnode.files import write_atomic
from headnode.wording import counted
from schedules.ledger.ledger import Ledger
from schedules.site import Site


@click.group()
def blades() -> None:
    """Look at the blades, and at what each is given.

    Example: headnode blades list
    """


@blades.command("list")
@click.option("--nodes", help="Node set, as in blade[01-04,07]  [default: all blades]")
@json_option
@click.pass_obj
def list_(settings: Settings, nodes: str | None, as_json: bool) -> None:
    """List the blades: what each is to have, what it has, and when it was last heard of.

    Example: headnode blades list --nodes blade[01-04]
    """
    lines = known_blades(settings.site(), nodes)
    if as_json:
        show_json([line.as_json() for line in lines])
    else:
        table(COLUMNS, (line.cells(now()) for line in lines))


@blades.command()
@click.argument("blade")
@click.option("--reports", "most", default=10, show_default=True, help="Newest pulls to show.")
@json_option
@click.pass_obj
def show(settings: Settings, blade: str, most: int, as_json: bool) -> None:
    """Show all that is known of BLADE: what it has, its last pulls, its last error with its log.

    Example: headnode blades show blade01
    """
    site = settings.site()
    [line] = known_blades(site, one_blade(site, blade).name)
    with Ledger.of(site) as ledger:
        reports = ledger.reports(line.blade.name, most)
    if as_json:
        show_json({**line.as_json(), "reports": reports})
    else:
        show_blade(line, reports)


@blades.command("enrol")
@click.argument("blade")
@click.option("--host-key", help="Fingerprint of the blade's host key, as read on its console.")
@click.option("--ssh", "options", default="", help="Options of ssh for your own way in.")
@click.option("--port", default=22, show_default=True, help="Port that sshd has there.")
@click.pass_obj
def enrol_(settings: Settings, blade: str, host_key: str | None, options: str, port: int) -> None:
    """Set BLADE up over SSH: keys, secret, Portage's files, the pull.

    You come in as root in your own way. The headnode's key, which it uses from then on, can do
    nothing there but pull, status, health, confirm, and restart into a kernel that is due.
    Without --host-key, the keys that the blade shows are printed, to be compared with
    `ssh-keygen -lf` on its console.

    A gateway of [rollout] is set up likewise, before the blades that it reaches: it makes a key of
    its own, which blades bind as they do the headnode's. `--ssh "-l USER"` sets it up for another
    user than root, whom [rollout] gateway_options names, too.

    Example: headnode blades enrol blade07 --host-key SHA256:Yb3q…
    """
    site = settings.site()
    gateways = all_gateways(site.cluster)
    name = blade if blade in gateways else one_blade(site, blade).name
    shown = scan(name, port)
    if host_key is None:
        keys = "\n".join(f"  {fingerprint(line)} ({line.split()[1]})" for line in shown)
        raise ConfigError(
            f"{blade} shows these host keys:\n{keys}\n",
            remedy="Compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its "
            "console, and give the one that is right as --host-key.",
        )
    words = [*shlex.split(options), *(["-p", str(port)] if port != 22 else []), "-l", "root"]
    lines = confirmed(shown, host_key)
    if name in gateways:
        enrol_gateway(site.wallet, name, lines, words)
        said = "is enrolled as a gateway. Blades that are enrolled from now on know its key."
    else:
        chosen = one_blade(site, name)
        atoms, secret = atoms_of(site.klass(chosen.class_name)), secret_of(site.state, name)
        rendered = setup_files(site.cluster, chosen, atoms, site.keyring(), secret)
        enrol(site.wallet, name, rendered, lines, words, gateways=gateways)
        said = "is enrolled: it pulls with the next rollout."
    _tell_gateways(site, [each for each in gateways if each != name])
    say(f"{name} {said}")


def _tell_gateways(site: Site, gateways: list[str]) -> None:
    """Give the gateways that are enrolled the host keys as they are now."""
    options = shlex.split(site.rollout.gateway_options)
    for gateway in gateways:
        if site.wallet.of_gateway(gateway).exists():
            try:
                give_hosts(site.wallet, gateway, options)
            except RolloutError as error:
                warn(f"{error}\nheadnode blades enrol {gateway} gives it them again.")


def one_blade(site: Site, name: str) -> Blade:
    """The blade of that name.

    Raises:
        ConfigError: it names several, or none.
    """
    chosen = select(site.cluster, name)
    if len(chosen) != 1:
        raise ConfigError(f"{name} names {len(chosen)} blades.", remedy="Name one.")
    return chosen[0]


@blades.command()
@click.argument("nodes")
@click.option("--why", default="", help="Why, for the record and the blade's reports.")
@click.option(
    "--until",
    help="End, as in 2026-12-01 (its beginning, in [schedule] time_zone), 2026-12-01T06:30, 12h, "
    "3d or 2w.  [default: until undrain]",
)
@click.pass_obj
def drain(settings: Settings, nodes: str, why: str, until: str | None) -> None:
    """Leave NODES alone: rollouts leave them out, and their own pulls are put off.

    Example: headnode blades drain blade[05-06] --why "memory test" --until 3d
    """
    site = settings.site()
    zone = zone_of(site.cluster.schedule.time_zone)
    end = None if until is None else drained.end_of(until, now(), zone)
    for name in site.cluster.classes:
        chosen = [each.name for each in select(site.cluster, nodes) if each.class_name == name]
        if chosen:
            drained.drain(site.binhost(name).folder, chosen, why, now(), end)
    last = f"{end:%Y-%m-%d %H:%M} UTC, or " if end else ""
    say(f"Drained {nodes}: no pull changes anything there until {last}`headnode blades undrain`.")


@blades.command()
@click.argument("nodes")
@click.pass_obj
def undrain(settings: Settings, nodes: str) -> None:
    """Let NODES pull again.

    Example: headnode blades undrain blade[05-06]
    """
    site = settings.site()
    wanted = [each.name for each in select(site.cluster, nodes)]
    for name in site.cluster.classes:
        for blade in drained.undrain(site.binhost(name).folder, wanted):
            say(f"{blade} pulls again.")


@blades.command()
@click.argument("blade")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files below this folder.",
)
@click.option("--tar", "as_tar", is_flag=True, help="Write them as a tar to stdout.")
@json_option
@click.pass_obj
def config(
    settings: Settings, blade: str, output: Path | None, as_tar: bool, as_json: bool
) -> None:
    """Show the files that BLADE needs, or write them out.

    Example: headnode blades config blade01 --tar | ssh blade01 tar -x -C /
    """
    site = settings.site()
    chosen = one_blade(site, blade)
    # A secret is for files alone: nobody shall see it on a screen.
    secret = secret_of(site.state, chosen.name) if as_tar or output else None
    atoms = atoms_of(site.klass(chosen.class_name))
    rendered = setup_files(site.cluster, chosen, atoms, site.keyring(), secret)
    if as_tar:
        sys.stdout.buffer.write(to_tar(rendered))
    elif output:
        write_below(output, rendered)
        say(f"Wrote {counted(len(rendered.files), 'file')} below {output}.")
    elif as_json:
        show_json({"files": rendered.files, "links": rendered.links})
    else:
        for path, text in rendered.files.items():
            say(f"# ---- {path}\n{text}")
        for path, target in rendered.links.items():
            say(f"# ---- {path} -> {target}")


def write_below(folder: Path, rendered: Rendered) -> None:
    """Write rendered files as they are to lie below a blade's root."""
    for path, text in rendered.files.items():
        write_atomic(folder / path.lstrip("/"), text, mode=mode_of(path))
    for path, target in rendered.links.items():
        link = folder / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
