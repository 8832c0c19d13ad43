"""`headnode import`."""

from __future__ import annotations

from pathlib import Path

import click

from headnode.commands.context import Settings, chosen_class, class_option, json_option
from headnode.console import Watcher, say, show_json, warn
from headnode.errors import ExitCode
from headnode.wording import counted
from schedules.takeover import import_once


@click.command("import")
@click.argument("pkgdir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@class_option
@json_option
@click.pass_obj
def import_(settings: Settings, pkgdir: Path, class_name: str | None, as_json: bool) -> int:
    """Take over the packages of a binhost that was there before, gpkg and xpak.

    They are copied. `headnode build` then builds only what does not fit, and `headnode publish`
    makes the first generation of them. Exit code 3 if something was left out.

    Example: headnode import /var/cache/binpkgs
    """
    site = settings.site()
    with Watcher() as watch:
        done = import_once(site, chosen_class(site, class_name), pkgdir, watch)
    if as_json:
        show_json(done)
    else:
        for each in done.left_out:
            warn(f"{each.path.relative_to(pkgdir)} was left out: {each.why}")
        known = f", {len(done.known)} were there already" if done.known else ""
        left_out = f", {len(done.left_out)} left out" if done.left_out else ""
        say(
            f"Took over {counted(len(done.taken), 'package')}{known}{left_out}. "
            "Next: headnode build."
        )
    return ExitCode.PARTLY if done.left_out else ExitCode.OK
