"""`headnode rollout`."""

from __future__ import annotations

import time

import click

from headnode.commands.context import Settings, exit_code_of, json_option, nodes_option, now
from headnode.commands.reboot import reboot
from headnode.console import Watcher, note, say, show_json, table, warn
from headnode.errors import ConfigError, ExitCode, LedgerError
from schedules import progress, reboot_progress, reboots
from schedules.ledger.ledger import Ledger
from schedules.ledger.recorder import Recorder
from schedules.missed import catch_up_once
from schedules.progress import Progress
from schedules.reboot import pending_lines
from schedules.reboot_progress import RebootProgress
from schedules.rollout import BladeReport, Result
from schedules.rollouts import plan_once, roll_out_once
from schedules.site import Site


@click.group()
def rollout() -> None:
    """Bring blades to what their ring has, ring by ring and in waves.

    Example: headnode rollout run --nodes blade[01-04]
    """


rollout.add_command(reboot)


@rollout.command()
@nodes_option
@json_option
@click.pass_obj
def plan(settings: Settings, nodes: str | None, as_json: bool) -> None:
    """Show what a rollout would do, step by step, and which blades have a reboot pending.

    Example: headnode rollout plan
    """
    site = settings.site()
    found = plan_once(site, nodes)
    try:
        pending = reboots.plan_once(site, nodes, None, 1).pending
    except LedgerError as error:
        warn(f"Which blades have a reboot pending cannot be told. {error}")
        pending = ()
    if as_json:
        show_json({"plan": found, "reboot_pending": [each.as_json() for each in pending]})
        return
    for line in (*found.lines(), *pending_lines(pending)):
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
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show the rollout that runs, or the last one, and the same of `rollout reboot`.

    Example: headnode rollout status
    """
    state = settings.site().state
    known, restarts = progress.load(state), reboot_progress.load(state)
    running = progress.is_running(state)
    restarting = progress.is_running(state, progress.REBOOT)
    if as_json:
        shown = {"running": running, "rollout": known}
        show_json({**shown, "reboot_running": restarting, "reboot": restarts})
        return
    if known is None:
        say("There was no rollout yet.")
    else:
        show_rollout(known, running=running)
    if restarts is not None:
        say("")
        show_restarts(restarts, running=restarting)


def show_rollout(known: Progress, *, running: bool) -> None:
    """Print what a rollout is at, a line a blade."""
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


def show_restarts(known: RebootProgress, *, running: bool) -> None:
    """Print what restarts are at, a line a blade."""
    for line in reboot_progress.lines(known, running=running):
        say(line)
    table(
        ("blade", "ring", "kernel", "kernel due", "result"),
        (
            (
                *(name, each.ring, each.kernel or "-", each.kernel_due or "-"),
                each.fate or (each.does if running else "cut off" if each.does else "") or "-",
            )
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
    return exit_code_of([each.good for each in reports if each.result is not Result.DRAINED])
