"""Gates: what a generation has to pass before a ring gets it, and how one is waived.

A gate looks at a `Move` and reports in plain words; which gates there are is the caller's business
(`schedules.gates` puts them together). All of them are asked, so that one night tells everything
that is wrong. A gate is waived by its name and with a note, which the generation keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from binhost.records import GateReport, Generation
from config.model import Gate
from headnode.errors import ConfigError, PublishError


class MoveKind(StrEnum):
    """Why a ring moves."""

    PUBLISH = "publish"  # to a generation that no ring ever had
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A ring is about to go from `present` (None: it has nothing) to `generation`.

    `entries` are the index entries of `generation` by pool name, `new` the names of those that
    were published just now.
    """

    kind: MoveKind
    class_name: str
    ring: str
    present: Generation | None
    generation: Generation
    entries: Mapping[str, str]
    new: frozenset[str] = frozenset()


Gates = Callable[[Move], Iterable[GateReport]]


def no_gates(move: Move) -> Iterable[GateReport]:
    """Let everything through."""
    return ()


class GateError(PublishError):
    """Gates that held a generation up; `reports` are all that were made."""

    quotes = True

    def __init__(self, move: Move, reports: Iterable[GateReport]) -> None:
        self.reports = tuple(reports)
        shut = [each for each in self.reports if not each.lets_through]
        said = "".join(f"\n{each.gate}: {each.report}" for each in shut)
        names = ", ".join(each.gate for each in shut)
        super().__init__(
            f"Generation {move.generation.number} does not pass {names}; the ring {move.ring} is "
            f"as it was.{said}",
            remedy=f"Put that right and run it again, or let it through with --waive "
            f"{shut[0].gate if shut else 'GATE'} --note WHY.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waivers:
    """Gates that are let through all the same, and why."""

    names: frozenset[str] = frozenset()
    note: str = ""

    def __post_init__(self) -> None:
        known = ", ".join(Gate)
        if unknown := self.names - set(Gate):
            raise ConfigError(
                f"There is no gate {', '.join(sorted(unknown))}.", remedy=f"The gates are {known}."
            )
        if self.names and not self.note.strip():
            raise ConfigError(
                "A gate is waived with a reason, which the generation keeps.",
                remedy="Add --note WHY.",
            )


NO_WAIVERS = Waivers()


def pass_gates(move: Move, gates: Gates, waivers: Waivers) -> tuple[GateReport, ...]:
    """Ask every gate, and return what each said.

    Raises:
        GateError: one that is not waived does not let it through.
    """
    reports = tuple(
        report.model_copy(update={"waived": waivers.note})
        if report.gate in waivers.names and not report.passed
        else report
        for report in gates(move)
    )
    if not all(report.lets_through for report in reports):
        raise GateError(move, reports)
    return reports
