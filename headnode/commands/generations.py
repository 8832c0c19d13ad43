"""`headnode generations`: what was published, and names for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from binhost.index import field
from binhost.publish import Binhost
from binhost.records import Generation
from binhost.tags import names_of, read_tags, with_tag, without_tag, write_tags
from headnode.commands.context import Settings, chosen_class, class_option, json_option
from headnode.commands.difference import diff
from headnode.commands.upkeep import gc, verify
from headnode.console import say, show_json, table
from headnode.files import locked
from schedules.upkeep import stamps_of


@click.group()
def generations() -> None:
    """Look at what was published, and look after it.

    Example: headnode generations list
    """


for command in (diff, verify, gc):
    generations.add_command(command)


@generations.command("list")
@class_option
@json_option
@click.pass_obj
def list_(settings: Settings, class_name: str | None, as_json: bool) -> None:
    """List the generations, and which ring has which.

    Example: headnode generations list --json
    """
    site = settings.site()
    binhost = site.binhost(chosen_class(site, class_name))
    rings, tags = _ring_names(binhost), read_tags(binhost.folder)
    known = [binhost.generations.read(number) for number in binhost.generations.numbers()]
    if as_json:
        show_json(
            [
                {
                    **each.model_dump(mode="json"),
                    "rings": rings.get(each.number, []),
                    "tags": names_of(tags, each.number),
                }
                for each in known
            ]
        )
        return
    table(
        ("generation", "made", "packages", "rings", "tags", "note"),
        (
            (
                each.number,
                f"{each.made:%Y-%m-%d %H:%M} UTC",
                len(each.packages),
                _listed(rings.get(each.number, [])),
                _listed(names_of(tags, each.number)),
                each.why,
            )
            for each in known
        ),
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "-"


def _ring_names(binhost: Binhost) -> dict[int, list[str]]:
    """The rings that have each generation."""
    found: dict[int, list[str]] = {}
    for ring in binhost.rings():
        if current := ring.current():
            found.setdefault(current.generation, []).append(ring.name)
    return found


@generations.command()
@click.argument("generation")
@click.option("--packages", is_flag=True, help="List its packages as well.")
@class_option
@json_option
@click.pass_obj
def show(
    settings: Settings, generation: str, packages: bool, class_name: str | None, as_json: bool
) -> None:
    """Show everything about one generation, by its number or tag.

    Example: headnode generations show 12 --packages
    """
    site = settings.site()
    binhost = site.binhost(chosen_class(site, class_name))
    found = binhost.generations.find(generation)
    entries = binhost.generations.entries(found)
    facts = {
        "tags": names_of(read_tags(binhost.folder), found.number),
        "rings": _ring_names(binhost).get(found.number, []),
        "trees": dict(stamps_of(site, found)),
        "size_bytes": sum(int(field(entry, "SIZE") or 0) for entry in entries.values()),
    }
    if as_json:
        show_json({**found.model_dump(mode="json"), **facts})
        return
    _show(found, facts)
    if packages:
        table(
            ("package", "slot", "bytes", "file"),
            (
                (field(entry, "CPV"), field(entry, "SLOT") or "0", field(entry, "SIZE"), name)
                for name, entry in entries.items()
            ),
        )


def _show(found: Generation, facts: Mapping[str, Any]) -> None:
    trees = (f"{repo} {stamp}" for repo, stamp in facts["trees"].items())
    lines = {
        "generation": f"{found.number} of class {found.class_name}",
        "made": f"{found.made:%Y-%m-%d %H:%M} UTC",
        "note": found.why or "-",
        "after": "nothing" if found.parent is None else f"generation {found.parent}",
        "tags": _listed(facts["tags"]),
        "rings": _listed(facts["rings"]),
        "snapshot set": f"{found.snapshots} ({', '.join(trees) or 'no longer mirrored'})",
        "packages": f"{len(found.packages)}, {facts['size_bytes']} bytes",
        "@blade": " ".join(found.atoms),
    }
    for name, text in lines.items():
        say(f"{name + ':':14}{text}")
    if found.gates:
        table(
            ("gate", "result", "report"),
            (
                (
                    each.gate,
                    "passed" if each.passed else f"waived: {each.waived}",
                    each.report,
                )
                for each in found.gates
            ),
        )


@generations.command()
@click.argument("generation", required=False)
@click.argument("name", required=False)
@click.option("--delete", metavar="NAME", help="Take this tag away.")
@class_option
@json_option
@click.pass_obj
def tag(
    settings: Settings,
    generation: str | None,
    name: str | None,
    delete: str | None,
    class_name: str | None,
    as_json: bool,
) -> None:
    """Give a generation a name that protects it from gc; without arguments, list the names.

    A name stands for its generation in every command.

    Example: headnode generations tag 12 before-glibc
    """
    if (generation is None) != (name is None) or (delete and generation):
        raise click.UsageError("Give a generation and a name, or --delete and a name, or nothing.")
    site = settings.site()
    binhost = site.binhost(chosen_class(site, class_name))
    if generation and name:
        with locked(binhost.lock, "headnode generations tag"):
            number = binhost.generations.find(generation).number
            write_tags(binhost.folder, with_tag(read_tags(binhost.folder), name, number))
    elif delete:
        with locked(binhost.lock, "headnode generations tag"):
            write_tags(binhost.folder, without_tag(read_tags(binhost.folder), delete))
    tags = read_tags(binhost.folder)
    if as_json:
        show_json(tags)
    else:
        table(("tag", "generation"), tags.items())
