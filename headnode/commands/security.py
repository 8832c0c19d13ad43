"""`headnode security`."""

from __future__ import annotations

import click
from ClusterShell.NodeSet import NodeSet

from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    warn_if_stale,
)
from headnode.console import Watcher, say, show_json, table, warn
from headnode.errors import ExitCode
from schedules.security import Known, mark_read, read_names, security_once, unread
from schedules.upkeep import reported


@click.command()
@click.argument("generations", metavar="[GENERATION]...", nargs=-1)
@click.option("--read", "reads", is_flag=True, help="Have the news and messages count as read.")
@class_option
@json_option
@click.pass_obj
def security(
    settings: Settings,
    generations: tuple[str, ...],
    reads: bool,
    class_name: str | None,
    as_json: bool,
) -> int:
    """Show security advisories of what blades have, unread news, and what ebuilds said.

    Of what rings and blades have and of the newest generation, unless others are named. Exit code 1
    if an advisory affects one of them.

    Example: headnode security
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    with Watcher() as watch:
        looked = security_once(site, name, generations, blades=reported(site, name), watch=watch)
    known = unread(looked, read_names(site.state))
    if as_json:
        show_json(known)
    else:
        _show(known)
    if reads:
        mark_read(site.state, known)
    warn_if_stale(site)
    return ExitCode.FAILED if known.exposures or known.unreadable else ExitCode.OK


COLUMNS = (
    *("advisory", "severity", "package", "generation", "rings", "blades"),
    *("fixed in", "title"),
)


def _show(known: Known) -> None:
    for each in known.unreadable:
        warn(f"GLSA-{each.name} cannot be read, so nobody knows what it affects: {each.why}")
    if known.exposures:
        table(
            COLUMNS,
            (
                (
                    f"GLSA-{each.advisory.name}",
                    each.advisory.severity,
                    ", ".join(each.advisory.affected),
                    ", ".join(map(str, each.generations)),
                    ", ".join(each.rings) or "-",
                    str(NodeSet.fromlist(list(each.blades))) or "-",
                    ", ".join(each.advisory.fixed) or "nothing yet",
                    each.advisory.title,
                )
                for each in known.exposures
            ),
        )
    else:
        say("No advisory affects what blades have.")
    for item in known.news:
        say(f"\nNews of {item.posted}: {item.title}\n\n{item.text}")
    for message in known.messages:
        say(f"\n{message.package} said when it was built:\n\n{message.text}")
    if known.news or known.messages:
        say("\nheadnode security --read has these count as read.")
