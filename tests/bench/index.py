"""`make bench-index`: one more package, from staging to a ring, against `emaint binhost --fix`.

Both index the same files. Ours is `headnode publish` as an administrator types it on a headnode,
where `headnode serve` runs: it takes the package into the pool, makes a generation and moves a
ring. emaint writes the index of its PKGDIR. Every time is a whole process, wall clock, its start
included, with the CPU seconds of it, its children and the copy of the process on standby
(headnode/standby.py) beside it; memory is the most that one of them had. Figures of ours and of
patched emaint are medians, and taken by turns: a machine that others use is not the same a minute
later. Before anything is timed against emaint, the two indices are compared entry by entry.

The ring is signed, as by default: each package, and the deployment. The first ten thousand are
published unsigned, since gpg would take half an hour for them. The gates that look at the disk are
asked; those that need a blade in a lab are not, since these packages cannot be installed.

`noop_s` is `headnode publish` that finds nothing new, `noop_whole_s` the same without the note that
the publish before it left (headnode/quick.py). `…_alone_s` is what both take where nothing serves,
`add_one_function_s` and `noop_function_s` what they take in a process that runs already, as a
night's and a patch's does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from binhost.index import parse_entries
from binhost.records import BuildResult, Configuration, save
from config.load import load
from config.model import Gate
from headnode.console import note
from headnode.handover import SOCKET
from headnode.quick import NOTE
from mirror.sets import write_set
from mirror.status import Status, write_status
from schedules.moving import publish_once
from schedules.observer import Silent
from schedules.site import Site
from tests.bench.emaint import CHOST, Emaint
from tests.bench.measured import Running, Took
from tests.bench.packages import CATEGORIES, write_packages
from tests.ports import free_port

SIZES = (1000, 5000, 10_000)
ADDED = 7  # packages that are added one after the other, for a median
LIMIT_S = 1800.0
GATES = ("integrity", "licence", "monotonic")
CLUSTER = """\
[state]
path = "state"
reserve_mib = 0

[serve]
listen = "127.0.0.1"
http_port = {http}
rsync_port = {rsync}
workers = 1

[publish]
gates = {gates}

[signing]
mode = "{mode}"

[classes.blade]
packages = ["app-misc/package0"]
rings = {{ canary = "blade01", fleet = "blade[02-58]" }}
"""


def _cluster(signing: str) -> str:
    http, rsync = free_port(), free_port()
    return CLUSTER.format(mode=signing, gates=json.dumps(GATES), http=http, rsync=rsync)


def timed(argv: Sequence[str], cwd: Path, env: Mapping[str, str] = os.environ) -> Took:
    """Run a program to its good end.

    It may keep the bytecode of what it imports, as an installed program has it.
    """
    took = Running(argv, cwd, installed(env)).end()
    assert took.code == 0, argv
    return took


def installed(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that may keep its bytecode."""
    return {key: value for key, value in env.items() if key != "PYTHONDONTWRITEBYTECODE"}


