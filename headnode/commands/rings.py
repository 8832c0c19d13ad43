"""`headnode publish` and `headnode promote`: what a ring has in front of it."""

from __future__ import annotations

import click

from binhost.publish import Published
from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    now,
    warn_if_stale,
)
from headnode.console import say, show_json
from schedules.cycle import promote_once, publish_once


@click.command()
@class_option
@click.option("--ring", help="Ring to put it in front of  [default: the first]")
@click.option("--note", "why", default="", help="Why, for the generation's record.")
@json_option
@click.pass_obj
def publish(
    settings: Settings, class_name: str | None, ring: str | None, why: str, as_json: bool
) -> None:
    """Make a generation of what was built, and put it in front of a ring.

    Example: headnode publish --ring canary --note "openssl security fix"
    """
    site = settings.site()
    done = publish_once(site, chosen_class(site, class_name), ring, why=why, now=now())
    warn_if_stale(site)
    _show(done, as_json)


@click.command()
@click.argument("generation", type=int, required=False)
@click.option("--ring", required=True, help="Ring to put it in front of.")
@class_option
@json_option
@click.pass_obj
def promote(
    settings: Settings, generation: int | None, ring: str, class_name: str | None, as_json: bool
) -> None:
    """Put a generation (the newest, if none is named) in front of a ring.

    Example: headnode promote 12 --ring fleet
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    _show(promote_once(site, name, ring, generation, now=now()), as_json)


def _show(done: Published, as_json: bool) -> None:
    if as_json:
        show_json(done)
        return
    generation, deployment = done.generation, done.deployment
    if not done.moved:
        say(f"Ring {deployment.ring} has generation {generation.number} already.")
        return
    new = f", {len(done.new_packages)} of them new" if done.new_packages else ""
    say(
        f"Ring {deployment.ring} has generation {generation.number} now: "
        f"{len(generation.packages)} packages{new} (deployment {deployment.sequence})."
    )
