"""`headnode mirror`."""

from __future__ import annotations

import click

from headnode.commands.context import Settings, json_option, now
from headnode.console import Watcher, say, show_json
from schedules.cycle import sync_once


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
        say(f"To be fetched by hand (RESTRICT=fetch): {', '.join(done.by_hand)}")
