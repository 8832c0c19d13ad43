"""Which tasks each job of [schedule] is made of: the once-functions of the cycle, in order."""

from __future__ import annotations

from collections import Counter
from functools import partial

from binhost.verify import in_rings, verify
from headnode.errors import HeadnodeError, RolloutError
from headnode.wording import counted
from schedules.cycle import build_once, sync_once
from schedules.ledger.recorder import Recorder
from schedules.moving import publish_once
from schedules.progress import Phase
from schedules.retention import tidy_once
from schedules.rollouts import roll_out_once
from schedules.runner import Task, Work
from schedules.site import Site
from schedules.upkeep import gc_once


def tasks_of(job: str, site: Site) -> list[Task]:
    """The tasks of a job, in their order. Those of several classes say which one they are of."""
    if job == "nightly":
        chain = ("mirror-sync", "build", "publish", "rollout", "verify", "gc")
        return [task for part in chain for task in tasks_of(part, site)]
    if job == "mirror-sync":
        return [Task("mirror-sync", _sync)]
    if job == "rollout":
        return [Task("rollout", _roll_out)]
    of_class = {
        "build": _build,
        "publish": _publish,
        "verify": _verify,
        "gc": _gc,
    }[job]
    several = len(site.cluster.classes) > 1
    tasks = [
        Task(f"{job} {name}" if several else job, partial(of_class, class_name=name))
        for name in site.cluster.classes
    ]
    return [*tasks, Task("tidy", _tidy)] if job == "gc" else tasks


def _sync(work: Work) -> str:
    synced = sync_once(work.site, now=work.clock(), watch=work.watch)
    new = ", ".join(synced.changed) or "none"
    fetched = counted(len(synced.fetched), "distfile")
    return f"snapshot set {synced.snapshots}; new: {new}; {fetched} fetched"


def _build(work: Work, class_name: str) -> str:
    result = build_once(work.site, class_name, watch=work.watch)
    return f"{len(result.built)} of {counted(len(result.packages), 'package')} built"


def _publish(work: Work, class_name: str) -> str:
    done = publish_once(work.site, class_name, None, now=work.clock(), watch=work.watch)
    where = f"generation {done.generation.number}, ring {done.deployment.ring}"
    return where if done.moved else f"{where}: nothing new"


def _roll_out(work: Work) -> str:
    """Bring what the first rings have to all blades, ring by ring.

    Raises:
        RolloutError: it stopped; the rings behind keep what they have.
    """
    rings = [(name, ring) for name, cls in work.site.cluster.classes.items() for ring in cls.rings]
    if not any(work.site.binhost(name).ring(ring).current() for name, ring in rings):
        return "nothing is published"
    with Recorder(work.ledger) as recorder:
        done, reports = roll_out_once(
            work.site,
            None,
            watch=work.watch,
            clock=work.clock,
            on_report=lambda each: recorder.pulled(each, work.clock()),
            wait=True,
        )
    if done.phase is not Phase.DONE:
        raise RolloutError(
            f"The rollout {done.phase}: {done.why.rstrip('.')}.",
            remedy="headnode rollout status says how each blade is, headnode blades show BLADE has "
            "its log.",
        )
    counts = Counter(each.result.value for each in reports)
    said = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
    return f"{said}; {done.why}" if done.why else said


def _verify(work: Work, class_name: str) -> str:
    binhost = work.site.binhost(class_name)
    report = verify(binhost, in_rings(binhost))
    if report.findings:
        first = "\n".join(str(each) for each in report.findings[:10])
        raise HeadnodeError(
            f"{len(report.findings)} files of what rings have are damaged or missing:\n{first}",
            remedy="headnode generations verify --repair",
        )
    return f"{counted(report.packages, 'package')}, all good"


def _gc(work: Work, class_name: str) -> str:
    return "; ".join(gc_once(work.site, class_name, now=work.clock()).lines())


def _tidy(work: Work) -> str:
    return tidy_once(work.site, work.ledger, now=work.clock())
