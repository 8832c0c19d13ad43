"""`headnode patch`."""

from __future__ import annotations

from pathlib import Path

import click

from binhost.user_patches import list_patches, read_new
from blades.inventory import all_blades
from headnode.commands.context import Settings, chosen_class, class_option, json_option, now
from headnode.commands.rings import asked_options
from headnode.commands.rings import show as show_published
from headnode.commands.rollout import exit_code, recorded, show_reports
from headnode.console import Watcher, note, say, show_json, table
from headnode.errors import ExitCode
from schedules.moving import Asked
from schedules.patching import Target, drop_once, find_target, patch_once
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
    with Watcher() as watch:
        if drops:
            gone, published = drop_once(site, name, atom, ring, now=now(), asked=asked, watch=watch)
            note(f"Dropped {', '.join(gone)}")
        else:
            target = find_target(site, name, atom, ring)
            new = {f"{target.folder}/{file}": text for file, text in read_new(files).items()}
            for line in plan(site, name, target, list(new), ring, rolls):
                note(line)
            if dry_run:
                return ExitCode.OK
            _, published = patch_once(
                site, name, target, new, ring, now=now(), asked=asked, watch=watch
            )
        show_published(published, as_json)
        if not rolls:
            return ExitCode.OK
        done, reports = recorded(site, None, watch=watch)
    show_reports(reports)
    if done.why:
        say(f"The rollout {done.phase}: {done.why}")
    return exit_code(reports)


def _list(site: Site, class_name: str, as_json: bool) -> None:
    known = list_patches(site.patches(class_name))
    if as_json:
        show_json(known)
    else:
        table(("patch", "changes"), ((each.where, ", ".join(each.files)) for each in known))


def plan(
    site: Site, class_name: str, target: Target, new: list[str], ring: str | None, rolls: bool
) -> list[str]:
    """What is going to be done, a line a step. Pure."""
    first = site.ring(class_name, ring)
    steps = [
        f"try {', '.join(new)} on {target.cpv}, which generation {target.generation} has",
        f"build {target.cpv} and what it has built anew, from the same tree",
        f"pass the gates, and put the new generation in front of the ring {first}",
    ]
    for name in rings_from(site, class_name, first) if rolls else ():
        count = sum(each.ring == name for each in all_blades(site.cluster))
        steps.append(f"have the {count} blades of the ring {name} pull it")
    return [f"  {number}. {step}" for number, step in enumerate(steps, 1)]


def rings_from(site: Site, class_name: str, first: str) -> list[str]:
    """The rings of a class from `first` on. Pure."""
    names = list(site.klass(class_name).rings)
    return names[names.index(first) :]
