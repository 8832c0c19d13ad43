"""`headnode rollout run`, and the night's: one rollout at a time, planned and carried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from blades import drained
from blades.inventory import select
from headnode.errors import BusyError, RolloutError
from headnode.files import locked
from schedules import progress
from schedules.observer import Observer
from schedules.progress import Phase, Progress
from schedules.ring_moves import RingMoves
from schedules.rollout import BladeReport
from schedules.runner import utc_now
from schedules.site import Site
from schedules.staged import Hands, Staged
from schedules.waves import Plan, plan_rollout

WAIT_S = 1.0
UNFINISHED = frozenset({Phase.RUNNING, Phase.INTERRUPTED, Phase.GOING_BACK})


def plan_once(site: Site, nodes: str | None, *, clock: Callable[[], datetime] = utc_now) -> Plan:
    """What a rollout over a node set (None: every blade) would do.

    Only one over all blades moves rings: somebody who names blades means those, with what their
    rings have.
    """
    left: dict[str, str] = {}
    for name in site.cluster.classes:
        left |= drained.drained(site.binhost(name).folder, clock())
    options = site.cluster.rollout
    return plan_rollout(select(site.cluster, nodes), left, options, whole=nodes is None)


def roll_out_once(
    site: Site,
    nodes: str | None,
    *,
    watch: Observer,
    clock: Callable[[], datetime] = utc_now,
    on_report: Callable[[BladeReport], None] = lambda report: None,
    wait: bool = False,
) -> tuple[Progress, list[BladeReport]]:
    """Carry out a rollout; how it went, and each blade's last report, in the order of the plan.

    One that was killed is gone on with, if it was over the same blades. `wait` waits for one that
    runs. `on_report` is told of each pull, and again of a blade that was not well after it.

    Raises:
        BusyError: another rollout runs, and `wait` is not set.
        ConfigError: `nodes` names no blades.
        RolloutError: one over other blades was cut off while a ring went back.
    """
    select(site.cluster, nodes)  # what names no blades waits for nobody
    path = site.state / progress.LOCK
    while True:
        try:
            with locked(path, progress.ROLLOUT):
                # Not before: who is waited for may have blades drained just now.
                plan = plan_once(site, nodes, clock=clock)
                return _run(site, plan, nodes, watch, clock, on_report)
        except BusyError as error:
            if not wait or error.path != path:
                raise
        time.sleep(WAIT_S)


def _run(
    site: Site,
    plan: Plan,
    nodes: str | None,
    watch: Observer,
    clock: Callable[[], datetime],
    on_report: Callable[[BladeReport], None],
) -> tuple[Progress, list[BladeReport]]:
    last = progress.load(site.state)
    if last and last.phase is Phase.GOING_BACK and last.nodes != nodes:
        raise RolloutError(
            "A rollout was cut off while a ring went back.",
            remedy="headnode rollout run finishes that first.",
        )
    known = last if last and last.phase in UNFINISHED and last.nodes == nodes else None
    if known:
        watch.say("Going on with the rollout that was cut off")
    total = sum(len(stage.blades) for stage in plan.stages)
    through: set[str] = set()

    def pulled(report: BladeReport) -> None:
        through.add(report.blade)
        watch.amount("rollout", len(through), total, "blades")
        on_report(report)

    moves = RingMoves(site=site, watch=watch, clock=clock, sleep=time.sleep)
    hands = Hands(
        promote=moves.promote,
        rollback=moves.rollback,
        clock=clock,
        sleep=time.sleep,
        say=watch.say,
        on_report=pulled,
    )
    # What came to no good end, or not even that, may have left blades that nobody found well.
    wary = last is None or last.phase is not Phase.DONE
    staged = Staged(site=site, plan=plan, hands=hands, nodes=nodes, known=known, wary=wary)
    done = staged.run()
    blades = [each for stage in plan.stages for each in (*stage.blades, *stage.drained)]
    return done, [staged.reports[each.name] for each in blades]
