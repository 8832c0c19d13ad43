"""`make bench-night`: whole nights over a lab of 58 blades, against plain rsync and plain emerge.

Each blade has 200 small packages installed, all real: built once by `headnode build`, pulled by one
blade, and what that has is the layer that all blades share. The plain side asks a binhost with an
index of 2,000 entries, as a PKGDIR of some years has (those 200, and others that nobody installs);
ours offers blades what they can use. Both sides run on the same blades at the same fan-out, with
every gate and the canary on, and a settle time of 0.

*noop_ratio*: CPU seconds, children's included. Ours: `headnode schedule run nightly` whole, with
all pulls, and `headnode serve` meanwhile; the median of three. Plain: `emerge -uDN @world` on each
blade, the second of two, so that its index is cached; neither sync nor build is counted there.

*one_package_ratio*: seconds by the wall clock. Ours: the whole night, from the sync to the last
blade. Plain: the sum of bare rsync, the build by the same emerge command in the same builder, and
`emerge --oneshot` of that package on each blade, run separately; its index is made for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from binhost import builder
from binhost.emerge import build_argv
from binhost.index import render
from binhost.pool import Pool
from blades.inventory import all_blades
from blades.lab import UPSTREAM
from blades.transport import run_on
from config.load import load
from config.portage import BINREPOS, REPOS
from headnode import rehearsal
from headnode.node.spec import Life
from headnode.process import environment
from headnode.rehearsal import PROFILE, RSYNC_PORT, Rehearsal
from mirror import rsync
from mirror.upstream import metadata
from mirror.upstream.assemble import bump
from schedules.cycle import newest_set
from schedules.site import Site
from tests.bench.packages import write_packages
from tests.bench.scale import cpu_s

NOOPS = 3
PARTS = ("rsync", "build", "emerge")
PLAIN_PORT = 8090
LIMIT_S = 3600.0
NEW = "app-misc/part000"
EBUILD = """EAPI=8
DESCRIPTION="Part {number} of what a blade has"
HOMEPAGE="https://blades.example/"
S="${{WORKDIR}}"
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"
RDEPEND="{needs}"
src_install() {{
	insinto /usr/share/${{PN}}
	for name in one two three; do
		seq 1000 > ${{name}} || die
		echo ${{PV}} >> ${{name}} || die
		doins ${{name}}
	done
}}
"""
# emerge as the administrator of a blade has it: the same packages, another binhost.
CONFIGURE = f"""set -e
rm -rf /plain && mkdir -p /plain/etc && cp -a /etc/portage /plain/etc/
ln -sfn {REPOS}/gentoo/profiles/{PROFILE} /plain/etc/portage/make.profile
printf '[plain]\\nsync-uri = http://{UPSTREAM}:{PLAIN_PORT}\\nlocation = /var/cache/plain\\n' \
    > /plain{BINREPOS}
printf 'verify-signature = false\\n' >> /plain{BINREPOS}
"""
EMERGE = "PORTAGE_CONFIGROOT=/plain FEATURES=-binpkg-request-signature emerge --quiet --color=n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds by the wall clock, and CPU seconds with those of all children; what it printed."""

    wall_s: float
    cpu_s: float
    output: str


