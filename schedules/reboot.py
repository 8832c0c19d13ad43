"""Which blades are restarted for their kernel, in which order, and what each came to. Pure.

A blade has a reboot pending while it runs another kernel than its generation has. One that a run
which was cut off left drained comes first: it may be restarting just now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from blades.drained import is_own
from blades.inventory import Blade, fold
from blades.transport import SSH_FAILED, Outcome
from headnode.process import last_lines
from schedules.ledger.pulls import BladeState

WHY = "headnode rollout reboot"


class Fate(StrEnum):
    """What a blade came to."""

    REBOOTED = "rebooted"
    CURRENT = "current"  # it ran the due kernel already, and is well with it
    DEFERRED = "deferred"  # it was busy for too long; nothing was done
    UNREACHED = "unreached"  # it was off before anything was done
    FAILED = "failed"
    NOT_TRIED = "not tried"
    DRAINED = "drained"  # by somebody else


GOOD = frozenset({Fate.REBOOTED, Fate.CURRENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A blade that is to be restarted; `begun` by a run that was cut off."""

    blade: Blade
    kernel: str
    kernel_due: str
    begun: bool = False

    def as_json(self) -> dict[str, str]:
        """The blade, and its kernels."""
        about = {"blade": self.blade.name, "ring": self.blade.ring}
        return {**about, "kernel": self.kernel, "kernel_due": self.kernel_due}


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootReport:
    """What a blade came to: the kernel that runs now (empty: it does not say) and the due one."""

    blade: str
    ring: str
    fate: Fate
    kernel: str = ""
    kernel_due: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it runs what it is due, and is well."""
        return self.fate in GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a blade says of itself: which boot it is in, and its kernels (none: no flavour)."""

    boot: str
    kernel: str
    due: str
    fell_back: bool
    error: str = ""

    @property
    def pending(self) -> bool:
        """Whether another kernel is due than the one that runs."""
        return self.due not in ("", self.kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootPlan:
    """Batches in their order: one is through before the next begins. `drained` are left out."""

    batches: tuple[tuple[Pending, ...], ...]
    drained: tuple[Pending, ...]

    @property
    def pending(self) -> tuple[Pending, ...]:
        """Every blade that has a reboot pending, drained or not."""
        return tuple(each for batch in (*self.batches, self.drained) for each in batch)

    def lines(self) -> Iterator[str]:
        """What will be done, a line a step."""
        for number, batch in enumerate(self.batches, 1):
            for due, found in _by_due(batch).items():
                names = fold([each.blade for each in found])
                begun = ", left by a run that was cut off" if found[0].begun else ""
                yield f"{number} of {len(self.batches)}: {names} to {due or 'its kernel'}{begun}"
        if self.drained:
            yield f"left out, drained: {fold([each.blade for each in self.drained])}"
        if not self.batches and not self.drained:
            yield "No blade has a reboot pending."


def pending_lines(pending: Sequence[Pending]) -> Iterator[str]:
    """Which blades wait for which kernel, a line a kernel. Pure."""
    for due, found in _by_due(pending).items():
        names = fold([each.blade for each in found])
        yield f"reboot pending: {names} to {due or 'its kernel'} (headnode rollout reboot)"


def _by_due(batch: Sequence[Pending]) -> dict[str, list[Pending]]:
    found: dict[str, list[Pending]] = {}
    for each in batch:
        found.setdefault(each.kernel_due, []).append(each)
    return found


def plan_reboots(
    blades: Sequence[Blade],
    known: Mapping[str, BladeState],
    drained: Mapping[str, str],
    at_once: int,
) -> RebootPlan:
    """Plan restarts of those of `blades` that have one pending, `at_once` at a time.

    `known` is the ledger's, by name; `drained` are names with a reason.
    """
    wanted = [_pending(each, known.get(each.name), drained.get(each.name)) for each in blades]
    found = [each for each in wanted if each is not None]
    left = [each for each in found if each.blade.name in drained and not each.begun]
    rest = [each for each in found if each not in left]
    order = sorted(rest, key=lambda each: not each.begun)
    starts = range(0, len(order), at_once)
    return RebootPlan(
        batches=tuple(tuple(order[start : start + at_once]) for start in starts),
        drained=tuple(left),
    )


def _pending(blade: Blade, state: BladeState | None, drained: str | None) -> Pending | None:
    begun = drained is not None and is_own(drained, WHY)
    if not begun and (state is None or not state.reboot_pending):
        return None
    kernel, due = (state.kernel, state.kernel_due) if state else ("", "")
    return Pending(blade=blade, kernel=kernel, kernel_due=due, begun=begun)


def said_by(outcome: Outcome | None) -> dict[str, object]:
    """The last line of a blade's answer that is a report; empty without one."""
    for line in reversed(outcome.output.splitlines() if outcome else []):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "result" in said:
            return said
    return {}


def standing_of(outcome: Outcome | None) -> Standing | None:
    """What a blade says of itself; None if it does not answer."""
    said = said_by(outcome)
    boot = said.get("boot")
    if outcome is None or outcome.code != 0 or not isinstance(boot, str):
        return None
    kernels = said.get("kernels")
    kernels = kernels if isinstance(kernels, dict) else {}
    return Standing(
        boot=boot,
        kernel=str(kernels.get("running") or said.get("kernel") or ""),
        due=str(kernels.get("due") or ""),
        fell_back=bool(kernels.get("fell_back")),
        error=str(said.get("error") or ""),
    )


def fell_back(at: Standing) -> str:
    """What is said of a blade whose kernel fell back. Pure."""
    return (
        f"{at.due} was booted and fell back to {at.kernel}. It is not tried again until another "
        "kernel is due, or headnode-kernel --again was run on the blade"
    )


def why_silent(outcome: Outcome | None) -> str:
    """Why a blade gave no answer that can be read. Pure."""
    if outcome is None or outcome.code is None:
        return "no answer"
    return last_lines(outcome.output, 3) or f"exit code {outcome.code}, no output"


def why_not(outcome: Outcome | None) -> str:
    """Why a blade did not do what it was asked to; empty if it did. Pure."""
    if outcome is not None and outcome.code == 0:
        return ""
    said = said_by(outcome)
    if said and outcome is not None and outcome.code != SSH_FAILED:
        return str(said.get("error") or said["result"])
    return why_silent(outcome)
