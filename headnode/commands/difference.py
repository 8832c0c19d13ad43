"""`headnode generations diff`."""

from __future__ import annotations

import dataclasses

import click
from rich.text import Text

from binhost.diff import Difference, Kind, PackageChange
from headnode.commands.context import Settings, chosen_class, class_option, json_option
from headnode.console import say, show_json, table
from schedules.upkeep import diff_once

# A word says the same as its colour, for whoever sees none.
COLOURS = {
    Kind.ADDED: "green",
    Kind.REMOVED: "red",
    Kind.UP: "cyan",
    Kind.DOWN: "yellow",
    Kind.REBUILT: "blue",
}


@click.command()
@click.argument("old", required=False)
@click.argument("new", required=False)
@click.option("--ring", help="Compare what this ring has with what it would get next.")
@click.option("--verbose", is_flag=True, help="Show how the configuration's files differ.")
@class_option
@json_option
@click.pass_obj
def diff(
    settings: Settings,
    old: str | None,
    new: str | None,
    ring: str | None,
    verbose: bool,
    class_name: str | None,
    as_json: bool,
) -> None:
    """Show what changed between two generations (the newest two, if none is named), and why.

    Each is named by its number or tag; NEW is the newest unless it is named.

    Example: headnode generations diff 11 12
    """
    if ring and old:
        raise click.UsageError("Name generations or a ring, not both.")
    site = settings.site()
    found = diff_once(site, chosen_class(site, class_name), old, new, ring)
    if as_json:
        kernels = [each.name for each in found.kernels]
        show_json({**dataclasses.asdict(found), "kernels": kernels})
    else:
        _show(found, verbose)


def _show(found: Difference, verbose: bool) -> None:
    before = f"generation {found.old}" if found.old else "nothing"
    say(f"From {before} to generation {found.new}: {_summary(found)}.")
    if found.packages:
        table(
            ("package", "slot", "change", "from", "to", "why"),
            (_row(each) for each in found.packages),
        )
    for tree in found.trees:
        say(f"tree {tree.repo}: {tree.old or 'none'} -> {tree.new or 'none'}")
    for atom in found.atoms_added:
        say(f"@blade: + {atom}")
    for atom in found.atoms_removed:
        say(f"@blade: - {atom}")
    for file in found.configuration:
        say(f"configuration: {file.path} {file.kind}")
        if verbose:
            say(file.text)


def _summary(found: Difference) -> str:
    counts = {kind: sum(each.kind is kind for each in found.packages) for kind in Kind}
    parts = [f"{count} {kind}" for kind, count in counts.items() if count]
    if found.kernels:
        parts.append(f"{len(found.kernels)} of them kernels")
    return ", ".join(parts) or "the same packages"


def _row(change: PackageChange) -> tuple[object, ...]:
    return (
        Text(change.name, "bold" if change.is_kernel else ""),
        change.slot,
        Text(change.kind, COLOURS[change.kind]),
        change.old or "-",
        change.new or "-",
        "; ".join(change.why),
    )
