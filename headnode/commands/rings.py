"""`headnode publish` and `headnode promote`: what a ring has in front of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from binhost.pool import package_names
from binhost.publish import Published
from headnode import quick
from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    now,
    number_of,
    warn_if_stale,
)
from headnode.console import Watcher, say, show_json, warn
from headnode.wording import counted
from mirror.status import path_of, warnings
from schedules.moving import Asked, promote_once, publish_once, rollback_once
from schedules.site import Site

Command = TypeVar("Command", bound=Callable[..., Any])


def asked_options(command: Command) -> Command:
    """Give a command `--waive` and `--note`, as one argument `asked`."""

    @click.option("--note", default="", help="Why, for the record.")
    @click.option(
        "--waive",
        multiple=True,
        metavar="GATE",
        help="Let it pass although this gate says no; needs --note. May be given again.",
    )
    @functools.wraps(command)
    def with_asked(*args: Any, note: str, waive: tuple[str, ...], **options: Any) -> Any:
        return command(*args, asked=Asked(note=note, waive=frozenset(waive)), **options)

    return cast(Command, with_asked)


@click.command()
@class_option
@click.option("--ring", help="Ring to put it in front of  [default: the first]")
@asked_options
@json_option
@click.pass_obj
def publish(
    settings: Settings,
    class_name: str | None,
    ring: str | None,
    asked: Asked,
    as_json: bool,
) -> None:
    """Make a generation of what was built, and put it in front of a ring.

    Example: headnode publish --ring canary --note "openssl security fix"
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    before = _looked_at(site, settings.path, name, site.ring(name, ring))
    with Watcher() as watch:
        done = publish_once(site, name, ring, now=now(), asked=asked, watch=watch)
    warn_if_stale(site)
    show(done, as_json)
    if (class_name, ring) == (None, None):
        _keep_note(site, settings.path, name, done, before)


def _looked_at(site: Site, config: Path, class_name: str, ring: str) -> dict[str, Any]:
    """How everything is that decides what a publish has to do."""
    binhost = site.binhost(class_name)
    current = binhost.ring(ring).folder / "current"
    return quick.look(
        given=[
            *(config, binhost.build_folder / "result.json", site.keys.folder / "trusted"),
            *(path_of(site.state, name) for name in site.cluster.mirror.repos),
        ],
        made=[
            *(current / "deployment.json", current / "Packages"),
            *(binhost.generations.folder, binhost.staging),
        ],
    )


def _keep_note(
    site: Site, config: Path, class_name: str, done: Published, before: dict[str, Any]
) -> None:
    """Let the next `headnode publish` know that nothing is new, if it could say no more."""
    binhost, mirror = site.binhost(class_name), site.cluster.mirror
    ring = binhost.ring(done.deployment.ring)
    after = _looked_at(site, config, class_name, ring.name)
    until = after["at"] + quick.GOOD_FOR_S
    later = datetime.fromtimestamp(until, UTC)
    if after["given"] != before["given"]:
        return
    if not package_names(binhost.staging).isdisjoint(done.generation.packages):
        return
    # Deployments and generations only grow: these were the newest also when `after` was looked at.
    if ring.current() != done.deployment or binhost.generations.numbers()[-1:] != [
        done.generation.number
    ]:
        return
    if warnings(site.state, mirror.repos, mirror.stale_h, later):
        return
    if site.signs:
        until = min(until, (done.deployment.expires - binhost.valid / 2).timestamp())
    quick.keep(
        site.state,
        after,
        config=str(config.absolute()),
        lock=str(binhost.lock),
        reserve_bytes=site.cluster.state.reserve_mib << 20,
        said=_already(done),
        space=str(site.state),
        until=until,
    )


def _already(done: Published) -> str:
    ring, number = done.deployment.ring, done.generation.number
    if done.left is not None:
        return (
            f"Ring {ring} went back from generation {done.left} to {number}, and nothing else was "
            f"built. headnode promote {done.left} --ring {ring} gives it that one again."
        )
    return f"Ring {ring} has generation {number} already."


@click.command()
@click.argument("generation", required=False)
@click.option("--ring", required=True, help="Ring to put it in front of.")
@click.option(
    "--above",
    default=0,
    metavar="NUMBER",
    help="Number the deployment above this one, which blades have seen from a headnode that was "
    "lost since.",
)
@class_option
@asked_options
@json_option
@click.pass_obj
def promote(
    settings: Settings,
    generation: str | None,
    ring: str,
    above: int,
    class_name: str | None,
    asked: Asked,
    as_json: bool,
) -> None:
    """Put a generation (number or tag; the newest, if none is named) in front of a ring.

    Example: headnode promote 12 --ring fleet
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    number = number_of(site, name, generation)
    with Watcher() as watch:
        asked = replace(asked, above=above)
        done = promote_once(site, name, ring, number, now=now(), asked=asked, watch=watch)
    show(done, as_json)


@click.command()
@click.option("--ring", required=True, help="Ring that goes back.")
@click.option(
    "--to", "generation", help="Generation, number or tag  [default: the one it had before]"
)
@class_option
@asked_options
@json_option
@click.pass_obj
def rollback(
    settings: Settings,
    generation: str | None,
    ring: str,
    class_name: str | None,
    asked: Asked,
    as_json: bool,
) -> None:
    """Put the generation that a ring had before in front of it again.

    Its blades go back to it when they pull next: older versions, and without what it lacks.

    Example: headnode rollback --ring fleet --note "openssl breaks slurm"
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    number = number_of(site, name, generation)
    with Watcher() as watch:
        done = rollback_once(site, name, ring, number, now=now(), asked=asked, watch=watch)
    show(done, as_json)


def show(done: Published, as_json: bool) -> None:
    """Print what a publish came to, after what must not be missed."""
    if as_json:
        show_json(done)
        return
    generation, deployment = done.generation, done.deployment
    if not done.moved:
        say(_already(done))
        return
    reports = deployment.gates or generation.gates
    for each in reports:
        if each.warns:
            warn(each.report)
        if each.waived:
            warn(f"The gate {each.gate} was waived: {each.waived}")
    new = f", {len(done.new_packages)} of them new" if done.new_packages else ""
    passed = f"{counted(sum(each.passed for each in reports), 'gate')} passed. " if reports else ""
    say(
        f"{passed}Ring {deployment.ring} has generation {generation.number} now: "
        f"{counted(len(generation.packages), 'package')}{new} (deployment {deployment.sequence})."
    )
