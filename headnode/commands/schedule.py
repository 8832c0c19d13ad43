"""`headnode schedule`."""

from __future__ import annotations

import signal
from datetime import datetime
from types import FrameType

import click

from config.model import JOBS
from headnode.commands.bladestates import shown
from headnode.commands.context import Settings, json_option, now
from headnode.console import Watcher, note, say, show_json, table
from headnode.errors import ExitCode, LedgerError
from headnode.files import locked
from headnode.inbox import begin_anew
from schedules import notices
from schedules.due import Start, next_due, why
from schedules.jobs import tasks_of
from schedules.ledger import runs
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Run, State, is_too_old
from schedules.runner import Work, begin, headnode_name, lock_path, resume


@click.group()
def schedule() -> None:
    """Look at the jobs of the night, and run them.

    Example: headnode schedule list
    """


@schedule.command("list")
@json_option
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the jobs: when each runs next, and how its last run ended.

    Example: headnode schedule list
    """
    site = settings.site()
    options, moment = site.cluster.schedule, now()
    with Ledger.of(site) as ledger:
        found = {job: ledger.runs(headnode_name(), job=job, most=1) for job in JOBS}
    last = {job: each[0] if each else None for job, each in found.items()}
    rows = [(job, options.jobs.get(job), next_due(options, job, moment), last[job]) for job in JOBS]
    if as_json:
        keys = ("job", "line", "next", "last")
        show_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    table(
        ("job", "line", "next", "last", "outcome", "seconds"),
        (
            (
                *(job, line or "by hand", shown(due)),
                *(shown(run and run.started), run.outcome if run else "-", seconds(run)),
            )
            for job, line, due, run in rows
        ),
    )


@schedule.command()
@click.argument("job", type=click.Choice(JOBS))
@click.option("--due", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), hidden=True)
@json_option
@click.pass_obj
def run(settings: Settings, job: str, due: datetime | None, as_json: bool) -> int:
    """Run JOB now, or go on with a run of it that was cut off.

    Example: headnode schedule run nightly
    """
    site = settings.site()
    signal.signal(signal.SIGTERM, _interrupt)
    with (
        locked(lock_path(site.state), f"headnode schedule run {job}"),
        Ledger.of(site) as ledger,
        Watcher() as watch,
    ):
        work = Work(site=site, ledger=ledger, watch=watch, clock=settings.clock)
        done = _run(work, job, due)
    if done is None:
        note(f"{job} has run for {shown(due)} already.")
        return ExitCode.OK
    if as_json:
        show_json(done)
    else:
        show_run(done)
    return ExitCode.OK if done.outcome is State.OK else ExitCode.FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(work: Work, job: str, due: datetime | None) -> Run | None:
    """Go on with the job's run that was cut off, or begin one; None if that has run already."""
    site, moment = work.site, work.clock()
    open_runs, last = _known(work, moment)
    tasks = tasks_of(job, site)
    mine = next((each for each in open_runs if each.job == job), None)
    if mine is not None:
        note(f"Going on with run {mine.id}.")
        done = resume(work, mine, tasks)
    elif due is not None and job in last and last[job] >= due:
        return None
    else:
        reason = why(Start(job=job, due=due), moment) if due else "by hand"
        done = begin(work, job, tasks, why=reason, due=due)
    notices.tell(site, work.ledger, done, now=work.clock())
    return done


def _known(work: Work, moment: datetime) -> tuple[list[Run], dict[str, datetime]]:
    """The runs that can be gone on with, and for which time each job ran last.

    Those that were cut off too long ago are closed. A damaged ledger is begun anew: no run shall
    wait for a person.
    """
    try:
        return _look(work, moment)
    except LedgerError as error:
        aside = begin_anew(work.ledger, moment) if error.damaged else None
        if aside is None:
            raise
        note(f"{error} It is {aside} now.")
        return _look(work, moment)


def _look(work: Work, moment: datetime) -> tuple[list[Run], dict[str, datetime]]:
    catch_up = work.site.cluster.schedule.catch_up
    with work.ledger.store.writing() as connection:
        found = runs.cut_off(connection, headnode_name())
        old = [each for each in found if is_too_old(each, moment, catch_up)]
        for each in old:
            error = "cut off, and too long ago to be gone on with"
            runs.end(connection, each.id, State.ABANDONED, error, moment)
        last = runs.last_due(connection, headnode_name(), moment)
    return [each for each in found if each not in old], last


@schedule.command()
@click.option("--job", type=click.Choice(JOBS), help="Only runs of this job.")
@click.option("--last", "most", default=20, show_default=True, help="How many runs.")
@json_option
@click.pass_obj
def history(settings: Settings, job: str | None, most: int, as_json: bool) -> None:
    """Show past runs, the newest first: when, how long, how each ended, and why.

    Example: headnode schedule history --job nightly
    """
    with Ledger.of(settings.site()) as ledger:
        found = ledger.runs(headnode_name(), job=job, most=most)
    if as_json:
        show_json(found)
        return
    table(
        ("run", "job", "why", "started", "seconds", "outcome", "steps", "error"),
        (
            (
                *(each.id, each.job, each.why, shown(each.started), seconds(each), each.outcome),
                " ".join(step.name for step in each.steps if step.outcome is State.OK) or "-",
                each.error.partition("\n")[0] or "-",
            )
            for each in found
        ),
    )


def show_run(done: Run) -> None:
    """Print a run, a line a step, and why it went no further."""
    for step in done.steps:
        say(f"{step.name:<13}{step.outcome:<9}{step.seconds or 0.0:8.1f} s  {step.said}".rstrip())
    say(f"run {done.id} of {done.job}: {done.outcome}" + f" in {seconds(done)} s")
    if done.error:
        say(done.error)


def seconds(done: Run | None) -> str:
    """How long a run took."""
    return f"{done.seconds:.1f}" if done and done.seconds is not None else "-"
