"""The gates that ask a blade in a lab (`schedules.rehearse`).

It goes the way that the ring's blades are about to go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from binhost import root_libraries
from binhost.builder import root_digest
from binhost.gates import Move, MoveKind, Waivers
from binhost.records import GateReport, Generation
from config.model import Gate
from headnode.errors import EnvironmentLacksError, MirrorError, NodeError, PublishError
from schedules import examine, walked
from schedules.observer import Observer
from schedules.rehearse import Ground, Trial, opened, state_digest
from schedules.rollout import BladeReport
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One move, looked at on a blade."""

    site: Site
    move: Move
    waivers: Waivers
    now: datetime
    watch: Observer

    @property
    def ground(self) -> Ground:
        """The lab of the ring that moves."""
        return Ground(site=self.site, class_name=self.move.class_name, ring=self.move.ring)

    def reports(self, gates: list[Gate]) -> Iterator[GateReport]:
        """What these gates say; from memory, where this way was gone before."""
        if known := self._remembered():
            yield known
        else:
            yield from self._on_blade(gates)

    def _entries(self, generation: Generation) -> Mapping[str, str]:
        return self.site.binhost(self.move.class_name).generations.entries(generation)

    def _way(self, gate: Gate, start: Generation | None, end: Generation) -> str:
        cls = self.site.klass(self.move.class_name)
        return walked.way(
            gate=gate,
            start=state_digest(start) if start else "",
            end=state_digest(end),
            root=root_digest(self.ground.root),
            pull=self.ground.pull_text,
            smoke=cls.smoke if gate is Gate.SMOKE else (),
        )

    def _remembered(self) -> GateReport | None:
        """What came of this way when it was gone before, if it is all that is asked."""
        if self.move.kind is MoveKind.PUBLISH:
            return None
        gate = Gate.SMOKE if self.move.kind is MoveKind.PROMOTE else Gate.WAY_BACK
        name = self._way(gate, self.move.present, self.move.generation)
        return walked.remembered(self.ground.folder / "walked", name)

    def _remember(
        self, gate: Gate, start: Generation | None, end: Generation, report: GateReport
    ) -> None:
        if report.passed and not report.warns:
            name = self._way(gate, start, end)
            walked.remember(self.ground.folder / "walked", name, report)

    def _on_blade(self, gates: list[Gate]) -> Iterator[GateReport]:
        self.watch.say("Putting up a lab blade")
        with ExitStack() as stack:
            try:
                lab = opened(self.ground, self.move.generation, self.move.entries)
                trial = stack.enter_context(lab)
            except (EnvironmentLacksError, NodeError) as error:
                yield from self._without_a_lab(gates, error)
                return
            yield from (report for report in self._ask(trial) if report.gate in gates)

    def _without_a_lab(
        self, gates: list[Gate], error: EnvironmentLacksError | NodeError
    ) -> Iterator[GateReport]:
        if not set(gates) <= self.waivers.names:
            names = " ".join(f"--waive {gate}" for gate in gates)
            lacks = error.missing if isinstance(error, EnvironmentLacksError) else [str(error)]
            raise EnvironmentLacksError(
                f"The gates {', '.join(gates)} need a blade in a lab, which this machine cannot "
                f"run; the ring {self.move.ring} is as it was.",
                lacks,
                remedy=f"Leave them out of [publish] gates, or let them pass this once with "
                f"{names} --note WHY. What is missing:",
            ) from error
        for gate in gates:
            text = f"This machine cannot run lab blades: {error}"
            yield GateReport(gate=gate, passed=False, report=text)

    def _ask(self, trial: Trial) -> Iterator[GateReport]:
        match self.move.kind:
            case MoveKind.PUBLISH:
                yield from self._publish(trial)
            case MoveKind.PROMOTE:
                report, _ = self._smoke(trial)
                yield report
            case MoveKind.ROLLBACK:
                yield self._rollback(trial)

    def _publish(self, trial: Trial) -> Iterator[GateReport]:
        smoke, pulled = self._smoke(trial)
        self.watch.say("Resolving the whole set from binaries alone")
        root = root_libraries.sonames(self.ground.root, self.move.entries.values())
        with ThreadPoolExecutor(max_workers=1) as beside:  # neither changes anything
            converged = beside.submit(examine.converged, trial.run)
            run = trial.run, trial.run_with_ebuilds
            yield from examine.closure_and_soname(*run, self.move, root)
            yield smoke
            yield converged.result()
        yield (
            self._way_back(trial)
            if pulled
            else GateReport(
                gate=Gate.WAY_BACK,
                passed=True,
                warns=True,
                report="The way back was not tried: the lab blade is not at the new generation.",
            )
        )

    def _smoke(self, trial: Trial) -> tuple[GateReport, bool]:
        """What came of the step to the new generation, and whether the blade is there."""
        move = self.move
        start = self._to_present(trial)
        if start.trouble:
            trial.start(fresh=True)
        self.watch.say(f"A lab blade pulls generation {move.generation.number}")
        pulled = trial.bring(move.generation, move.entries, self.now)
        cls, options = self.site.klass(move.class_name), self.site.cluster.publish
        report = examine.smoke(
            trial.run, pulled, start.text, cls.smoke, timeout_s=options.smoke_timeout_s
        )
        if report.passed:
            trial.keep(move.generation)
            if not start.trouble:
                self._remember(Gate.SMOKE, move.present, move.generation, report)
        return report, pulled.good

    def _to_present(self, trial: Trial) -> _Start:
        """Bring the blade to what the ring has."""
        present = self.move.present
        if present is None:
            trial.start(fresh=True)
            return _Start(text="with nothing installed")
        at = f"at generation {present.number}"
        if trial.at == state_digest(present):
            trial.start(fresh=False)
            return _Start(text=at)
        self.watch.say(f"A new lab blade pulls generation {present.number}, which the ring has")
        trial.start(fresh=True)
        trouble = self._trouble(trial, present)
        if not trouble:
            return _Start(text=at)
        text = f"with nothing installed (it cannot be brought to generation {present.number}"
        return _Start(text=f"{text}, which the ring has: {trouble})", trouble=trouble)

    def _trouble(self, trial: Trial, present: Generation) -> str:
        """Why the blade cannot be brought to what the ring has; empty if it was."""
        try:
            return _why_not(trial.bring(present, self._entries(present), self.now))
        except (MirrorError, PublishError) as error:  # its tree, or its entries, are no more
            return str(error)

    def _way_back(self, trial: Trial) -> GateReport:
        move, present = self.move, self.move.present
        if present is None:
            text = "The ring has nothing that it could go back to."
            return GateReport(gate=Gate.WAY_BACK, passed=True, report=text)
        self.watch.say(f"A lab blade goes back to generation {present.number}")
        trial.go_apart()
        trouble = self._trouble(trial, present)
        report = examine.way_back(trouble, move.generation, present)
        if trouble:
            return report.model_copy(update={"passed": True, "warns": True})
        self._remember(Gate.WAY_BACK, move.generation, present, report)
        return report

    def _rollback(self, trial: Trial) -> GateReport:
        move, present = self.move, self.move.present
        start = self._to_present(trial)
        if present is None or start.trouble:
            text = f"The lab blade starts {start.text}: no way back can be tried."
            return GateReport(gate=Gate.WAY_BACK, passed=False, report=text)
        self.watch.say(f"A lab blade goes back to generation {move.generation.number}")
        trouble = _why_not(trial.bring(move.generation, move.entries, self.now))
        report = examine.way_back(trouble, present, move.generation)
        if report.passed:
            trial.keep(move.generation)
            self._remember(Gate.WAY_BACK, present, move.generation, report)
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where the lab blade starts, in words; `trouble` is why not at what the ring has."""

    text: str
    trouble: str = ""


def _why_not(pulled: BladeReport) -> str:
    """Why a pull failed; empty if it did not. Pure."""
    return "" if pulled.good else pulled.error or f"the pull {pulled.result}"
