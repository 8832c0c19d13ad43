"""A rollout carried out: ring by ring, wave by wave, looked at after each, stopped in time.

After a wave, the blades that changed are left to settle, and are asked whether they are well; that
also tells whether they still answer, and confirms them (`blades.deadman`). Too many that are not,
and it stops: the ring goes back, if it is to, and no later ring of the class is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from binhost.rings import Ring
from blades.inventory import Blade, fold
from config.model import OnStop, Rollout
from headnode.errors import HeadnodeError
from headnode.wording import counted
from schedules.cut_off import why_cut_off
from schedules.progress import BladeState, Phase, Progress, store
from schedules.ring_moves import lacks
from schedules.rollout import GOOD, BladeReport, Result, rollout_once
from schedules.site import Site
from schedules.waves import Plan, Stage
from schedules.wellness import pull_line, unwell

log = logging.getLogger(__name__)

FAILED = frozenset({Result.FAILED, Result.TIMED_OUT, Result.UNWELL})
Move = Callable[[Stage, int], object]
Back = Callable[[Stage, int, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What a rollout does to the world.

    `promote` puts a generation in front of a stage's ring; `rollback` takes one away, for a reason,
    and returns the number of the one that the ring has then (`schedules.ring_moves`).
    """

    promote: Move
    rollback: Back
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    say: Callable[[str], None]
    on_report: Callable[[BladeReport], None]


