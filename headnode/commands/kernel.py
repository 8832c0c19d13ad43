"""`headnode kernel`."""

from __future__ import annotations

from pathlib import Path

import click

from config.overlay import kernel_package
from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    now,
    warn_if_stale,
)
from headnode.commands.onward import go_on, show_plan
from headnode.commands.rings import asked_options
from headnode.console import Watcher, say, show_json, table
from headnode.errors import ExitCode
from headnode.wording import counted
from schedules.flavour_files import Patches
from schedules.forecast import forecast
from schedules.kernels import kernel_once, list_flavours, set_of_ring
from schedules.moving import Asked, publish_once
from schedules.site import Site


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
@click.option(
    "--rollout",
    "rolls",
    is_flag=True,
    help="Publish it, and have every blade pull it.",
)
@class_option
@asked_options
@json_option
@click.pass_obj
def build(
    settings: Settings,
    flavour: str,
    add: tuple[Path, ...],
    drop: tuple[str, ...],
    rolls: bool,
    class_name: str | None,
    asked: Asked,
    as_json: bool,
) -> int:
    """Build the kernel of FLAVOUR, and what else its class lacks.

    What is built is staged like any package: headnode publish brings it to the first ring. With
    --rollout it is built from the trees that the first ring has, published (--note and --waive are
    those of headnode publish), and brought to every blade, which boots it when it boots next.

    Example: headnode kernel build blade --patch fix-nfs.patch --rollout --note "NFS hangs"
    """
    site = settings.site()
    name, patches = chosen_class(site, class_name), Patches(add=add, drop=drop)
    if asked != Asked() and not rolls:
        raise click.UsageError("--note and --waive are for publishing: add --rollout.")
    with Watcher() as watch:
        if rolls:
            _show_plan(site, name, flavour, patches)
        trees = set_of_ring(site, name, None) if rolls else None
        done = kernel_once(
            site, name, flavour, patches=patches, now=now(), watch=watch, trees=trees
        )
        warn_if_stale(site)
        if as_json and not rolls:
            show_json(done)
        elif not as_json:
            what = "is new" if done.new else "is unchanged"
            say(
                f"{done.revision.package} {what}: {done.revision.release}, built "
                f"{counted(len(done.build.built), 'package')}."
            )
        if not rolls:
            return ExitCode.OK
        published = publish_once(site, name, None, now=now(), asked=asked, watch=watch)
        return go_on(site, published, rolls=True, as_json=as_json, watch=watch)


def _show_plan(site: Site, class_name: str, flavour: str, patches: Patches) -> None:
    what = [f"add {path.name} to" for path in patches.add]
    what += [f"drop {name} from" for name in patches.drop]
    tried = f"{', '.join(what)} the flavour {flavour}; " if what else ""
    steps = [
        f"{tried}patch and configure the source of {flavour}",
        f"build {kernel_package(flavour)} if that is new, and what else the class lacks",
    ]
    ring = site.ring(class_name, None)
    eta = forecast(site, class_name, kernel_package(flavour), ring, rolls=True)
    show_plan(site, class_name, ring, steps, eta, rolls=True)


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
