"""A rollout: blades pull, many at once, and each one's result is gathered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from blades.inventory import Blade
from blades.transport import SSH_FAILED, Outcome, run_on
from config.model import Rollout
from headnode.process import last_lines

PULL = "/usr/local/sbin/headnode-pull"


class Result(StrEnum):
    """How a blade's pull ended, or its part of a rollout."""

    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DEFERRED = "deferred"  # it was busy, drained or full; nothing was changed
    FAILED = "failed"
    UNREACHED = "unreached"
    TIMED_OUT = "timed out"
    UNWELL = "unwell"  # it pulled, and its health check failed
    WENT_BACK = "went back"  # with its ring, after the rollout was stopped
    NOT_TRIED = "not tried"
    DRAINED = "drained"


LISTS = ("warnings", "drift", "edited", "world", "stale", "restarted")
GOOD = frozenset({Result.UPDATED, Result.UNCHANGED})
# What blades/pull.py says of a pull.
PULL_RESULTS = (Result.UPDATED, Result.UNCHANGED, Result.DEFERRED, Result.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class BladeReport:
    """One blade's pull.

    `packages` is how many of the generation it has, `changes` what came and went
    (`+category/name-version`, `-…`), `seconds` how long it took from the headnode's side.
    `warnings` are whole sentences; `drift` what somebody had changed in /etc/portage, `edited`
    configuration files that were kept, `world` what it has beside @blade, `stale` processes that
    map what was replaced.
    """

    blade: str
    ring: str
    result: Result
    generation: int | None = None
    sequence: int | None = None
    packages: int | None = None
    changes: tuple[str, ...] = ()
    emerge_started: bool = False
    warnings: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    world: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    kernel: str = ""
    error: str = ""
    seconds: float = 0.0
    log: str = field(default="", repr=False)

    @property
    def good(self) -> bool:
        """Whether the blade is at its ring's generation now."""
        return self.result in GOOD


def read_outcome(blade: Blade, outcome: Outcome | None) -> BladeReport:
    """What a command's outcome says of a blade's pull. Pure."""

    def report(result: Result, error: str = "") -> BladeReport:
        return BladeReport(
            blade=blade.name,
            ring=blade.ring,
            result=result,
            error=error,
            seconds=outcome.seconds if outcome else 0.0,
            log=outcome.output if outcome else "",
        )

    if outcome is None:
        return report(Result.UNREACHED, "no answer")
    if outcome.code is None:
        return report(Result.TIMED_OUT, "did not finish in time")
    said = last_report(outcome.output)
    if said is None:
        tail = last_lines(outcome.output, 3)
        error = tail or f"exit code {outcome.code}, no output"
        unreached = outcome.code == SSH_FAILED
        return report(Result.UNREACHED if unreached else Result.FAILED, error)
    result = Result(str(said["result"]))
    error = str(said.get("error") or "")
    if result is not Result.FAILED and outcome.code:  # it said so, and then was ended
        result, error = Result.FAILED, f"exit code {outcome.code} after it had said {result}"
    return BladeReport(
        blade=blade.name,
        ring=blade.ring,
        result=result,
        generation=_number(said.get("generation")),
        sequence=_number(said.get("sequence")),
        packages=_number(said.get("packages")),
        changes=_names(said.get("changes")),
        emerge_started=bool(said.get("emerge")),
        **{name: _names(said.get(name)) for name in LISTS},
        kernel=str(said.get("kernel") or ""),
        error=error,
        seconds=outcome.seconds,
        log=outcome.output,
    )


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def last_report(output: str) -> dict[str, object] | None:
    """The last line that is a pull's report; ssh may say something after it."""
    for line in reversed(output.splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("result") in PULL_RESULTS:
            return said
    return None


def rollout_once(
    blades: Sequence[Blade],
    options: Rollout,
    on_report: Callable[[BladeReport], None] = lambda report: None,
    *,
    line: str = PULL,
) -> list[BladeReport]:
    """Have `blades` pull by `line`, and return their reports in the order of `blades`."""
    known = {blade.name: blade for blade in blades}

    def finished(outcome: Outcome) -> None:
        on_report(read_outcome(known[outcome.blade], outcome))

    outcomes = run_on(list(known), line, options, finished)
    return [read_outcome(blade, outcomes.get(blade.name)) for blade in blades]
