"""Blades that were off when they were to pull catch up when they are seen again.

Only what their ring has come through with: another blade of it is well with that generation, and
the last rollout was not stopped or cut off. They pull alone: no ring moves, and `rollout.json`
stays what the last rollout left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from blades import drained
from blades.inventory import Blade, all_blades, fold
from blades.transport import run_on
from headnode.files import locked
from schedules import progress
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import BladeState
from schedules.observer import Observer
from schedules.progress import Phase
from schedules.rollout import GOOD, PULL, BladeReport, Result, rollout_once
from schedules.runner import utc_now
from schedules.site import Site
from schedules.wellness import pull_line, unwell

THROUGH = frozenset({Phase.DONE, Phase.WENT_BACK})


def missed(
    blades: Sequence[Blade],
    known: Mapping[str, BladeState],
    wanted: Mapping[tuple[str, str], int],
    drained: Mapping[str, str],
) -> list[Blade]:
    """Those of `blades` that did not answer when they were last to pull, and may now. Pure.

    `wanted` is the generation of each ring, by class and name.
    """
    well = {
        (each.class_name, each.ring)
        for each in blades
        if (state := known.get(each.name)) is not None
        and state.result in GOOD
        and state.generation == wanted.get((each.class_name, each.ring))
    }
    return [
        each
        for each in blades
        if (state := known.get(each.name)) is not None
        and state.result == Result.UNREACHED
        and (each.class_name, each.ring) in well
        and each.name not in drained
    ]


def missed_once(
    site: Site, ledger: Ledger, *, clock: Callable[[], datetime] = utc_now
) -> list[Blade]:
    """Which blades have to catch up, as far as is known here.

    Raises:
        LedgerError: nobody knows.
    """
    last = progress.load(site.state)
    if last is None or last.phase not in THROUGH:
        return []
    wanted: dict[tuple[str, str], int] = {}
    left: dict[str, str] = {}
    for name, cls in site.cluster.classes.items():
        host = site.binhost(name)
        left |= drained.drained(host.folder, clock())
        for ring in cls.rings:
            if current := host.ring(ring).current():
                wanted[name, ring] = current.generation
    return missed(all_blades(site.cluster), ledger.blades(), wanted, left)


def catch_up_once(
    site: Site,
    ledger: Ledger,
    *,
    watch: Observer,
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> list[BladeReport]:
    """Have the blades that missed a rollout and answer now pull; their reports, written down.

    Raises:
        BusyError: a rollout, or a reboot, is at work. LedgerError.
    """
    with locked(site.state / progress.LOCK, progress.CATCH_UP):
        found = missed_once(site, ledger, clock=clock)
        asked = site.rollout.model_copy(update={"timeout_s": site.rollout.health_timeout_s})
        said = run_on([each.name for each in found], f"{PULL} status", asked)
        there = [each for each in found if (one := said.get(each.name)) and one.code == 0]
        if not there:
            return []
        watch.say(f"Seen again: {fold(there)}")
        pulled = rollout_once(there, site.rollout, line=pull_line(site))
        if any(each.result is Result.UPDATED for each in pulled):
            sleep(site.rollout.settle_s)
        # Who has nothing to pull may have pulled unseen: its connection was lost, and it went on.
        wrong = unwell(site, [each for each in pulled if each.good])
        reports = [
            replace(each, result=Result.UNWELL, error=wrong[each.blade])
            if each.blade in wrong
            else each
            for each in pulled
        ]
        for each in reports:
            ledger.pulled(each, clock())
        return reports
