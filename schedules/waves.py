"""Which blades are tried when: a rollout planned, before anything is done. Pure.

Rings come in their order, and each in waves that grow, so that what one blade tells in time spares
the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ClusterShell.NodeSet import NodeSet

from blades.inventory import Blade, fold
from config.model import OnStop, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A ring's part of a rollout. `max_failed` blades may fail; `drained` are left out."""

    class_name: str
    ring: str
    waves: tuple[tuple[Blade, ...], ...]
    drained: tuple[Blade, ...]
    max_failed: int

    @property
    def blades(self) -> tuple[Blade, ...]:
        """Every blade that is to be tried."""
        return tuple(blade for wave in self.waves for blade in wave)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages in the order in which they come; `promotes` whether one hands on to the next.

    `gateways` are what blades are reached through, as a node set; empty: the headnode does itself.
    """

    stages: tuple[Stage, ...]
    promotes: bool
    on_stop: OnStop
    settle_s: float
    gateways: str = ""

    def lines(self) -> Iterator[str]:
        """What will be done, a line a step."""
        if self.gateways:
            count = len(NodeSet(self.gateways))
            yield f"through {count} gateway{'s' if count > 1 else ''}, {self.gateways}"
        before: Stage | None = None
        for stage in self.stages:
            name = f"{stage.class_name}/{stage.ring}"
            if self.promotes and before and before.class_name == stage.class_name:
                yield f"{name}: gets what {before.ring} has, if that went well and is newer"
            for number, wave in enumerate(stage.waves, 1):
                many = f"{len(wave)} blade{'s' if len(wave) > 1 else ''}"
                yield f"{name}: wave {number} of {len(stage.waves)}: {many}, {fold(list(wave))}"
            if stage.drained:
                yield f"{name}: left out, drained: {fold(list(stage.drained))}"
            back = " and goes back" if self.on_stop is OnStop.ROLLBACK else ""
            yield f"{name}: stops{back} when more than {stage.max_failed} fail"
            before = stage


def plan_rollout(
    blades: Sequence[Blade], drained: Mapping[str, str], options: Rollout, *, whole: bool
) -> Plan:
    """Plan a rollout over `blades`, which come ring by ring; `drained` are names with a reason.

    `whole` is whether those are all blades: else no ring moves, neither on nor back, since others
    of it have no part in this.
    """
    stages = [
        _stage(name, ring, tuple(group), drained, options)
        for (name, ring), group in groupby(blades, lambda each: (each.class_name, each.ring))
    ]
    return Plan(
        stages=tuple(stages),
        promotes=whole and options.promote,
        on_stop=options.on_stop if whole else OnStop.HALT,
        settle_s=options.settle_s,
        gateways=options.gateways or "",
    )


def _stage(
    class_name: str,
    ring: str,
    blades: tuple[Blade, ...],
    drained: Mapping[str, str],
    options: Rollout,
) -> Stage:
    ready = tuple(blade for blade in blades if blade.name not in drained)
    return Stage(
        class_name=class_name,
        ring=ring,
        waves=tuple(cut(ready, options.waves)),
        drained=tuple(blade for blade in blades if blade.name in drained),
        max_failed=share_of(options.max_failed, len(ready)),
    )


def share_of(share: str, count: int, *, up: bool = False) -> int:
    """How many of `count` a number or a percentage means: at most all, rounded down (or `up`)."""
    if not share.endswith("%"):
        return min(int(share), count)
    exact = int(share[:-1]) * count
    return -(-exact // 100) if up else exact // 100


def cut(blades: tuple[Blade, ...], waves: Sequence[str]) -> Iterator[tuple[Blade, ...]]:
    """Cut blades into waves; each of `waves` says how many have been tried when it is done."""
    start = 0
    for wave in [*waves, "100%"]:
        end = share_of(wave, len(blades), up=True)
        if end > start:
            yield blades[start:end]
            start = end
