"""`headnode rollout`."""

from __future__ import annotations

import click

from blades.inventory import Blade, select
from config.model import Rollout
from headnode.commands.context import Settings, json_option, now
from headnode.console import note, say, show_json, table, warn
from headnode.errors import ExitCode
from schedules.ledger.ledger import Ledger
from schedules.ledger.recorder import Recorder
from schedules.rollout import BladeReport, rollout_once


@click.group()
def rollout() -> None:
    """Bring blades to what their ring has.

    Example: headnode rollout run --nodes blade[01-04]
    """


@rollout.command()
@click.option("--nodes", help="Node set, as in blade[01-04,07]  [default: all blades]")
@json_option
@click.pass_obj
def run(settings: Settings, nodes: str | None, as_json: bool) -> int:
    """Have blades pull, many at once, and say how each fared.

    Example: headnode rollout run --nodes blade[01-04]
    """
    site = settings.site()
    blades = select(site.cluster, nodes)

    with Ledger.of(site) as ledger:
        reports = recorded(ledger, blades, site.cluster.rollout)
    if as_json:
        show_json(reports)
    else:
        show_reports(reports)
    return exit_code(reports)


def recorded(ledger: Ledger, blades: list[Blade], options: Rollout) -> list[BladeReport]:
    """Have blades pull, with a line and a row of the ledger for each."""
    seen = set()
    with Recorder(ledger) as recorder:

        def show(report: BladeReport) -> None:
            seen.add(report.blade)
            note(f"{report.blade}: {report.result} in {report.seconds:.1f} s")
            recorder.pulled(report, now())

        reports = rollout_once(blades, options, show)
        for report in reports:
            if report.blade not in seen:  # nothing was ever heard of it
                recorder.pulled(report, now())
    if recorder.lost:
        warn(f"{recorder.lost} reports are not in the ledger. {recorder.error}")
    return reports


def show_reports(reports: list[BladeReport]) -> None:
    """Print one line a blade, and below them why any failed."""
    table(
        ("blade", "ring", "generation", "packages", "changed", "result", "seconds"),
        (
            (
                each.blade,
                each.ring,
                each.generation or "-",
                each.packages or "-",
                sum(change.startswith("+") for change in each.changes),
                each.result,
                f"{each.seconds:.1f}",
            )
            for each in reports
        ),
    )
    for each in reports:
        if not each.good:
            say(f"{each.blade}: {each.error}")


def exit_code(reports: list[BladeReport]) -> ExitCode:
    """0 if every blade is good, 3 if some are, 1 if none is. Pure."""
    good = sum(report.good for report in reports)
    if good == len(reports):
        return ExitCode.OK
    return ExitCode.PARTLY if good else ExitCode.FAILED