@dataclass(kw_only=True)
class Staged:
    """A rollout that runs. `known` are the reports of one that was killed, which it goes on from.

    `wary`: blades that have nothing new are looked at, too. `reports` has the newest of each blade,
    `changed` names those that got something new.
    """

    site: Site
    plan: Plan
    hands: Hands
    nodes: str | None = None
    known: Progress | None = None
    wary: bool = False
    reports: dict[str, BladeReport] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        now = self.hands.clock()
        self.progress = Progress(started=now, changed=now, nodes=self.nodes, phase=Phase.RUNNING)

    @property
    def options(self) -> Rollout:
        """The options of [rollout]."""
        return self.site.rollout

    def run(self) -> Progress:
        """Carry it out. A Ctrl-C leaves it noted as interrupted."""
        self._note()
        stopped: dict[str, str] = {}
        try:
            before: Stage | None = None
            for stage in self.plan.stages:
                if stage.class_name in stopped:
                    self._leave(stage)
                    continue
                same = before is not None and before.class_name == stage.class_name
                why = self._stage(stage, before if same else None)
                if why:
                    stopped[stage.class_name] = why
                before = stage
        except KeyboardInterrupt:
            if self.progress.phase is not Phase.GOING_BACK:  # which the next one has to go on with
                why = "stopped by hand; blades finish their pulls"
                self._note(phase=Phase.INTERRUPTED, why=why)
            raise
        if not stopped:
            self._note(phase=Phase.DONE, why=why_cut_off(self.reports.values()))
        return self.progress

    def _note(self, **changes: object) -> None:
        blades = {**self.progress.blades}
        for name, report in self.reports.items():
            if name in blades:
                blades[name] = blades[name].model_copy(
                    update={
                        "result": str(report.result),
                        "generation": report.generation,
                        "error": report.error,
                        "seconds": report.seconds,
                    }
                )
        more = {"blades": blades, "changed": self.hands.clock(), **changes}
        self.progress = self.progress.model_copy(update=more)
        store(self.site.state, self.progress)

    def _leave(self, stage: Stage) -> None:
        for blade in stage.blades:
            self.reports[blade.name] = _plain(blade, Result.NOT_TRIED)
        self._leave_drained(stage)

    def _leave_drained(self, stage: Stage) -> None:
        for blade in stage.drained:
            self.reports[blade.name] = _plain(blade, Result.DRAINED)

    def _stage(self, stage: Stage, before: Stage | None) -> str:
        """Roll out a ring; why it was stopped, empty if it was not."""
        self._leave_drained(stage)
        try:
            if before is not None and self.plan.promotes:
                self._promote(before, stage)
        except HeadnodeError as error:
            self._leave(stage)
            return self._stop(stage, f"{stage.ring} does not get the new generation: {error}")
        going_back = self._was_going_back(stage)
        self._begin(stage, going_back=going_back)
        if going_back and self.known:
            return self._stop(stage, self.known.why, back=True)
        for number, wave in enumerate(stage.waves, 1):
            left = [blade for blade in wave if not self._is_done(stage, blade)]
            self._wave(stage, number, left)
            failed = self._of(stage, FAILED)
            if len(failed) > stage.max_failed:
                many = counted(len(failed), "blade")
                why = f"{many} of {stage.ring} failed, and {stage.max_failed} may"
                back = self.known is not None or any(map(self._blames, failed))
                return self._stop(stage, f"{why}: {fold(failed)}", back=back)
        if not any(self.reports[each.name].good for each in stage.blades):
            return self._nobody(stage)
        return ""

    def _blames(self, blade: Blade) -> bool:
        """Whether the generation may be why a blade failed: it came just now, or did not come.

        Who had it for long and is not well now stops the ring, which would else go back by one
        generation every night for what lies elsewhere.
        """
        return blade.name in self.changed or self.reports[blade.name].result is not Result.UNWELL

    def _nobody(self, stage: Stage) -> str:
        """No blade of a ring is good: stop, unless it is all drained, and would hand nothing on."""
        if stage.blades:
            lost = why_cut_off(self.reports[each.name] for each in stage.blades)
            return self._stop(stage, lost or f"no blade of {stage.ring} could be tried")
        if any(lacks(self.site, each, stage) for each in self._later(stage)[:1]):
            return self._stop(
                stage, f"every blade of {stage.ring} is drained, so it hands nothing on untried"
            )
        return ""

    def _later(self, stage: Stage) -> Sequence[Stage]:
        """The stages that a ring's generation goes on to, in their order."""
        if not self.plan.promotes:
            return ()
        place = self.plan.stages.index(stage) + 1
        return [each for each in self.plan.stages[place:] if each.class_name == stage.class_name]

    def _promote(self, before: Stage, stage: Stage) -> None:
        source, ring = self._ring(before).current(), self._ring(stage)
        # Never back: an older one in the ring before is somebody's rollback, of that ring.
        number = source.generation if source else 0
        if ring.went_back_from(number):
            self.hands.say(
                f"Ring {stage.ring} went back from generation {number}: headnode promote {number} "
                f"--ring {stage.ring} gives it that one again"
            )
        elif lacks(self.site, stage, before):
            self.hands.say(f"Ring {stage.ring} gets generation {number}")
            self.hands.promote(stage, number)

    def _was_going_back(self, stage: Stage) -> bool:
        """Whether a rollout was killed while this ring went back, and it got nothing newer."""
        known, ring, name = self.known, self._ring(stage), _name(stage)
        if known is None or known.phase is not Phase.GOING_BACK:
            return False
        begun = [each for each in self.plan.stages if _name(each) in known.deployments]
        if begun[-1:] != [stage] or known.deployments[name] not in ring.sequences():
            return False
        has = ring.current()
        return has is None or has.generation <= ring.deployment(known.deployments[name]).generation

    def _begin(self, stage: Stage, *, going_back: bool) -> None:
        """Note that a ring is begun; what is known of its blades counts if it was not moved."""
        current, name, known = self._ring(stage).current(), _name(stage), self.known
        sequence = current.sequence if current else 0
        if going_back and known:
            sequence = known.deployments[name]
        blades = {
            blade.name: BladeState(ring=stage.ring, wave=number)
            for number, wave in enumerate(stage.waves, 1)
            for blade in wave
        }
        if known and known.deployments.get(name) == sequence:
            blades |= {
                each: state.model_copy(update={"wave": blades[each].wave})
                for each, state in known.blades.items()
                if each in blades
            }
        self._note(
            deployments={**self.progress.deployments, name: sequence},
            blades={**self.progress.blades, **blades},
        )
        if going_back:
            for blade in stage.blades:
                self._take_up(blade)

    def _tried(self, stage: Stage) -> int:
        """The generation that a ring was begun with; 0: it had none."""
        sequence = self.progress.deployments[_name(stage)]
        return self._ring(stage).deployment(sequence).generation if sequence else 0

    def _ring(self, stage: Stage) -> Ring:
        return self.site.binhost(stage.class_name).ring(stage.ring)

    def _is_done(self, stage: Stage, blade: Blade) -> bool:
        """Whether a rollout that was killed had found this blade well."""
        if self.progress.blades[blade.name].result not in GOOD:
            return False
        self._take_up(blade)
        return True

    def _take_up(self, blade: Blade) -> None:
        """Take over what a rollout that was killed knew of a blade, if anything."""
        state = self.progress.blades[blade.name]
        if state.result:
            self.reports[blade.name] = replace(
                _plain(blade, Result(state.result)),
                **{name: getattr(state, name) for name in ("generation", "error", "seconds")},
            )

    def _wave(self, stage: Stage, number: int, blades: Sequence[Blade]) -> None:
        if not blades:
            return
        many = f"wave {number} of {len(stage.waves)}"
        self.hands.say(f"{_name(stage)}: {many}: {fold(list(blades))}")
        # Not in `reports` before they are well: one that is killed here asks them again.
        pulled = rollout_once(blades, self.options, self.hands.on_report, line=pull_line(self.site))
        if lost := why_cut_off(pulled):
            self.hands.say(f"WARNING: {lost}")
        changed = {each.blade for each in pulled if each.result is Result.UPDATED}
        self.changed |= changed
        if changed and self.options.settle_s:
            self.hands.sleep(self.options.settle_s)
        wrong = unwell(self.site, self._to_look_at(stage, pulled))
        for report in pulled:
            self.reports[report.blade] = report
            if why := wrong.get(report.blade):
                found = replace(report, result=Result.UNWELL, error=why)
                self.reports[report.blade] = found
                self.hands.on_report(found)  # it was told of as a good one when it had pulled
        self._note()

    def _to_look_at(self, stage: Stage, pulled: Sequence[BladeReport]) -> list[BladeReport]:
        """Those of the blades that pulled whose health is asked for.

        Who had nothing to pull may have failed when it did, in a rollout that stopped or was cut
        off: it is asked, too, after one of these, and when its ring is about to hand on what it
        has. That spares a night on which nothing moves 58 questions. Who waits for its confirmation
        since an earlier pull (its connection was lost, say) is asked in any case.
        """
        good = [each for each in pulled if each.good]
        if self.wary or any(lacks(self.site, each, stage) for each in self._later(stage)):
            return good
        return [each for each in good if each.result is Result.UPDATED or each.unconfirmed]

    def _of(self, stage: Stage, results: frozenset[Result]) -> list[Blade]:
        known = self.reports
        return [
            each
            for each in stage.blades
            if each.name in known and known[each.name].result in results
        ]

    def _stop(self, stage: Stage, why: str, *, back: bool = False) -> str:
        log.warning("rollout stopped: %s", why)
        self.hands.say(f"STOPPED: {why}")
        tried = self._of(stage, FAILED | {Result.UPDATED, Result.UNCHANGED})
        for blade in stage.blades:
            self.reports.setdefault(blade.name, _plain(blade, Result.NOT_TRIED))
        goes_back = back and self.plan.on_stop is OnStop.ROLLBACK
        self._note(phase=Phase.GOING_BACK if goes_back else Phase.STOPPED, why=why)
        if goes_back:
            self._go_back(stage, why, tried)
        return why

    def _go_back(self, stage: Stage, why: str, tried: Sequence[Blade]) -> None:
        """Have the ring go back, and the blades that were tried."""
        try:
            number = self.hands.rollback(stage, self._tried(stage), f"rollout stopped: {why}")
        except HeadnodeError as error:
            self.hands.say(f"Ring {stage.ring} cannot go back: {error}")
            self._note(phase=Phase.STOPPED, why=f"{why}. It cannot go back: {error}")
            return
        self.hands.say(f"Ring {stage.ring} goes back to generation {number}: {fold(list(tried))}")
        for report in rollout_once(tried, self.options, self.hands.on_report):
            why_first = self.reports[report.blade].error
            result = Result.WENT_BACK if report.good else Result.FAILED
            also = "" if report.good else f"; and it cannot go back: {report.error}"
            self.reports[report.blade] = replace(report, result=result, error=why_first + also)
        self._note(phase=Phase.WENT_BACK, why=f"{why}. Its ring went back to generation {number}")


def _name(stage: Stage) -> str:
    return f"{stage.class_name}/{stage.ring}"


def _plain(blade: Blade, result: Result) -> BladeReport:
    return BladeReport(blade=blade.name, ring=blade.ring, result=result)
