"""How long a patch will take to reach every blade: each step as long as it took last time.

The build is as long as emerge says that the package's last one was, the gates as long as those that
the ring's generation passed, a wave as long as its blades' last updates, `fanout` of them at once.
What was never done has no time, and no guess takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean

from binhost.build import last_result
from binhost.emerge import build_seconds
from binhost.index import cp_of
from binhost.records import GateReport
from config.model import Rollout
from headnode.errors import LedgerError
from schedules.ledger.ledger import Ledger
from schedules.rollouts import plan_once
from schedules.site import Site
from schedules.waves import Stage

EMERGE_LOG = "upper/var/log/emerge.log"  # in the builder, as Portage names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What each step took last time, in seconds; None for one that was never done."""

    steps: Mapping[str, float | None]

    def line(self, now: datetime) -> str:
        """When all of it will be done. Pure."""
        unknown = [name for name, seconds in self.steps.items() if seconds is None]
        known = {name: seconds for name, seconds in self.steps.items() if seconds is not None}
        took = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in known.items())
        if not known:
            return "ETA: not known, none of it was done before."
        total = sum(known.values())
        at = now + timedelta(seconds=total)
        more = f"; not known: {', '.join(unknown)}" if unknown else ""
        least = "not before " if unknown else ""
        return (
            f"ETA: {least}{at:%H:%M:%S} UTC, in {in_words(total)}, "
            f"if all takes as long as last time ({took}{more})."
        )


def in_words(seconds: float) -> str:
    """A time as people say it: `12 s`, `3 min`, `1 h 05 min`. Pure."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def forecast(site: Site, class_name: str, package: str, ring: str, *, rolls: bool) -> Forecast:
    """What it takes to build `package` (category/name), publish it to `ring`, and roll it out."""
    steps: dict[str, float | None] = {"build": _build(site, class_name, package)}
    steps["gates"] = _gates(site, class_name, ring)
    if rolls:
        with Ledger.of(site) as ledger:
            try:
                known = ledger.update_seconds()
            except LedgerError:  # it stops no patch
                known = {}
        for stage in plan_once(site, None).stages:
            if stage.class_name == class_name:
                steps[f"ring {stage.ring}"] = rollout_seconds(stage, known, site.rollout)
    return Forecast(steps=steps)


def _build(site: Site, class_name: str, package: str) -> float | None:
    folder = site.binhost(class_name).build_folder
    log, last = folder / EMERGE_LOG, last_result(folder)
    took = build_seconds(log.read_text(errors="replace")) if log.exists() else {}
    return build_time(package, took, last.built if last else (), last.seconds if last else 0.0)


def build_time(
    package: str, took: Mapping[str, float], built: Sequence[str], seconds: float
) -> float | None:
    """What a build of `package` takes: what it took, and what the last build was longer than that.

    `took` is the time of each package's last build, `built` what the last build of all built in
    `seconds`. Pure.
    """
    [*own] = (each for cpv, each in took.items() if cp_of(cpv) == package)
    if not own:
        return None
    return own[-1] + max(0.0, seconds - sum(took.get(cpv, 0.0) for cpv in built))


def _gates(site: Site, class_name: str, ring: str) -> float | None:
    binhost = site.binhost(class_name)
    current = binhost.ring(ring).current()
    reports: Sequence[GateReport] = ()
    if current is not None:
        reports = current.gates or binhost.generations.read(current.generation).gates
    return sum(each.seconds for each in reports) if reports else None


def rollout_seconds(stage: Stage, known: Mapping[str, float], options: Rollout) -> float | None:
    """What a ring's part of a rollout takes, from what updates took. Pure."""
    own = [known[each.name] for each in stage.blades if each.name in known]
    if not stage.blades:
        return 0.0
    if not (own or known):
        return None
    each = fmean(own or known.values())
    waves = sum(-(-len(wave) // options.fanout) for wave in stage.waves)
    return waves * each + len(stage.waves) * options.settle_s
