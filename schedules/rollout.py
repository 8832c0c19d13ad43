"""A rollout: blades pull, many at once, and each one's result is gathered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    DEFERRED = "deferred"  # it was busy, pulling, drained or full; nothing was changed
    FAILED = "failed"
    UNREACHED = "unreached"  # it does not answer, or says that it cannot reach the headnode
    TIMED_OUT = "timed out"
    UNWELL = "unwell"  # it pulled, and its health check failed
    WENT_BACK = "went back"  # with its ring, after the rollout was stopped
    NOT_TRIED = "not tried"
    DRAINED = "drained"


LISTS = ("warnings", "drift", "edited", "world", "stale", "restarted")
GOOD = frozenset({Result.UPDATED, Result.UNCHANGED})
# What blades/pull.py says of a pull.
PULL_RESULTS = (
    *(Result.UPDATED, Result.UNCHANGED, Result.DEFERRED),
    *(Result.FAILED, Result.UNREACHED),
)
BAD_ENDS = frozenset({Result.FAILED, Result.UNREACHED})

# What a database has room for; a blade that says more is not believed.
MOST_COUNT = (1 << 31) - 1
MOST_BYTES = (1 << 63) - 1
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BladeReport:
    """One blade's pull.

    `packages` is how many of the generation it has, `changes` what came and went
    (`+category/name-version`, `-…`), `seconds` how long it took from the headnode's side.
    `warnings` are whole sentences; `drift` what somebody had changed in /etc/portage, `edited`
    configuration files that were kept, `world` what it has beside @blade, `stale` processes that
    map what was replaced.
    `kernel` is the one that runs, `kernel_due` the one that is to be booted. `unconfirmed` is the
    deployment of an earlier pull that still waits for its confirmation (`blades.deadman`).
    """

    blade: str
    ring: str
    result: Result
    generation: int | None = None
    sequence: int | None = None
    packages: int | None = None
    changes: tuple[str, ...] = ()
    emerge_started: bool = False
    source_builds: int | None = None
    warnings: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    world: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    kernel: str = ""
    kernel_due: str = ""
    fetched_bytes: int | None = None
    unconfirmed: int | None = None
    error: str = ""
    seconds: float = 0.0
    log: str = field(default="", repr=False)

    @property
    def cut_off(self) -> bool:
        """Whether it answers, and says itself that it cannot reach the headnode."""
        return self.result is Result.UNREACHED and bool(self.kernel)

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
    found = read_said(blade.name, blade.ring, said, outcome.seconds, outcome.output)
    if found.result not in BAD_ENDS and outcome.code:  # it said so, and then was ended
        error = f"exit code {outcome.code} after it had said {found.result}"
        return replace(found, result=Result.FAILED, error=error)
    return found


def read_said(
    blade: str, ring: str, said: Mapping[str, object], seconds: float, log: str
) -> BladeReport:
    """What a pull says of itself; what is of another kind than it should be is left out. Pure.

    `said["result"]` must be one of PULL_RESULTS.
    """
    return BladeReport(
        blade=blade,
        ring=ring,
        result=Result(str(said["result"])),
        generation=_number(said.get("generation")),
        sequence=_number(said.get("sequence")),
        packages=_number(said.get("packages")),
        changes=_names(said.get("changes")),
        emerge_started=bool(said.get("emerge")),
        source_builds=_number(said.get("source_builds")),
        **{name: _names(said.get(name)) for name in LISTS},
        kernel=_text(said.get("kernel")),
        kernel_due=_text(said.get("kernel_due")),
        fetched_bytes=_number(said.get("fetched_bytes"), MOST_BYTES),
        unconfirmed=_number(said.get("unconfirmed")),
        error=str(said.get("error") or ""),
        seconds=seconds,
        log=log,
    )


def _text(value: object) -> str:
    return value[:LONGEST_NAME] if isinstance(value, str) else ""


def _number(value: object, most: int = MOST_COUNT) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _names(value: object) -> tuple[str, ...]:
    return tuple(str(each)[:LONGEST_NAME] for each in value) if isinstance(value, list) else ()


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
