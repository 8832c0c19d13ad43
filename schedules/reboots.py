"""`headnode rollout reboot`: one at a time, planned and carried out."""

from __future__ import annotations

from collections.abc import Callable

from blades import drained
from blades.inventory import select
from headnode.errors import ConfigError
from headnode.files import locked
from schedules import progress
from schedules.ledger.ledger import Ledger
from schedules.observer import Observer
from schedules.reboot import RebootPlan, RebootReport, plan_reboots
from schedules.restarting import Reboots
from schedules.runner import utc_now
from schedules.site import Site


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
        left |= drained.drained(site.binhost(name).folder, utc_now())
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
    with locked(site.state / progress.LOCK, progress.REBOOT):
        plan = plan_once(site, nodes, ring, at_once)
        return Reboots(site=site, plan=plan, say=watch.say, on_report=on_report).run()
