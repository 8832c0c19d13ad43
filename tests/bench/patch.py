"""`make bench-patch`: from the return key to the last of 58 blades having a fixed small package.

Ours is one command, `headnode patch sys-apps/bladeinfo fix.patch --rollout`, with all gates, both
rings, waves as configured by default and health checks; only the settle time is 0.

The bare work is what nobody can do without: that build, by a plain `emerge` in the same builder,
and a plain `emerge` of that package on every blade from the same binhost, signatures checked, the
same number of them at once, spread by clush. It is done before ours and again after it, and the
mean counts, since neighbours on the machine come and go.

Steps are told apart by what the command says when: `plan_s` (the plan is there), `try_s` (the patch
was tried on the source), `build_step_s`, `publish_s` (into the pool, signed), `gates_s`,
`canary_s`, `promote_s` (its gates; the next ring), `fleet_s`. `build_s` is the bare build. Blades
are told to be at the fixed package by running it.

Run with `python -P`, since http.py in this folder is not Python's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from binhost import builder
from binhost.pool import package_names
from blades.inventory import all_blades, fold
from config.load import load
from headnode import rehearsal
from headnode.process import Completed
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import __file__ as assemble
from schedules.cycle import newest_set
from schedules.site import Site

ATOM = "sys-apps/bladeinfo"
FANOUT = 16
LONG_S = 14_400.0
OLD, NEW = "bladeinfo %s", "patched %s"
# The first words of what `headnode patch` says when a step begins, in order.
STEPS = {
    "plan_s": "",
    "try_s": "Trying ",
    "build_step_s": "Building ",
    "publish_s": "Publishing ",
    "gates_s": "integrity: ",
    "canary_s": "blade/canary: wave 1 ",
    "promote_s": "Ring fleet gets ",
    "fleet_s": "blade/fleet: wave 1 ",
}
BUILD = ("emerge", "--quiet-build=y", "--nospinner", "--oneshot", "--buildpkg", ATOM)
MERGE = f"emerge --quiet --nospinner --getbinpkgonly --oneshot {ATOM}"
FORGET = "rm -rf /var/cache/binhost/headnode"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return round(time.monotonic() - started, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """The bare work, done once."""

    build_s: float
    emerges_s: float

    @property
    def total_s(self) -> float:
        return self.build_s + self.emerges_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Ours, done once: seconds of each step, what each gate took, how blades pulled."""

    total_s: float
    steps: dict[str, float]
    gates: dict[str, float]
    pulls_s: tuple[float, ...]


@dataclass(slots=True, kw_only=True)
class Clock:
    """When each line of a command came."""

    started: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append((time.monotonic() - self.started, line))
        say(f"{self.lines[-1][0]:7.2f}  {line[:150]}" if line[:1] not in ' {}["' else "")

    def steps(self, total_s: float) -> dict[str, float]:
        """How long each of STEPS took.

        Raises:
            SystemExit: one of them was not said to begin.
        """
        begun = [self._first(words) for words in STEPS.values()]
        ends = [*begun[1:], total_s]
        return {
            name: round(end - start, 2) for name, start, end in zip(STEPS, begun, ends, strict=True)
        }

    def _first(self, words: str) -> float:
        if not words:
            return 0.0
        for at, line in self.lines:
            if line.startswith(words):
                return at
        raise SystemExit(f"headnode patch did not say {words!r}")


def spread(up: Rehearsal, line: str) -> Completed:
    """Run a shell line on every blade, FANOUT at once, by clush."""
    names = fold(all_blades(load(up.config)))
    enter = f"{shlex.quote(str(up.lab.folder / 'enter'))} %h {shlex.quote(line)}"
    clush = [sys.executable, "-m", "ClusterShell.CLI.Clush", "--worker=exec", "-S", "-q"]
    return up.lab.headnode.run([*clush, "-f", str(FANOUT), "-w", names, enter], timeout_s=LONG_S)


def bare(up: Rehearsal) -> Bare:
    """A plain build in the class's builder, and a plain emerge on every blade."""
    site = Site(cluster=load(up.config))
    shop = site.workshop("blade", newest_set(site))
    before = package_names(shop.staging)
    with builder.running(shop) as node:
        build_s = timed(lambda: node.run(BUILD, timeout_s=LONG_S))
    for name in package_names(shop.staging) - before:
        (shop.staging / name).unlink()
    spread(up, FORGET)
    return Bare(build_s=build_s, emerges_s=timed(lambda: spread(up, MERGE)))


def write_patch(folder: Path) -> Path:
    """A patch of one line of the package's source."""
    [source] = (Path(assemble).parent / "src/bladeinfo").glob("*.c")
    lines = source.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if OLD in line)
    path = folder / "state/fix.patch"
    path.write_text(
        f"--- a/{source.name}\n+++ b/{source.name}\n@@ -{at},2 +{at},2 @@\n"
        f" {lines[at - 1]}\n-{lines[at]}\n+{lines[at].replace(OLD, NEW)}\n"
    )
    return path


def ours(up: Rehearsal, patch: Path) -> Ours:
    """One command, and every blade has it."""
    clock = Clock()
    words = ("patch", ATOM, str(patch), "--rollout", "--json", "--note", "a fix")
    done = up.headnode(*words, on_line=clock)
    total_s = round(time.monotonic() - clock.started, 2)
    said = json.loads(done.output[done.output.index("\n{") :])
    results = {each["result"] for each in said["blades"]}
    if results != {"updated"}:
        raise SystemExit(f"Not every blade was updated: {results}")
    gates = said["published"]["generation"]["gates"]
    return Ours(
        total_s=total_s,
        steps=clock.steps(total_s),
        gates={each["gate"]: each["seconds"] for each in gates},
        pulls_s=tuple(each["seconds"] for each in said["blades"]),
    )


def require_fixed(up: Rehearsal) -> None:
    for blade in all_blades(load(up.config)):
        done = up.lab.node(blade.name).run(["bladeinfo", "--version"], timeout_s=60)
        if "patched" not in done.output:
            raise SystemExit(f"{blade.name} does not have the fix: {done.output}")


def result(blades: int, mine: Ours, work: list[Bare]) -> dict[str, object]:
    """What is printed."""
    bare_s = statistics.fmean(each.total_s for each in work)
    build_s = statistics.fmean(each.build_s for each in work)
    return {
        "bench": "patch",
        "blades": blades,
        "total_s": mine.total_s,
        **mine.steps,
        "build_s": round(build_s, 2),
        "bare_s": round(bare_s, 2),
        "bare_each_s": [[each.build_s, each.emerges_s] for each in work],
        "ratio": round(mine.total_s / bare_s, 3),
        "gates": mine.gates,
        "pull_median_s": round(statistics.median(mine.pulls_s), 2),
        "fanout": FANOUT,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--blades", type=int, default=58, help="how many lab blades (58)")
    parser.add_argument("--folder", type=Path, help="where (a temporary folder)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-patch-", dir=options.folder) as name,
        rehearsal.running(Path(name) / "lab", options.blades, report=say) as up,
    ):
        rehearsal.start_headnode(up)
        say("Bringing every blade to the first generation: not timed")
        for words in (("mirror", "sync"), ("build",), ("publish",), ("rollout", "run")):
            up.headnode(*words)
        patch = write_patch(up.lab.folder)
        say("The bare work")
        work = [bare(up)]
        say(f"{work[0]}\nOurs")
        mine = ours(up, patch)
        require_fixed(up)
        say("The bare work again")
        work.append(bare(up))
    print(json.dumps(result(options.blades, mine, work)))


if __name__ == "__main__":
    main()
