"""`headnode rollout reboot`."""

from __future__ import annotations

import click

from headnode.commands.context import Settings, exit_code_of, json_option, nodes_option, now
from headnode.console import Watcher, note, say, show_json, table, warn
from headnode.errors import ExitCode, LedgerError
from schedules import reboots
from schedules.ledger.ledger import Ledger
from schedules.reboot import Fate, RebootReport


@click.command()
@nodes_option
@click.option("--ring", help="Blades of this ring alone.")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Blades that restart at the same time.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be done, and do nothing.")
@json_option
@click.pass_obj
def reboot(
    settings: Settings,
    nodes: str | None,
    ring: str | None,
    at_once: int,
    only_plan: bool,
    as_json: bool,
) -> int:
    """Bring pending kernels into use: drain, restart, look, undrain, some blades at a time.

    Blades that were drained before are left alone. The first failure stops it; who failed stays
    drained. Run again, it goes on with what was cut off.

    Example: headnode rollout reboot --ring fleet --at-once 4
    """
    site = settings.site()
    if only_plan:
        for line in reboots.plan_once(site, nodes, ring, at_once).lines():
            say(line)
        return ExitCode.OK
    with Watcher() as watch, Ledger.of(site) as ledger:

        def write_down(report: RebootReport) -> None:
            note(f"{report.blade}: {report.fate} after {report.seconds:.0f} s")
            try:
                ledger.booted(report.blade, report.kernel, report.kernel_due, report.error, now())
            except LedgerError as error:
                warn(f"The restart of {report.blade} is not in the ledger. {error}")

        reports = reboots.reboot_once(
            site, nodes, ring, at_once=at_once, watch=watch, on_report=write_down
        )
    if as_json:
        show_json(reports)
    else:
        show_reboots(reports)
    return reboot_exit_code(reports)


def show_reboots(reports: list[RebootReport]) -> None:
    """Print one line a blade, and below them why any failed."""
    if not reports:
        say("No blade has a reboot pending.")
        return
    table(
        ("blade", "ring", "kernel", "kernel due", "result", "seconds"),
        (
            (
                *(each.blade, each.ring, each.kernel or "-", each.kernel_due or "-"),
                *(each.fate, f"{each.seconds:.0f}"),
            )
            for each in reports
        ),
    )
    for each in reports:
        if each.error:
            say(f"{each.blade}: {each.error}")


def reboot_exit_code(reports: list[RebootReport]) -> ExitCode:
    """0 if every blade runs what it is due, 3 if some do, 1 if none does. Pure."""
    return exit_code_of([each.good for each in reports if each.fate is not Fate.DRAINED])
