"""What the builders do now, and what they did last.

The phases come from the file that emerge keeps for observers (FEATURES=observability, Portage
3.0.82 and later; Source: `_emerge/_observability.py`), the rest from what emerge prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from binhost.build import last_result
from headnode.files import holder
from headnode.status.model import Build, Helper, Job
from headnode.wording import counted
from schedules.site import Site

LINES = 6  # of emerge's output
TAIL_BYTES = 64 << 10
STEP = re.compile(
    r">>> (?P<what>Emerging(?: binary)?|Installing|Completed) "
    r"\((?P<number>\d+) of (?P<total>\d+)\) (?P<package>\S+?)(?:::\S+)?(?: .*)?$"
)
COUNT = re.compile(r">>> Jobs: (?P<done>\d+) of (?P<total>\d+) complete")
FAILED = re.compile(r">>> Failed to (?:emerge|install) (?P<package>[^\s,]+)")
WORTH = re.compile(r">>> (?!Jobs:|Verifying| )")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an emerge is, as it prints: `working` maps each package at work to what it is at."""

    done: int
    total: int
    working: Mapping[str, str]


def builds(site: Site, now: datetime) -> list[Build]:
    """Every class's builder."""
    return [_build(name, site.state / "build" / name, now) for name in site.cluster.classes]


def _build(class_name: str, folder: Path, now: datetime) -> Build:
    lock = folder / ".lock"
    last = last_result(folder)
    record = Build(class_name=class_name)
    if last is not None:
        record = Build(
            class_name=class_name,
            finished=last.finished,
            seconds=last.seconds,
            built=len(last.built),
            packages=len(last.packages),
        )
    who = holder(lock)
    if not who:
        return record
    at_work: dict[str, object] = {"holder": who}
    lines = _output_since(lock, folder / "logs" / "emerge.out")
    if lines:
        at = progress(lines)
        at_work |= {
            "done": at.done,
            "total": at.total,
            "jobs": tuple(jobs(at, _observed(folder / "run", lock), now.timestamp())),
            "lines": tuple(line[4:] for line in lines if WORTH.match(line))[-LINES:],
        }
    return Build(**{**dict(record), **at_work})  # a copy would take the lines unread


def _output_since(lock: Path, output: Path) -> list[str]:
    """What emerge has printed since the lock was taken; nothing of an earlier build."""
    try:
        if output.stat().st_mtime < lock.stat().st_mtime:
            return []
        with output.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def progress(lines: Iterable[str]) -> Progress:
    """How far emerge is, by the lines that it prints. Pure."""
    done = total = 0
    working: dict[str, str] = {}
    for line in lines:
        if found := STEP.match(line):
            total = int(found["total"])
            if found["what"] == "Completed":
                done += 1
                working.pop(found["package"], None)
            else:
                working[found["package"]] = found["what"].lower()
        elif found := COUNT.match(line):  # which knows of lines that are not read any more
            done, total = max(done, int(found["done"])), int(found["total"])
        elif found := FAILED.match(line):
            working.pop(found["package"], None)
    return Progress(done=done, total=total, working=working)


def _observed(folder: Path, lock: Path) -> Mapping[str, Any]:
    """The tasks of the emerge that runs, by package; a file of an earlier one is left alone."""
    try:
        since = lock.stat().st_mtime
        [newest] = sorted(
            (path for path in folder.glob("emerge-*.json") if path.stat().st_mtime >= since),
            key=lambda path: path.stat().st_mtime,
        )[-1:]
        said = json.loads(newest.read_bytes())
    except (OSError, ValueError):
        return {}
    tasks = said.get("tasks") if isinstance(said, dict) and said.get("type") == "snapshot" else None
    if not isinstance(tasks, list):
        return {}
    return {str(task["cpv"]): task for task in tasks if isinstance(task, dict) and "cpv" in task}


def jobs(at: Progress, observed: Mapping[str, Any], now_s: float) -> Iterable[Job]:
    """What is at work, with its phase where emerge tells it. Pure."""
    for package, what in at.working.items():
        task = observed.get(package, {})
        start = task.get("start_time")
        yield Job(
            package=package,
            phase=str(task.get("phase") or what),
            seconds=max(0.0, now_s - start) if isinstance(start, int | float) else None,
        )


class Distributed(Protocol):
    """What a build's record says of its helpers: objects, failures and who was left out, by name.

    The same as the record `Distributed` of a build that was helped.
    """

    jobs: Mapping[str, int]
    failures: Mapping[str, int]
    left_out: Mapping[str, str]


def helpers(site: Site) -> list[Helper]:
    """Who helped with the last good build of each class, and who could not."""
    found: list[Helper] = []
    for name in site.cluster.classes:
        last = last_result(site.state / "build" / name)
        said: Distributed | None = getattr(last, "distributed", None)  # none where nobody helps
        if said is not None:
            found += helped(said, site.cluster.distcc.slots)
    return found


def helped(said: Distributed, slots: int) -> Iterable[Helper]:
    """The helpers of one build. Pure."""
    for name, jobs in said.jobs.items():
        failures = said.failures.get(name, 0)
        note = f"{counted(failures, 'job')} not finished" if failures else ""
        yield Helper(name=name, slots=slots, jobs=jobs, well=not failures, note=note)
    for name, why in said.left_out.items():
        yield Helper(name=name, slots=slots, jobs=0, well=False, note=why)
