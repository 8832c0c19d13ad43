"""`headnode kernel`."""

from __future__ import annotations

from pathlib import Path

import click

from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    now,
    warn_if_stale,
)
from headnode.console import Watcher, say, show_json, table
from schedules.flavour_files import Patches
from schedules.kernels import kernel_once, list_flavours


@click.group()
def kernel() -> None:
    """Build kernels of one's own, once for all blades.

    Example: headnode kernel build blade
    """


@kernel.command()
@click.argument("flavour")
@click.option(
    "--patch",
    "add",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Add a patch after the flavour's own, for this build and later ones.",
)
@click.option("--drop", multiple=True, metavar="NAME", help="Take an added patch away again.")
@class_option
@json_option
@click.pass_obj
def build(
    settings: Settings,
    flavour: str,
    add: tuple[Path, ...],
    drop: tuple[str, ...],
    class_name: str | None,
    as_json: bool,
) -> None:
    """Build the kernel of FLAVOUR, and what else its class lacks.

    What is built is staged like any package: headnode publish brings it to the first ring.

    Example: headnode kernel build blade --patch fix-nfs.patch
    """
    site = settings.site()
    with Watcher() as watch:
        done = kernel_once(
            site,
            chosen_class(site, class_name),
            flavour,
            patches=Patches(add=add, drop=drop),
            now=now(),
            watch=watch,
        )
    warn_if_stale(site)
    if as_json:
        show_json(done)
        return
    revision = done.revision
    what = "is new" if done.new else "is unchanged"
    say(f"{revision.package} {what}: {revision.release}, built {len(done.build.built)} packages.")


@kernel.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the flavours there are, and what was built of them.

    Example: headnode kernel list
    """
    flavours = list_flavours(settings.site())
    if as_json:
        show_json(flavours)
        return
    table(
        ("flavour", "classes", "release", "package", "added patches", "about"),
        (
            (
                each.name,
                ", ".join(each.classes) or "-",
                each.revision.release if each.revision else "not built",
                each.revision.package if each.revision else "-",
                ", ".join(each.added) or "-",
                each.about,
            )
            for each in flavours
        ),
    )
