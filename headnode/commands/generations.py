"""`headnode generations`."""

from __future__ import annotations

import click

from headnode.commands.context import Settings, chosen_class, class_option, json_option
from headnode.console import show_json, table


@click.group()
def generations() -> None:
    """Look at what was published.

    Example: headnode generations list
    """


@generations.command("list")
@class_option
@json_option
@click.pass_obj
def list_(settings: Settings, class_name: str | None, as_json: bool) -> None:
    """List the generations, and which ring has which.

    Example: headnode generations list --json
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    binhost = site.binhost(name)
    rings: dict[int, list[str]] = {}
    for ring in site.klass(name).rings:
        current = binhost.ring(ring).current()
        if current:
            rings.setdefault(current.generation, []).append(ring)
    known = [binhost.generations.read(number) for number in binhost.generations.numbers()]
    if as_json:
        show_json(
            [
                {**each.model_dump(mode="json"), "rings": rings.get(each.number, [])}
                for each in known
            ]
        )
        return
    table(
        ("generation", "made", "packages", "rings", "note"),
        (
            (
                each.number,
                f"{each.made:%Y-%m-%d %H:%M} UTC",
                len(each.packages),
                ", ".join(rings.get(each.number, [])) or "-",
                each.why,
            )
            for each in known
        ),
    )
