"""`headnode doctor`."""

from __future__ import annotations

import click

from headnode.commands.context import Settings, json_option
from headnode.console import say, show_json, stand_out
from headnode.doctor import CHECKS, examine
from headnode.doctor.findings import Finding, Level
from headnode.errors import ExitCode

MARKS = {Level.GOOD: "ok   ", Level.WARNING: "warn ", Level.PROBLEM: "BAD  "}


@click.command()
@click.argument("checks", metavar="[CHECK]...", nargs=-1, type=click.Choice(list(CHECKS)))
@json_option
@click.pass_obj
def doctor(settings: Settings, checks: tuple[str, ...], as_json: bool) -> int:
    """Look at everything that has to be right, and say what to do about the rest.

    It changes nothing. Exit code 1 if there is a problem, 0 if there are warnings at most.

    Example: headnode doctor
    """
    rows = []
    for name, found in examine(settings.site(), checks or CHECKS):
        for each in found:
            rows.append((name, each))
            if not as_json:
                _show(name, each)
    counts = {level: sum(each.level is level for _, each in rows) for level in Level}
    if as_json:
        show_json([{"check": name, **_fields(each)} for name, each in rows])
    else:
        say(f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings.")
    return ExitCode.FAILED if counts[Level.PROBLEM] else ExitCode.OK


def _show(name: str, finding: Finding) -> None:
    mark = MARKS[finding.level]
    (say if finding.level is Level.GOOD else stand_out)(f"{mark} {name}: {finding.text}")
    if finding.remedy:
        say(f"      -> {finding.remedy}")


def _fields(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, "text": finding.text, "remedy": finding.remedy}
