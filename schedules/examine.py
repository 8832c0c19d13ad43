"""What is asked of a lab blade that has pulled a generation, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from binhost import soname
from binhost.build import pool_name
from binhost.emerge import Kind, binaries_argv, converged_argv, explain_no_plan, parse_plan
from binhost.gates import Move
from binhost.records import GateReport, Generation
from binhost.why import judge
from blades import check
from config.model import Gate
from headnode.errors import CommandError
from headnode.process import Completed, last_lines
from headnode.wording import counted
from schedules.rollout import BladeReport

CHECKS = "/usr/lib/headnode/checks"
LOOK_S = 1800.0


class Run(Protocol):
    """Runs a command on the blade, whatever its exit code."""

    def __call__(self, command: list[str], *, timeout_s: float = ...) -> Completed:
        """What it did; CommandError if it takes too long."""


def closure_and_soname(
    run: Run, run_with_ebuilds: Run, move: Move, root: frozenset[str]
) -> Iterator[GateReport]:
    """Resolve the whole set from binaries: once with libraries, and only if that fails without.

    `run_with_ebuilds` is for what a blade that has no ebuilds cannot say of itself.
    """
    strict = run(binaries_argv("@blade", sonames=True))
    plain = strict if strict.code == 0 else run(binaries_argv("@blade"))
    yield _closure(run_with_ebuilds, move, plain)
    lacking = soname.unprovided(move.entries.values(), root)
    yield _soname(run_with_ebuilds, move, strict, plain, lacking)


def _closure(run: Run, move: Move, done: Completed) -> GateReport:
    if done.code:
        said = judge("@blade", done, list(move.entries.values()), run).text
        return GateReport(gate=Gate.CLOSURE, passed=False, report=said)
    plan = parse_plan(done.output)
    sources = [step.cpv for step in plan if step.kind is Kind.EBUILD]
    chosen = {pool_name(step) for step in plan if step.kind is Kind.BINARY}
    unused = sorted(move.entries.keys() - chosen)
    if sources:
        text = f"There is no binary for {', '.join(sources)}."
    elif unused:
        text = f"A blade with nothing installed would not install {', '.join(unused)}."
    else:
        text = f"{counted(len(plan), 'package')}, all binary."
    return GateReport(gate=Gate.CLOSURE, passed=not sources and not unused, report=text)


def _soname(
    run: Run,
    move: Move,
    strict: Completed,
    plain: Completed,
    lacking: dict[str, tuple[str, ...]],
) -> GateReport:
    wrong = [
        f"{cpv} needs {', '.join(names)}, which no package nor the root has."
        for cpv, names in lacking.items()
    ]
    if not wrong and strict.code and not plain.code:
        wrong.append(judge("@blade", strict, list(move.entries.values()), run).text)
    good = (
        f"Every library that {len(move.entries)} packages link to comes with one, or with the root."
    )
    if plain.code:
        good += " (By their names: the set does not resolve, see closure.)"
    return GateReport(
        gate=Gate.SONAME, passed=not wrong, report="\n".join(wrong) if wrong else good
    )


def converged(run: Run) -> GateReport:
    """Whether the blade has nothing left to do."""
    done = run(converged_argv())
    if done.code:
        text = f"emerge finds no plan for @world:\n{explain_no_plan(done.output + done.errors)}"
        return GateReport(gate=Gate.CONVERGED, passed=False, report=text)
    plan = [f"{step.cpv} ({step.kind})" for step in parse_plan(done.output)]
    text = (
        f"After the pull, emerge --update --deep --newuse @world still plans {', '.join(plan)}."
        if plan
        else "After the pull, emerge --update --deep --newuse @world plans nothing."
    )
    return GateReport(gate=Gate.CONVERGED, passed=not plan, report=text)


def way_back(trouble: str, newer: Generation, older: Generation) -> GateReport:
    """What came of a blade at `newer` that was to pull `older`; `trouble` is why it could not."""
    text = f"A lab blade went from generation {newer.number} back to {older.number}."
    if trouble:
        text = (
            f"No way back by emerge: a lab blade at generation {newer.number} cannot pull "
            f"{older.number}: {trouble}"
        )
    return GateReport(gate=Gate.WAY_BACK, passed=not trouble, report=text)


def smoke(
    run: Run, pulled: BladeReport, start: str, commands: Sequence[str], *, timeout_s: float
) -> GateReport:
    """What came of the pull, and of every check after it. `start` is where the blade was."""
    if not pulled.good:
        text = f"A lab blade {start} could not pull it: {pulled.error}"
        return GateReport(gate=Gate.SMOKE, passed=False, report=text)
    came = [change[1:] for change in pulled.changes if change.startswith("+")]
    looked = json.loads(run(_look_argv(came), timeout_s=LOOK_S).output)
    wrong = [
        f"{path} lacks {', '.join(names)}." for path, names in sorted(looked["missing"].items())
    ]
    checks = _checks(run)
    lines = [*(f"{check} " for check in checks), *commands]
    wrong += _failures(run, lines, timeout_s)
    text = (
        f"A lab blade {start} pulled it: {counted(len(came), 'package')} came, every library of "
        f"{counted(looked['files'], 'ELF file')} of theirs is there; "
        f"{counted(len(checks), 'check')} of packages and "
        f"{counted(len(commands), 'command')} of the class succeeded."
    )
    return GateReport(gate=Gate.SMOKE, passed=not wrong, report="\n".join(wrong) if wrong else text)


def _look_argv(packages: list[str]) -> list[str]:
    return ["python3", "-c", Path(check.__file__).read_text(), *packages]


def _checks(run: Run) -> list[str]:
    """The checks that installed packages bring: executables below CHECKS."""
    found = run(["find", CHECKS, "-type", "f", "-perm", "-u+x"])
    return sorted(found.output.splitlines())


def _failures(run: Run, lines: Sequence[str], timeout_s: float) -> Iterator[str]:
    for line in lines:
        try:
            done = run(["sh", "-c", line], timeout_s=timeout_s)
        except CommandError as error:
            said = last_lines(error.tail, 5)
            yield f"`{line.strip()}` did not end within {timeout_s:g} s:\n{said}"
            continue
        if done.code:
            said = last_lines(done.tail, 5)
            why = f": {said}" if said else "."
            yield f"`{line.strip()}` failed with exit code {done.code}{why}"
