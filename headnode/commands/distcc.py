"""`headnode distcc`."""

from __future__ import annotations

import sys

import click

from distcc.crew import Crew
from distcc.hosts import helper_names, hosts_line
from headnode.commands.context import (
    Settings,
    chosen_class,
    class_option,
    json_option,
    now,
    warn_if_stale,
)
from headnode.console import Watcher, say, show_json, table
from headnode.errors import ExitCode
from headnode.wording import counted
from schedules.probe import Helping, look, probe_once


@click.group()
def distcc() -> None:
    """Look at who helps to compile.

    Example: headnode distcc probe
    """


@distcc.command()
@click.pass_obj
def hosts(settings: Settings) -> None:
    """Print the helpers as distcc's DISTCC_HOSTS.

    Example: headnode distcc hosts
    """
    options = settings.site().cluster.distcc
    say(hosts_line(options, helper_names(options), options.mode))


@distcc.command()
@class_option
@json_option
@click.pass_obj
def probe(settings: Settings, class_name: str | None, as_json: bool) -> None:
    """Ask every helper to compile as the builder does, and say which of them could help.

    Ends with 3 where some are left out, and with 1 where all are.

    Example: headnode distcc probe
    """
    site = settings.site()
    with Watcher() as watch:
        crew = probe_once(site, chosen_class(site, class_name), watch=watch)
    warn_if_stale(site)
    if as_json:
        show_json({"helpers": crew.found, "make_options": crew.make_options, "pump": crew.pump})
    else:
        _show(crew)
    sys.exit(_exit_code(crew))


def _show(crew: Crew) -> None:
    rows = [
        (each.helper, "helps" if each.fits else f"left out: {each.reason}", f"{each.seconds:.1f} s")
        for each in crew.found
    ]
    table(("helper", "result", "took"), rows)
    if crew.helpers:
        say(f"A build would start make with {crew.make_options}.")
    if crew.pump:
        say(f"pump mode does not work: {crew.pump}.")


def _exit_code(crew: Crew) -> ExitCode:
    if not crew.left_out:
        return ExitCode.OK
    return ExitCode.PARTLY if crew.helpers else ExitCode.FAILED


@distcc.command()
@class_option
@json_option
@click.pass_obj
def status(settings: Settings, class_name: str | None, as_json: bool) -> None:
    """Show who compiles what just now, and who has compiled how much in the last build.

    Example: headnode distcc status
    """
    site = settings.site()
    helping = look(site, chosen_class(site, class_name), now=now())
    if as_json:
        show_json(helping)
    else:
        _show_status(helping)


def _show_status(helping: Helping) -> None:
    if helping.tasks:
        rows = ((each.host or "-", each.slot, each.phase, each.file) for each in helping.tasks)
        table(("host", "slot", "phase", "file"), rows)
    else:
        say("Nothing is being compiled.")
    done = helping.done
    if done.total:
        names = sorted({*done.jobs, *done.failures})
        table(
            ("helper", "objects", "failed"),
            ((name, done.jobs.get(name, 0), done.failures.get(name, 0)) for name in names),
        )
        say(
            f"The headnode: {counted(done.local, 'object')}, and {done.fallbacks} that a helper "
            "failed."
        )
    for name, reason in (helping.last.left_out if helping.last else {}).items():
        say(f"{name} was left out of the last build: {reason}.")