class Serving:
    """A running `headnode serve`, with a process on standby.

    When it has ended, `most_mb` is the most memory that one of its processes had.
    """

    def __init__(self, site: Path) -> None:
        self.most_mb = 0.0
        argv = [f"{sys.prefix}/bin/headnode", "serve"]
        self._daemon = Running(argv, site, installed(os.environ))
        socket = site / "state" / SOCKET
        deadline = time.monotonic() + LIMIT_S
        while not socket.exists():
            assert not self._daemon.ended, "headnode serve ended"
            assert time.monotonic() < deadline, "nothing stands by"
            time.sleep(0.1)
        [self._standby] = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(self._daemon.pid)
            and b"headnode.standby" in (path.parent / "cmdline").read_bytes()
        ]

    def copies_cpu_s(self) -> float:
        """CPU seconds of the commands that were handed over so far."""
        said = Path(f"/proc/{self._standby}/stat").read_text().rpartition(")")[2].split()
        return (int(said[13]) + int(said[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime

    def standby_mb(self) -> float:
        """Memory of the process on standby."""
        said = Path(f"/proc/{self._standby}/status").read_text()
        return int(said.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *raised: object) -> None:
        os.kill(self._daemon.pid, signal.SIGTERM)
        self.most_mb = self._daemon.end().rss_mb


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A headnode in `folder`, and the same packages as a PKGDIR for emaint."""

    folder: Path
    emaint: Emaint

    @property
    def staging(self) -> Path:
        """Where a build leaves its packages."""
        return self.folder / "state/build/blade/staging"

    def prepare(self) -> None:
        """Write what a sync and a configuration leave."""
        self.folder.mkdir()
        (self.folder / "cluster.toml").write_text(_cluster("off"))
        (self.folder / "state/mirror/repos/gentoo/snapshots/1").mkdir(parents=True)
        write_status(self.folder / "state", Status(repo="gentoo", last_good=datetime.now(UTC)))
        self.emaint.prepare(set(CATEGORIES))

    def built(self, names: Sequence[str], new: Sequence[str]) -> None:
        """Leave what a build leaves that made `new`; emaint's PKGDIR has them already."""
        for name in new:
            (self.staging / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(self.emaint.pkgdir / name, self.staging / name)
        result = BuildResult(
            class_name="blade",
            snapshots=write_set(self.folder / "state", {"gentoo": "1"}),
            atoms=("app-misc/package0",),
            header={"ARCH": "amd64"},
            packages=tuple(sorted(names)),
            built=(),
            configuration=Configuration(files={}, links={}),
            finished=datetime.now(UTC),
            seconds=1.0,
        )
        save(self.staging.parent / "result.json", result)

    def sign(self) -> None:
        """Have what is published from now on signed, as it is by default."""
        (self.folder / "cluster.toml").write_text(_cluster("on"))
        self.site().keys.make("bench")

    def site(self) -> Site:
        """The headnode as configured now."""
        return Site(cluster=load(self.folder / "cluster.toml"))

    def publish(self, serving: Serving | None = None) -> Took:
        """Type `headnode publish`, beside `serving` or alone."""
        if serving is None:
            return timed([sys.executable, "-m", "headnode.cli", "publish"], self.folder)
        before_s = serving.copies_cpu_s()
        took = timed([f"{sys.prefix}/bin/headnode", "publish"], self.folder)
        return replace(took, cpu_s=took.cpu_s + serving.copies_cpu_s() - before_s)

    def fix(self, *, patched: bool) -> Took:
        """Type `emaint binhost --fix`."""
        argv = self.emaint.command("fix", patched=patched)
        return timed(argv, self.folder, self.emaint.environment())

    def index(self, *, packed: bool = False) -> Path:
        """What the ring has."""
        current = self.folder / "state/binhost/blade/rings/canary/current"
        return current / ("Packages.gz" if packed else "Packages")

    def function_s(self, *, moves: bool) -> float:
        """A publish without a process's start."""
        site = self.site()
        started = time.perf_counter()
        done = publish_once(site, "blade", None, now=datetime.now(UTC), watch=Silent())
        assert done.moved is moves
        return time.perf_counter() - started


def measure(folder: Path, size: int) -> dict[str, float]:
    """All figures for `size` packages."""
    emaint = Emaint(folder=folder / "emaint", pkgdir=folder / "pkgdir")
    bench = Bench(folder=folder / "site", emaint=emaint)
    folder.mkdir()
    bench.prepare()
    note(f"{size} packages: writing them")
    names = write_packages(emaint.pkgdir, range(size))
    bench.built(names, names)
    note(f"{size} packages: publishing all, then reading all with patched emaint")
    found = {"publish_all_s": bench.publish().wall_s}
    found["emaint_patched_all_s"] = bench.fix(patched=True).wall_s
    compare(bench)
    bench.sign()
    bench.publish()
    found |= one_more(bench, names, size)
    found["emaint_ratio"] = found["emaint_stock_add_one_s"] / found["add_one_s"]
    found["emaint_patched_ratio"] = found["emaint_patched_add_one_s"] / found["add_one_s"]
    for name in ("stock", "patched"):
        ratio = found[f"emaint_{name}_add_one_cpu_s"] / found["add_one_cpu_s"]
        found[f"emaint_{name}_cpu_ratio"] = ratio
    return {key: round(value, 4) for key, value in found.items()} | {
        "index_bytes": bench.index().stat().st_size,
        "packed_bytes": bench.index(packed=True).stat().st_size,
    }


def compare(bench: Bench) -> None:
    """Check that both wrote the same entries, byte for byte."""
    files = (bench.index(), bench.emaint.pkgdir / "Packages")
    mine, other = (parse_entries(path.read_text().partition("\n\n")[2]) for path in files)
    assert f"CHOST: {CHOST}\n" not in mine
    assert mine == other


def one_more(bench: Bench, names: list[str], size: int) -> dict[str, float]:
    """Add packages one by one, by turns with ours in each way, and with patched emaint."""
    note(f"{size} packages: {ADDED} times one more, with headnode publish and patched emaint")
    took: dict[str, list[Took]] = {name: [] for name in ("add_one", "noop", "noop_whole")}
    alone: dict[str, list[Took]] = {name: [] for name in ("add_one", "noop_whole")}
    function, nothing, patched = [], [], []
    with Serving(bench.folder) as serving:
        for number in range(size, size + 4 * ADDED, 4):
            _one_more(bench, names, number)
            took["add_one"].append(bench.publish(serving))
            assert f"PACKAGES: {number + 1}\n" in bench.index().read_text()
            took["noop"].append(bench.publish(serving))
            (bench.folder / "state" / NOTE).unlink()
            took["noop_whole"].append(bench.publish(serving))
            alone["noop_whole"].append(bench.publish())
            nothing.append(bench.function_s(moves=False))
            _one_more(bench, names, number + 1)
            alone["add_one"].append(bench.publish())
            _one_more(bench, names, number + 2)
            function.append(bench.function_s(moves=True))
            bench.fix(patched=True)  # of those that came since
            _one_more(bench, names, number + 3)
            patched.append(bench.fix(patched=True))
            bench.publish()
        standby_mb = serving.standby_mb()
    note(f"{size} packages: one more, with stock emaint")
    _one_more(bench, names, size + 4 * ADDED)
    stock = bench.fix(patched=False)
    found = {f"{name}_s": _median(each.wall_s for each in every) for name, every in took.items()}
    for name, every in took.items():
        found[f"{name}_cpu_s"] = _median(each.cpu_s for each in every)
    for name, every in alone.items():
        found[f"{name}_alone_s"] = _median(each.wall_s for each in every)
    return found | {
        "add_one_alone_cpu_s": _median(each.cpu_s for each in alone["add_one"]),
        "add_one_rss_mb": max(serving.most_mb, *(each.rss_mb for each in alone["add_one"])),
        "standby_mb": standby_mb,
        "add_one_function_s": _median(function),
        "noop_function_s": _median(nothing),
        "emaint_patched_add_one_s": _median(each.wall_s for each in patched),
        "emaint_patched_add_one_cpu_s": _median(each.cpu_s for each in patched),
        "emaint_stock_add_one_s": stock.wall_s,
        "emaint_stock_add_one_cpu_s": stock.cpu_s,
    }


def _median(found: Iterable[float]) -> float:
    return statistics.median(found)


def _one_more(bench: Bench, names: list[str], number: int) -> None:
    new = write_packages(bench.emaint.pkgdir, range(number, number + 1))
    names += new
    bench.built(names, new)


def main() -> None:
    """Measure, and print a table and then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of packages")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="bench-index.") as folder:
        for size in options.sizes:
            results[size] = measure(Path(folder) / str(size), size)
            print(f"{size}: {json.dumps(results[size])}", flush=True)
    last = {
        "packages": max(results),
        **results[max(results)],
        "signing": "on",
        "gates": GATES,
        "gates_off": [gate for gate in Gate if gate not in GATES],
        "load": os.getloadavg()[0],
        "sizes": {str(size): found for size, found in results.items()},
        "portage": version("portage"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
