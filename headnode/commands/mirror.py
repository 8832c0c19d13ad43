"""`headnode mirror`."""

from __future__ import annotations

from pathlib import Path

import click

from headnode.commands.context import Settings, json_option, now
from headnode.console import Watcher, say, show_json
from headnode.errors import ExitCode
from mirror.audit import Audit
from mirror.distfiles import REMEDY, in_words
from schedules.cycle import sync_once
from schedules.distfiles import add_once, verify_once


@click.group()
def mirror() -> None:
    """Copy the trees and the distfiles from upstream, once for all blades.

    Example: headnode mirror sync
    """


@mirror.command()
@json_option
@click.pass_obj
def sync(settings: Settings, as_json: bool) -> None:
    """Sync the trees, and fetch the distfiles that the sets need.

    Example: headnode mirror sync
    """
    with Watcher() as watch:
        done = sync_once(settings.site(), now=now(), watch=watch)
    if as_json:
        show_json(done)
        return
    trees = f"new: {', '.join(done.changed)}" if done.changed else "unchanged"
    say(
        f"Trees {trees} (snapshot set {done.snapshots}). "
        f"Distfiles: {len(done.fetched)} fetched, {done.present} there already."
    )
    if done.by_hand:
        say(
            f"To be fetched by hand (RESTRICT=fetch): {', '.join(done.by_hand)}. Get each as its "
            "ebuild says, then: headnode mirror add FILE"
        )
    if done.recycled:
        say(f"No longer served, since no tree in use names them: {', '.join(done.recycled)}")
    if done.not_mirrored:
        say(f"{len(done.not_mirrored)} files of the trees can be had nowhere; --json has them.")


@mirror.command()
@json_option
@click.pass_obj
def verify(settings: Settings, as_json: bool) -> ExitCode:
    """Read every distfile again, compare it with the Manifests, and fetch damaged ones anew.

    Example: headnode mirror verify
    """
    with Watcher() as watch:
        done = verify_once(settings.site(), now=now(), watch=watch)
    if as_json:
        show_json(done)
    else:
        show_audit(done)
    return ExitCode.FAILED if done.failed else ExitCode.OK


def show_audit(done: Audit) -> None:
    """Print what was found damaged, what came of it, and what no Manifest explains."""
    for name, why in done.damaged.items():
        what = "not served until it is fetched anew" if name in done.failed else "fetched anew"
        say(f"{name}: damaged ({why}), {what}")
    for name in done.older:
        what = "could not be fetched" if name in done.failed else "fetched"
        say(f"{name}: as only an older tree wants it, the newer one {what}")
    if done.unnamed:
        say(f"No Manifest of a tree in use names: {', '.join(done.unnamed)}")
    say(
        f"{done.files} distfiles read, {done.size_bytes / 1e6:.1f} MB: "
        f"{len(done.damaged) + len(done.older)} wrong, {len(done.repaired)} repaired."
    )
    if done.failed:
        say(f"Not repaired:{in_words(done.failed)}\n{REMEDY}")


@mirror.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def add(settings: Settings, files: tuple[Path, ...]) -> None:
    """Put distfiles that you fetched yourself (RESTRICT=fetch) in place, once they are checked.

    Example: headnode mirror add ~/Downloads/firmware-1.2.bin
    """
    for name in add_once(settings.site(), files):
        say(f"{name} is in place.")