def timed(argv: list[str]) -> Took:
    """Run a command to its good end."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as file, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=errors, env=environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        errors.seek(0)
        output, said = file.read(), errors.read()
    assert process.returncode == 0, output + said
    return Took(wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime, output=output)


def parts(count: int) -> list[str]:
    """The packages that every blade has."""
    return [f"app-misc/part{number:03}" for number in range(count)]


def plant(upstream: Path, count: int) -> None:
    """Give an upstream their ebuilds; each needs up to two others."""
    names = parts(count)
    for number, package in enumerate(names):
        needs = " ".join({names[number // 2], names[number // 3]} - {package}) if number else ""
        folder = upstream / "tree" / package
        folder.mkdir()
        ebuild = folder / f"{folder.name}-1.0.ebuild"
        ebuild.write_text(EBUILD.format(number=number, needs=needs))
    metadata.index(upstream / "tree", upstream / "distfiles")
    metadata.stamp(upstream / "tree", time.time())


@contextmanager
def lab(folder: Path, blades: int, count: int, beneath: tuple[Path, ...]) -> Iterator[Rehearsal]:
    """A lab whose headnode serves, with the packages upstream. Its state is beside it: the next
    lab there has what this one built.
    """
    values = rehearsal.values(folder, blades)
    packages = ["@system", *parts(count)]
    more = {
        "classes": {"blade": {**values["classes"]["blade"], "packages": packages}},
        "state": {**values["state"], "path": str(folder.parent / "state")},
    }
    with rehearsal.running(folder, blades, more=more, beneath=beneath) as running:
        plant(running.upstream, count)
        rehearsal.start_headnode(running)
        yield running


@contextmanager
def memory(folder: Path) -> Iterator[Path]:
    """A folder in memory: overlayfs takes no layer that lies within another, and / is one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def make_layer(folder: Path, layer: Path, count: int) -> None:
    """What a blade has that has pulled everything: an upper for all others to lie over."""
    with lab(folder / "first", 1, count, ()) as running:
        for words in (("mirror", "sync"), ("build",), ("publish",), ("rollout", "run")):
            say(f"the first blade: {' '.join(words)}")
            running.headnode(*words)
        upper = running.lab.node("blade01").store / "upper"
        subprocess.run(["cp", "-a", f"{upper}/.", layer], check=True)
    for name in ("etc/headnode", "var/lib/headnode", "var/cache"):  # what is of that blade alone
        shutil.rmtree(layer / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """The plain side: a binhost of `entries` packages, and emerge on the same blades."""

    running: Rehearsal
    folder: Path
    entries: int

    @property
    def site(self) -> Site:
        return Site(cluster=load(self.running.config))

    def start(self) -> None:
        """Make and serve the binhost, and have all blades know it."""
        pool = self.site.binhost("blade").pool
        names = set(pool.entries())
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(pool.folder / name, self.folder / name)
        names |= set(write_packages(self.folder, range(self.entries - len(names))))
        self.index(names)
        argv = [sys.executable, "-u", "-m", "http.server", str(PLAIN_PORT), "--directory"]
        words = [*argv, str(self.folder)]
        rehearsal.start_server(self.running, UPSTREAM, words, "Serving", Life.WITH_STARTER)
        self.on_blades(CONFIGURE)

    def index(self, names: set[str]) -> None:
        """Index it: byte for byte as emaint would (`make bench-index` compares)."""
        place = self.folder.parent / "plain-pool"
        stock = Pool(folder=place).add(self.folder, sorted(names))
        entries = (stock.entries[name] for name in sorted(stock.entries))
        texts = render({}, entries, timestamp=int(time.time()), uri="")
        for name, content in zip(("Packages", "Packages.gz"), texts, strict=True):
            (self.folder / name).write_bytes(content)

    def on_blades(self, line: str) -> Took:
        """Run a shell line on all blades, at the rollout's fan-out."""
        argv = [sys.executable, "-m", "tests.bench.night", "--on", str(self.running.config), line]
        return timed(self.running.lab.headnode.argv(argv))

    def noop(self) -> Took:
        """A night without news."""
        return self.on_blades(f"{EMERGE} -uDN @world")

    def one_package(self) -> dict[str, float]:
        """A night with one new package, its three parts run separately."""
        running = self.running
        copy = self.folder.parent / "bare"
        copy.mkdir()
        url = f"rsync://{UPSTREAM}:{RSYNC_PORT}/gentoo-portage"
        sync = ["rsync", *map(str, rsync.build_argv(url, copy, stall_s=120))]
        timed(running.lab.headnode.argv(sync))
        new = bump(running.upstream, NEW)
        synced = timed(running.lab.headnode.argv(sync))
        running.headnode("mirror", "sync")  # for the builder's sake: not counted
        site = self.site
        shop = site.workshop("blade", newest_set(site))
        with builder.running(shop) as node:
            done = node.run(build_argv([f"{NEW}-{new}"], jobs=site.jobs), timeout_s=LIMIT_S)
        (made,) = (path for path in shop.staging.glob(f"{NEW}/*-{new}-*") if path.stat().st_size)
        name = str(made.relative_to(shop.staging))
        shutil.copy(made, self.folder / name)
        self.index({*Pool(folder=self.folder.parent / "plain-pool").entries(), name})
        merged = self.on_blades(f"{EMERGE} --oneshot ={NEW}-{new}")
        self.on_blades(f"test -d /var/db/pkg/{NEW}-{new}")
        return {
            "rsync_s": synced.wall_s,
            "build_s": done.seconds,
            "emerge_s": merged.wall_s,
            "emerge_cpu_s": merged.cpu_s,
        }


def night(running: Rehearsal) -> tuple[Took, dict[str, float]]:
    """A whole night of ours: what it took with the daemon's share, and the seconds of its steps."""
    daemon = running.servers[1].pid
    before = cpu_s(daemon)
    took = timed(running.argv("schedule", "run", "nightly", "--json"))
    run = json.loads(took.output)
    assert run["outcome"] == "ok", run
    steps = {each["name"]: seconds_of(each) for each in run["steps"]}
    served = cpu_s(daemon) - before
    return Took(wall_s=took.wall_s, cpu_s=took.cpu_s + served, output=took.output), steps


def seconds_of(step: dict[str, Any]) -> float:
    ended, begun = (datetime.fromisoformat(step[name]) for name in ("finished", "started"))
    return (ended - begun).total_seconds()


def measure(folder: Path, blades: int, packages: int, entries: int) -> dict[str, Any]:
    """All figures."""
    few = packages - 1  # and sys-apps/nodekeys
    with memory(folder / "layer") as layer:
        make_layer(folder, layer, few)
        with lab(folder / "lab", blades, few, (layer,)) as running:
            return compare(running, folder, packages, entries)


def compare(running: Rehearsal, folder: Path, packages: int, entries: int) -> dict[str, Any]:
    """Both sides, in a lab whose blades have everything but the last word of it."""
    blades = len(all_blades(Site(cluster=load(running.config)).cluster))
    say(f"{blades} blades: the first night")
    night(running)
    say("ours: nights without news")
    noops = [night(running) for _ in range(NOOPS)]
    say("ours: a night with one new package")
    new = bump(running.upstream, NEW)
    ours, steps = night(running)
    plain = Plain(running=running, folder=folder / "plain", entries=entries)
    say("plain: a binhost, and nights without news")
    plain.start()
    plain.on_blades(f"test -d /var/db/pkg/{NEW}-{new}")
    plain.noop()
    noop = plain.noop()
    plain.on_blades(f"test $(find /var/db/pkg -name PF | wc -l) -eq {packages}")
    say("plain: a night with one new package")
    found = plain.one_package()
    ring = plain.site.binhost("blade").ring("fleet").folder / "current/Packages"
    offered = ring.read_text().count("\nCPV: ")
    noop_cpu = statistics.median(took.cpu_s for took, _ in noops)
    return {
        "blades": blades,
        "noop_ratio": noop_cpu / noop.cpu_s,
        "one_package_ratio": ours.wall_s / sum(found[f"{part}_s"] for part in PARTS),
        "noop_cpu_s": noop_cpu,
        "noop_wall_s": statistics.median(took.wall_s for took, _ in noops),
        "noop_steps_s": noops[-1][1],
        "plain_noop_cpu_s": noop.cpu_s,
        "plain_noop_wall_s": noop.wall_s,
        "one_package_wall_s": ours.wall_s,
        "one_package_cpu_s": ours.cpu_s,
        "one_package_steps_s": steps,
        **{f"plain_{name}": value for name, value in found.items()},
        "packages_installed": packages,
        "plain_index_entries": entries,
        "index_entries": offered,
        "fanout": plain.site.rollout.fanout,
        "gates": [str(gate) for gate in plain.site.cluster.publish.gates],
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def on_blades(config: Path, line: str) -> int:
    """In the lab's headnode: run a line on every blade; the outcomes that are not good."""
    site = Site(cluster=load(config))
    outcomes = run_on([each.name for each in all_blades(site.cluster)], line, site.rollout)
    bad = [each for each in outcomes.values() if each.code]
    for each in bad:
        print(each.blade, each.code, each.output)
    return min(1, len(bad))


def main() -> int:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blades", type=int, default=58)
    parser.add_argument("--packages", type=int, default=200, help="installed on each blade")
    parser.add_argument("--entries", type=int, default=2000, help="of the plain side's index")
    parser.add_argument("--on", nargs=2, metavar=("CONFIG", "LINE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on:
        return on_blades(Path(options.on[0]), options.on[1])
    with tempfile.TemporaryDirectory(prefix="bench-night.", dir="/var/tmp") as name:
        found = measure(Path(name), options.blades, options.packages, options.entries)
    rsync_said = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True)
    last = {
        **rounded(found),
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "portage": version("portage"),
        "rsync": rsync_said.stdout.split()[2],
        "python": platform.python_version(),
    }
    print(json.dumps(last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
