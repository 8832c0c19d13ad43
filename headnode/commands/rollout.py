"""`headnode rollout`."""

from __future__ import annotations

import time

import click

from headnode.commands.context import Settings, json_option, now
from headnode.console import Watcher, note, say, show_json, table, warn
from headnode.errors import ConfigError, ExitCode, LedgerError
from schedules import progress, reboots
from schedules.ledger.ledger import Ledger
from schedules.ledger.recorder import Recorder
from schedules.missed import catch_up_once
from schedules.progress import Progress
from schedules.reboot import Fate, RebootReport
from schedules.rollout import BladeReport, Result
from schedules.rollouts import plan_once, roll_out_once
from schedules.site import Site

nodes_option = click.option(
    "--nodes", help="Node set, as in blade[01-04,07]  [default: all blades]"
)


@click.group()
def rollout() -> None:
    """Bring blades to what their ring has, ring by ring and in waves.

    Example: headnode rollout run --nodes blade[01-04]
    """


@rollout.command()
@nodes_option
@click.pass_obj
def plan(settings: Settings, nodes: str | None) -> None:
    """Show what a rollout would do, step by step.

    Example: headnode rollout plan
    """
    for line in plan_once(settings.site(), nodes).lines():
        say(line)


@rollout.command()
@nodes_option
@click.option("--wait", is_flag=True, help="Wait for a rollout that runs, instead of refusing.")
@click.option("--missed", is_flag=True, help="Only blades that were off, and answer now.")
@json_option
@click.pass_obj
def run(settings: Settings, nodes: str | None, wait: bool, missed: bool, as_json: bool) -> int:
    """Have blades pull, wave by wave, and stop where too many fail.

    Without --nodes, a ring that came through hands its generation on to the next one.

    Example: headnode rollout run --nodes blade[01-04]
    """
    if missed:
        return run_missed(settings.site(), nodes, as_json=as_json)
    with Watcher() as watch:
        done, reports = recorded(settings.site(), nodes, watch=watch, wait=wait)
    if as_json:
        show_json(reports)
    else:
        show_reports(reports)
        if done.why:
            how = "" if done.phase is progress.Phase.DONE else f" {done.phase}"
            say(f"The rollout{how}: {done.why}")
    return exit_code(reports)


def run_missed(site: Site, nodes: str | None, *, as_json: bool) -> int:
    """Have blades catch up that were off when they were to pull, as `headnode serve` does.

    Raises:
        ConfigError: blades are named, too.
    """
    if nodes is not None:
        raise ConfigError("--missed finds the blades itself.", remedy="Leave out --nodes.")
    with Watcher() as watch, Ledger.of(site) as ledger:
        reports = catch_up_once(site, ledger, watch=watch, clock=now, sleep=time.sleep)
    if as_json:
        show_json(reports)
    elif reports:
        show_reports(reports)
    else:
        say("No blade that missed a rollout answers now.")
    return exit_code(reports)


@rollout.command()
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
    return _code([each.good for each in reports if each.fate is not Fate.DRAINED])


@rollout.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show the rollout that runs, or the last one.

    Example: headnode rollout status
    """
    state = settings.site().state
    known = progress.load(state)
    running = progress.is_running(state)
    if as_json:
        show_json({"running": running, "rollout": known})
        return
    if known is None:
        say("There was no rollout yet.")
        return
    for line in status_lines(known, running=running):
        say(line)
    table(
        ("blade", "ring", "wave", "generation", "result"),
        (
            (name, each.ring, each.wave, each.generation or "-", each.result or "-")
            for name, each in known.blades.items()
        ),
    )
    for name, each in known.blades.items():
        if each.error:
            say(f"{name}: {each.error}")


def status_lines(known: Progress, *, running: bool) -> list[str]:
    """What a rollout is at, in words. Pure."""
    phase = str(known.phase)
    if known.phase in (progress.Phase.RUNNING, progress.Phase.GOING_BACK) and not running:
        phase = "was killed; headnode rollout run goes on with it"
    done = sum(bool(each.result) for each in known.blades.values())
    over = known.nodes or "all blades"
    lines = [
        f"Rollout of {known.started:%Y-%m-%d %H:%M} UTC over {over}: {phase}.",
        f"{done} of {len(known.blades)} blades are through.",
    ]
    return [*lines, known.why] if known.why else lines


def recorded(
    site: Site, nodes: str | None, *, watch: Watcher, wait: bool = False
) -> tuple[Progress, list[BladeReport]]:
    """Carry out a rollout, with a line and a row of the ledger for each pull."""
    with Ledger.of(site) as ledger, Recorder(ledger) as recorder:

        def show(report: BladeReport) -> None:
            note(f"{report.blade}: {report.result} in {report.seconds:.1f} s")
            recorder.pulled(report, now())

        done, reports = roll_out_once(site, nodes, watch=watch, on_report=show, wait=wait)
    if recorder.lost:
        warn(f"{recorder.lost} reports are not in the ledger. {recorder.error}")
    return done, reports


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
        if each.error:
            say(f"{each.blade}: {each.error}")
        for line in (*each.warnings, *each.drift):
            say(f"{each.blade}: {line}")


def exit_code(reports: list[BladeReport]) -> ExitCode:
    """0 if every blade is good, 3 if some are, 1 if none is; drained ones do not count. Pure."""
    return _code([each.good for each in reports if each.result is not Result.DRAINED])


def _code(good: list[bool]) -> ExitCode:
    if all(good):
        return ExitCode.OK
    return ExitCode.PARTLY if any(good) else ExitCode.FAILED
