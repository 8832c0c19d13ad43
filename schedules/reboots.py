"""`headnode rollout reboot`: pending kernels brought into use, some blades at a time.

A blade is drained, asked to restart as soon as it is free, waited for until it answers from
another boot, and asked whether it is well with the kernel that was due; then that kernel is its
default, and it is undrained. A failure lets the blades that are at it come to their end, and no
more are begun.

Everything that is to be known after a kill is on the blades and in `drained.json`: a blade that is
drained for `reboot.WHY` was begun, and tells itself whether it has restarted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from blades import drained
from blades.inventory import Blade, fold, select
from blades.transport import SSH_FAILED, Outcome, run_on
from config.model import Rollout
from headnode.errors import ConfigError, HeadnodeError
from headnode.files import locked
from headnode.process import last_lines, run
from schedules import progress
from schedules.ledger.ledger import Ledger
from schedules.observer import Observer
from schedules.reboot import (
    WHY,
    Fate,
    Pending,
    RebootPlan,
    RebootReport,
    Standing,
    plan_reboots,
    said_by,
    standing_of,
)
from schedules.rollout import PULL
from schedules.site import Site

log = logging.getLogger(__name__)

LOOK_S = 2.0
BUSY_S = 30.0  # between two looks whether a job has ended
COMMAND_S = 120.0  # drain_command and undrain_command


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

    @property
    def options(self) -> Rollout:
        """The options of [rollout]."""
        return self.site.rollout

    def run(self) -> list[RebootReport]:
        """Carry them out. A Ctrl-C undrains who was not asked to restart yet, and says who was."""
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
                raise
        return list(self.reports.values())

    def _batch(self, batch: Sequence[Pending]) -> None:
        self._begin(batch)
        self._drain([each for each in self._going.values() if self._is_touched(each)])
        while self._going:
            self._restart(self._at(_Step.FREE))
            self._look(self._at(_Step.DOWN))
            self._finish(self._at(_Step.UP))
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
                self._end(going, Fate.UNREACHED, _why_silent(said.get(going.name)))
            elif at.error:
                self._fail(going, f"its kernels cannot be told: {at.error}")
            elif at.fell_back:
                self._fail(going, _fell_back(at))
            elif not at.pending:
                going.step = _Step.UP
            else:
                going.boot = at.boot

    def _drain(self, wanted: Sequence[_Going]) -> None:
        now = datetime.now(UTC)
        for class_name, names in _by_class(wanted).items():
            folder = self.site.binhost(class_name).folder
            mine = set(drained.claim(folder, names, WHY, now))
            for name in names:
                if name not in mine:  # somebody did so meanwhile
                    self._note(self._going.pop(name).pending, Fate.DRAINED)
        held = [each for each in wanted if each.name in self._going]
        for each in held:
            each.claimed = True
        if why := self._command(self.options.drain_command, held):
            for each in held:
                self._end(each, Fate.FAILED, f"it could not be drained: {why}")

    def _command(self, line: str, which: Sequence[_Going]) -> str:
        """Run a command of the site for some blades; why it failed, empty if it did not."""
        if not line or not which:
            return ""
        names = fold([each.pending.blade for each in which])
        try:
            run(["sh", "-c", line], timeout_s=COMMAND_S, env={"HEADNODE_NODES": names})
        except HeadnodeError as error:
            return str(error)
        return ""

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
                self.say(f"{each.name}: restarts")

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
        said = self._ask(which, "status", self.options.health_timeout_s)
        for each in which:
            at = standing_of(said.get(each.name))
            if at is not None and at.boot != each.boot:
                self._is_back(each, at)
            elif self.clock_s() - each.since_s > self.options.reboot_s:
                how = "answers from the boot before" if at else _why_silent(said.get(each.name))
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
            self._fail(each, _fell_back(at))
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
            if why := _why_not(said.get(each.name)):
                self._fail(each, f"it is not well with {_kernel(each)}: {why}")
            else:
                well.append(each)
        said = self._ask(well, "booted", self.options.timeout_s)
        for each in well:
            if why := _why_not(said.get(each.name)):
                self._fail(each, f"{_kernel(each)} cannot become its default: {why}")
            else:
                restarted = each.boot or each.pending.begun
                self._end(each, Fate.REBOOTED if restarted else Fate.CURRENT)

    def _fail(self, each: _Going, why: str) -> None:
        """It failed: one that was drained stays so, and the reason says why."""
        if each.claimed:
            folder = self.site.binhost(each.pending.blade.class_name).folder
            first = why.partition("\n")[0]
            drained.claim(folder, [each.name], WHY, datetime.now(UTC), came=first)
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
        held = [each for each in which if each.claimed]
        for class_name, names in _by_class(held).items():
            drained.release(self.site.binhost(class_name).folder, names, WHY)
        return self._command(self.options.undrain_command, held)

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


def plan_once(site: Site, nodes: str | None, ring: str | None, at_once: int) -> RebootPlan:
    """What restarts would be made of a node set (None: all), of one ring or all.

    Raises:
        ConfigError: there is no such blade or ring. LedgerError: nobody knows what is pending.
    """
    blades = select(site.cluster, nodes)
    if ring is not None:
        known = {name for each in site.cluster.classes.values() for name in each.rings}
        if ring not in known:
            raise ConfigError(
                f"There is no ring {ring!r}.", remedy=f"The rings are {', '.join(sorted(known))}."
            )
        blades = [each for each in blades if each.ring == ring]
    left: dict[str, str] = {}
    for name in site.cluster.classes:
        left |= drained.drained(site.binhost(name).folder)
    with Ledger.of(site) as ledger:
        return plan_reboots(blades, ledger.blades(), left, at_once)


def reboot_once(
    site: Site,
    nodes: str | None,
    ring: str | None,
    *,
    at_once: int,
    watch: Observer,
    on_report: Callable[[RebootReport], None] = lambda report: None,
) -> list[RebootReport]:
    """Carry out the restarts that `plan_once` plans; what each blade came to.

    Raises:
        BusyError: a rollout, or another of these, is at work. ConfigError, LedgerError.
    """
    with locked(site.state / progress.LOCK, "headnode rollout reboot"):
        plan = plan_once(site, nodes, ring, at_once)
        return Reboots(site=site, plan=plan, say=watch.say, on_report=on_report).run()


def _by_class(which: Iterable[_Going]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in which:
        blade: Blade = each.pending.blade
        found.setdefault(blade.class_name, []).append(blade.name)
    return found


def _kernel(each: _Going) -> str:
    return each.standing.kernel if each.standing and each.standing.kernel else "its kernel"


def _fell_back(at: Standing) -> str:
    return (
        f"{at.due} was booted and fell back to {at.kernel}. It is not tried again until another "
        "kernel is due, or headnode-kernel --again was run on the blade"
    )


def _why_silent(outcome: Outcome | None) -> str:
    """Why a blade gave no answer that can be read. Pure."""
    if outcome is None or outcome.code is None:
        return "no answer"
    return last_lines(outcome.output, 3) or f"exit code {outcome.code}, no output"


def _why_not(outcome: Outcome | None) -> str:
    """Why a blade did not do what it was asked to; empty if it did. Pure."""
    if outcome is not None and outcome.code == 0:
        return ""
    said = said_by(outcome)
    if said and outcome is not None and outcome.code != SSH_FAILED:
        return str(said.get("error") or said["result"])
    return _why_silent(outcome)
