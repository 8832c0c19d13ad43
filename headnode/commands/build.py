"""`headnode build`."""

from __future__ import annotations

import click

from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    warn_if_stale,
)
from headnode.console import Watcher, say, show_json, warn
from headnode.wording import counted
from schedules.cycle import build_once


@click.command()
@class_option
@click.option("--fresh", is_flag=True, help="Start from an empty builder, refilled from the pool.")
@json_option
@click.pass_obj
def build(settings: Settings, class_name: str | None, fresh: bool, as_json: bool) -> None:
    """Build what the class's packages need and the pool lacks.

    Example: headnode build
    """
    site = settings.site()
    with Watcher() as watch:
        result = build_once(site, chosen_class(site, class_name), fresh=fresh, watch=watch)
    warn_if_stale(site)
    for warning in result.distributed.warnings() if result.distributed else ():
        warn(warning)
    if as_json:
        show_json(result)
        return
    built, whole = (counted(len(each), "package") for each in (result.built, result.packages))
    done = f"{built} in {result.seconds:g} s" if result.built else "nothing"
    say(f"Built {done}; the set comes to {whole}, all of them binary.")
