"""Restarts carried out: pending kernels brought into use, some blades at a time.

A blade is drained, asked to restart as soon as it is free, waited for until it answers from
another boot, and asked whether it is well with the kernel that was due; then that kernel is its
default, and it is undrained. A failure lets the blades that are at it come to their end, and no
more are begun.

Everything that is to be known after a kill is on the blades and in `drained.json`: a blade that is
drained for `reboot.WHY` was begun, and tells itself whether it has restarted. `reboot.json` is for
whoever asks how far it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from blades.inventory import fold
from blades.transport import Outcome, run_on
from config.model import Rollout
from schedules import held, reboot_progress
from schedules.progress import Phase
from schedules.reboot import (
    Fate,
    Pending,
    RebootPlan,
    RebootReport,
    Standing,
    fell_back,
    said_by,
    standing_of,
    why_not,
    why_silent,
)
from schedules.reboot_progress import BladeAt, RebootProgress
from schedules.rollout import PULL
from schedules.site import Site

LOOK_S = 2.0
BUSY_S = 30.0  # between two looks whether a job has ended
# A connection that was made just before its machine went down hangs: a question that is answered in
# a second is given up early, and asked again.
ANSWER_S = 20.0


class _Step(StrEnum):
    FREE = "waits until it is free"
    DOWN = "restarts"
    UP = "runs the due kernel"


@dataclass(kw_only=True)
class _Going:
    """A blade that is at it. `boot` is the one that it has to leave, `next_s` when it is asked."""

    pending: Pending
    step: _Step
    boot: str = ""
    claimed: bool = False
    standing: Standing | None = None
    began_s: float = 0.0
    since_s: float = 0.0
    next_s: float = 0.0

    @property
    def name(self) -> str:
        return self.pending.blade.name


@dataclass(kw_only=True)
class Reboots:
    """Restarts that are carried out; `reports` has what each blade came to."""

    site: Site
    plan: RebootPlan
    say: Callable[[str], None]
    on_report: Callable[[RebootReport], None] = lambda report: None
    clock_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    reports: dict[str, RebootReport] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._going: dict[str, _Going] = {}
        now = datetime.now(UTC)
        waiting = {
            each.blade.name: BladeAt(
                ring=each.blade.ring, batch=number, kernel=each.kernel, kernel_due=each.kernel_due
            )
            for number, batch in enumerate((self.plan.drained, *self.plan.batches))
            for each in batch
        }
        self._progress = RebootProgress(started=now, changed=now, blades=waiting)

    @property
    def options(self) -> Rollout:
        """The options of [rollout]."""
        return self.site.rollout

    def run(self) -> list[RebootReport]:
        """Carry them out. A Ctrl-C undrains who was not asked to restart yet, and says who was."""
        self._keep()
        for each in self.plan.drained:
            self._note(each, Fate.DRAINED)
        for number, batch in enumerate(self.plan.batches, 1):
            if any(each.fate is Fate.FAILED for each in self.reports.values()):
                for each in batch:
                    self._note(each, Fate.NOT_TRIED)
                continue
            names = fold([each.blade for each in batch])
            self.say(f"{number} of {len(self.plan.batches)}: {names}")
            try:
                self._batch(batch)
            except KeyboardInterrupt:
                self._let_go()
                self._keep(Phase.INTERRUPTED)
                raise
        failed = any(each.fate is Fate.FAILED for each in self.reports.values())
        self._keep(Phase.STOPPED if failed else Phase.DONE)
        return list(self.reports.values())

    def _keep(self, phase: Phase = Phase.RUNNING) -> None:
        """Write down how far it is, if that has changed."""
        if not self._progress.blades:
            return  # nothing was to be done: what was done last stays known
        blades = dict(self._progress.blades)
        for name, going in self._going.items():
            blades[name] = blades[name].model_copy(update={"does": str(going.step)})
        for name, said in self.reports.items():
            came = {"does": "", "fate": str(said.fate), "error": said.error}
            came |= {"kernel": said.kernel or blades[name].kernel, "kernel_due": said.kernel_due}
            blades[name] = blades[name].model_copy(update={**came, "seconds": said.seconds})
        before = self._progress
        self._progress = before.model_copy(update={"phase": phase, "blades": blades})
        if self._progress != before or not self.reports:
            self._progress = self._progress.model_copy(update={"changed": datetime.now(UTC)})
            reboot_progress.store(self.site.state, self._progress)

    def _batch(self, batch: Sequence[Pending]) -> None:
        self._begin(batch)
        self._keep()
        self._drain([each for each in self._going.values() if self._is_touched(each)])
        while self._going:
            self._restart(self._at(_Step.FREE))
            self._keep()
            self._look(self._at(_Step.DOWN))
            self._keep()
            self._finish(self._at(_Step.UP))
            self._keep()
            if self._going:
                self.sleep(LOOK_S)

    def _at(self, step: _Step) -> list[_Going]:
        now_s = self.clock_s()
        return [each for each in self._going.values() if each.step is step and each.next_s <= now_s]

    def _is_touched(self, each: _Going) -> bool:
        return each.pending.begun or each.step is not _Step.UP

    def _ask(self, which: Iterable[_Going], word: str, limit_s: float) -> dict[str, Outcome]:
        options = self.options.model_copy(update={"timeout_s": limit_s})
        return run_on([each.name for each in which], f"{PULL} {word}", options)

    def _begin(self, batch: Sequence[Pending]) -> None:
        """Ask how each is, and leave alone who is off or whose kernel fell back."""
        now_s = self.clock_s()
        for each in batch:
            going = _Going(pending=each, step=_Step.FREE, began_s=now_s, since_s=now_s)
            going.claimed = each.begun
            self._going[going.name] = going
        said = self._ask(self._going.values(), "status", self.options.health_timeout_s)
        for going in list(self._going.values()):
            going.standing = at = standing_of(said.get(going.name))
            if at is None and going.pending.begun:
                going.step = _Step.DOWN  # it may be restarting just now
            elif at is None:
                self._end(going, Fate.UNREACHED, why_silent(said.get(going.name)))
            elif at.error:
                self._fail(going, f"its kernels cannot be told: {at.error}")
            elif at.fell_back:
                self._fail(going, fell_back(at))
            elif not at.pending:
                going.step = _Step.UP
            else:
                going.boot = at.boot

    def _drain(self, wanted: Sequence[_Going]) -> None:
        mine = held.hold(self.site, [each.pending.blade for each in wanted])
        for each in wanted:
            each.claimed = each.name in mine
            if not each.claimed:  # somebody did so meanwhile
                self._note(self._going.pop(each.name).pending, Fate.DRAINED)
        ours = [each for each in wanted if each.claimed]
        if why := held.tell_held(self.site, [each.pending.blade for each in ours]):
            for each in ours:
                if each.pending.begun:  # it may be restarting just now, and stays as it was left
                    self._fail(each, f"it could not be drained: {why}")
                else:
                    self._end(each, Fate.FAILED, f"it could not be drained: {why}")

    def _restart(self, which: Sequence[_Going]) -> None:
        if not which:
            return
        for each in which:
            each.step = _Step.DOWN  # who is asked and not heard may be
        said = self._ask(which, "reboot", self.options.timeout_s)
        now_s = self.clock_s()
        for each in which:
            report = said_by(said.get(each.name))
            result, error = report.get("result"), str(report.get("error") or "")
            if result == "deferred":
                self._busy(each, error, now_s)
            elif result == "current":
                each.step = _Step.UP
            elif result == "failed":
                self._end(each, Fate.FAILED, error)
            else:
                each.since_s = now_s
                self.say(f"{each.name}: restarts" + (f" ({error})" if error else ""))

    def _busy(self, each: _Going, why: str, now_s: float) -> None:
        left_s = self.options.drain_s - (now_s - each.since_s)
        if left_s <= 0:
            self._end(each, Fate.DEFERRED, why)
            return
        if not each.next_s:
            self.say(f"{each.name}: {why}; waiting until it is free")
        each.step, each.next_s = _Step.FREE, now_s + min(left_s, BUSY_S)

    def _look(self, which: Sequence[_Going]) -> None:
        """See who is back from another boot, and give up who is not in time."""
        if not which:
            return
        said = self._ask(which, "status", min(self.options.health_timeout_s, ANSWER_S))
        for each in which:
            at = standing_of(said.get(each.name))
            if at is not None and at.boot != each.boot:
                self._is_back(each, at)
            elif self.clock_s() - each.since_s > self.options.reboot_s:
                how = "answers from the boot before" if at else why_silent(said.get(each.name))
                self._fail(
                    each,
                    f"it is not back within {self.options.reboot_s:g} s: {how}. Look at its "
                    "console: switched off and on, it boots the kernel that it had",
                )

    def _is_back(self, each: _Going, at: Standing) -> None:
        each.standing = at
        if at.error:
            self._fail(each, f"its kernels cannot be told: {at.error}")
        elif at.fell_back:
            self._fail(each, fell_back(at))
        elif not at.pending:
            each.step = _Step.UP
        elif each.boot:
            self._fail(each, f"it runs {at.kernel} after its restart, and {at.due} is due")
        else:  # of a run that was cut off before it had asked for a restart
            each.step, each.boot, each.since_s = _Step.FREE, at.boot, self.clock_s()

    def _finish(self, which: Sequence[_Going]) -> None:
        """See that they are well, have the kernel be their default, and undrain them."""
        if not which:
            return
        said = self._ask(which, "health", self.options.health_timeout_s)
        well = []
        for each in which:
            if why := why_not(said.get(each.name)):
                self._fail(each, f"it is not well with {_kernel(each)}: {why}")
            else:
                well.append(each)
        said = self._ask(well, "booted", self.options.timeout_s)
        for each in well:
            if why := why_not(said.get(each.name)):
                self._fail(each, f"{_kernel(each)} cannot become its default: {why}")
            else:
                restarted = each.boot or each.pending.begun
                self._end(each, Fate.REBOOTED if restarted else Fate.CURRENT)

    def _fail(self, each: _Going, why: str) -> None:
        """It failed: one that was drained stays so, and the reason says why."""
        if each.claimed:
            held.leave_held(self.site, each.pending.blade, why.partition("\n")[0])
            each.claimed = False
            why += ". It stays drained; headnode rollout reboot tries it again"
        self._end(each, Fate.FAILED, why)

    def _end(self, each: _Going, fate: Fate, error: str = "") -> None:
        """It is through: undrained, if it was drained for this."""
        del self._going[each.name]
        if why := self._undrain([each]):
            fate, error = Fate.FAILED, f"undrain_command failed: {why}"
        self._note(each.pending, fate, error, each.standing, self.clock_s() - each.began_s)

    def _undrain(self, which: Sequence[_Going]) -> str:
        return held.let_go(self.site, [each.pending.blade for each in which if each.claimed])

    def _let_go(self) -> None:
        """After a Ctrl-C: undrain who was not asked to restart yet, and say who was."""
        left = [each for each in self._going.values() if each.step is _Step.FREE]
        begun = [each for each in self._going.values() if each not in left and each.claimed]
        self._undrain([each for each in left if not each.pending.begun])
        if begun:
            names = fold([each.pending.blade for each in begun])
            self.say(
                f"Stopped. {names} may be restarting, and stays drained: headnode rollout reboot "
                "goes on with it."
            )

    def _note(
        self,
        each: Pending,
        fate: Fate,
        error: str = "",
        at: Standing | None = None,
        seconds: float = 0.0,
    ) -> None:
        report = RebootReport(
            blade=each.blade.name,
            ring=each.blade.ring,
            fate=fate,
            kernel=at.kernel if at else "",
            kernel_due=at.due if at else each.kernel_due,
            error=error,
            seconds=seconds,
        )
        self.reports[report.blade] = report
        self.on_report(report)


def _kernel(each: _Going) -> str:
    return each.standing.kernel if each.standing and each.standing.kernel else "its kernel"
