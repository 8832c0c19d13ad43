"""`headnode patch`."""

from __future__ import annotations

from pathlib import Path

import click

from binhost.user_patches import kept_of, list_patches, read_new
from headnode.commands.context import Settings, chosen_class, class_option, json_option, now
from headnode.commands.onward import go_on, show_plan
from headnode.commands.rings import asked_options
from headnode.console import Watcher, show_json, table
from headnode.errors import ExitCode
from schedules.forecast import forecast
from schedules.moving import Asked
from schedules.patching import drop_once, find_target, package_of, patch_once
from schedules.site import Site


@click.command()
@click.argument("atom", required=False)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--list", "lists", is_flag=True, help="List the patches that are kept.")
@click.option("--drop", "drops", is_flag=True, help="Drop the patches of ATOM, and build without.")
@click.option("--ring", help="Ring that gets it  [default: the first]")
@click.option("--rollout", "rolls", is_flag=True, help="Have the blades of every ring pull it.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@class_option
@asked_options
@json_option
@click.pass_obj
def patch(
    settings: Settings,
    atom: str | None,
    files: tuple[Path, ...],
    lists: bool,
    drops: bool,
    ring: str | None,
    rolls: bool,
    dry_run: bool,
    class_name: str | None,
    asked: Asked,
    as_json: bool,
) -> int:
    """Apply patch FILEs to a package, build it anew, and publish it.

    ATOM is category/name, or =category/name-version for that version alone. The patch is tried on
    what the ring has before anything is changed; the package is built from the same tree.

    Example: headnode patch sys-apps/openssh CVE-2026-1234.patch --rollout --note "CVE-2026-1234"
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    if lists:
        _list(site, name, as_json)
        return ExitCode.OK
    if atom is None or bool(files) == drops:
        raise click.UsageError("Name a package and patches, or a package and --drop, or --list.")
    first = site.ring(name, ring)
    with Watcher() as watch:
        if drops:
            gone = list(kept_of(site.patches(name), atom))
            package = package_of(gone[0])
            build = f"build {package} and what it has built anew, from the same tree"
            steps = [f"drop {', '.join(gone)}", build]
        else:
            target = find_target(site, name, atom, ring)
            package = target.package
            new = {f"{target.folder}/{file}": text for file, text in read_new(files).items()}
            steps = [
                f"try {', '.join(new)} on {target.cpv}, which generation {target.generation} has",
                f"build {target.cpv} and what it has built anew, from the same tree",
            ]
        eta = forecast(site, name, package, first, rolls=rolls)
        show_plan(site, name, first, steps, eta, rolls=rolls)
        if dry_run:
            return ExitCode.OK
        if drops:
            _, published = drop_once(site, name, atom, ring, now=now(), asked=asked, watch=watch)
        else:
            _, published = patch_once(
                site, name, target, new, ring, now=now(), asked=asked, watch=watch
            )
        return go_on(site, published, rolls=rolls, as_json=as_json, watch=watch)


def _list(site: Site, class_name: str, as_json: bool) -> None:
    known = list_patches(site.patches(class_name))
    if as_json:
        show_json(known)
    else:
        table(("patch", "changes"), ((each.where, ", ".join(each.files)) for each in known))
