"""`make bench-distcc`: the same build by the headnode alone and by 1, 2 and 4 helpers.

The helpers are lab blades with distccd as it is rendered for them, the builder is a node that
reaches them as a real one does (probe, relay, MAKEOPTS and DISTCC_HOSTS are the product's). All
share the cores of this machine, so each compiler waits a second before it compiles, here and
there: that is what more helpers can divide, whatever the cores. Every machine has 2 slots. Nothing
is compiled by the headnode while there are helpers: its own record is checked for that, and the
daemons' logs have a COMPILE_OK for each object.

Without the delay, `overhead_ratio` is the build by one helper over the one by the headnode alone:
the same compiler on the same cores, so that what is more is distcc's. Each round makes every build
once; a ratio is the median over the rounds of what each round gave, since the builds of a round had
the same neighbours on the machine.

Run with `python -P`, since this file has the name of a package.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from blades import lab as labs
from config.distccd import distccd_files
from config.load import from_values
from config.model import Cluster
from distcc.crew import Yard, account, assembled
from headnode.errors import HeadnodeError
from headnode.files import remove_tree
from headnode.node.running import Node, start
from headnode.node.spec import Bind, NodeSpec
from headnode.process import require, run
from mirror.upstream.tarballs import Tarball, fetch_tarballs

HELPERS = (1, 2, 4)
SLOTS = 2
DELAY_S = 1.0
BUILD_S = 7200.0
USERS = ("distcc", "distccd")  # Gentoo's, Debian's
LOG = "/var/log/distccd.log"
MASQUERADED = "/usr/lib/distcc:/usr/local/bin:/usr/bin:/bin"
INSIDE = PurePosixPath("/var/tmp/logs/distcc")
WORK = "/root/work"
LUA = Tarball(
    package="dev-lang/lua",
    version="5.4.4",
    debian="lua5.4",
    sha256="164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61",
)
KERNEL = Path("/usr/src/linux-source-6.1.tar.xz")
# Only what makes an object waits: neither preprocessing nor links go to a helper.
WRAPPER = """#!/bin/sh
case " $* " in
*" -E "*) ;;
*" -c "*) [ ! -e /run/delay ] || sleep {delay} ;;
esac
exec /usr/bin/{real} "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What is built: a tarball, how it is got ready, and what makes its objects.

    `assembler` says whether it has sources that are not for helpers.
    """

    name: str
    assembler: bool
    tarball: Path
    prepare: str
    clean: str
    make: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One build: its time, its objects, and how many of them the daemons' logs tell of."""

    helpers: int
    delay_s: float
    seconds: float
    objects: int
    compile_ok: int
    make: str


def lua(tarball: Path) -> Project:
    """The library of Lua: 32 sources.

    With the delay they are not optimised, so that the cores, which all helpers share here, count
    for little beside the second that each compiler waits.
    """
    flags = 'CFLAGS="$OPTIMISE -std=gnu99 -DLUA_COMPAT_5_3 -DLUA_USE_POSIX"'
    return Project(
        name="lua-5.4.4",
        assembler=False,
        tarball=tarball,
        prepare="true",
        clean="make -C src clean",
        make=f"make -C src liblua.a {flags} CC=gcc",
    )


def kernel(target: str) -> Project:
    """Linux 6.1 as Debian ships it, its smallest configuration."""
    return Project(
        name=f"linux-6.1 tinyconfig {target}",
        assembler=True,
        tarball=KERNEL,
        # What runs on the headnode (HOSTCC) and is made before anything else is no part of it.
        prepare="make tinyconfig && make -j2 prepare modules_prepare",
        clean="find . -path ./scripts -prune -o -name tools -prune -o -name '*.[oa]' "
        "-exec rm {} +; rm -f vmlinux .vmlinux* .tmp*",
        make=f"make CC=gcc HOSTCC=/usr/bin/gcc {target}",
    )


def cluster(helpers: int, user: str) -> Cluster:
    """A cluster of 4 blades, of which the first `helpers` help."""
    values = {
        "classes": {"blade": {"rings": {"all": f"blade[1-{HELPERS[-1]}]"}}},
        "distcc": {
            "helpers": f"blade[1-{helpers}]",
            "networks": [str(labs.NETWORK)],
            "slots": SLOTS,
            "user": user,
            "probe_timeout_s": 60.0,
        },
    }
    return from_values(values)


def chost_compiler() -> str:
    """The name under which distcc calls gcc: with the machine's prefix, where there is that."""
    triplet = run(["gcc", "-dumpmachine"], timeout_s=60).output.strip()
    return f"{triplet}-gcc" if Path(f"/usr/bin/{triplet}-gcc").exists() else "gcc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is within the lab's headnode: the way to the blades, and the builder."""

    lab: Path
    user: str
    builder: Node
    yard: Yard
    project: Project

    def names(self) -> list[str]:
        """All nodes whose compiler may have to wait."""
        return [f"blade{number}" for number in range(1, HELPERS[-1] + 1)]

    def on(self, name: str, line: str) -> None:
        """Run a line on a blade."""
        run([self.lab / "enter", name, line], timeout_s=60)

    def sh(self, line: str, variables: Mapping[str, str] | None = None) -> str:
        """Run a line in the project's folder in the builder."""
        setting = [f"{name}={value}" for name, value in (variables or {}).items()]
        argv = ["env", *setting, "sh", "-c", f"cd {WORK}/* && {line}"]
        return self.builder.run(argv, timeout_s=BUILD_S).output

    def delay(self, seconds: float) -> None:
        """Have every compiler wait, or none."""
        line = f"{'touch' if seconds else 'rm -f'} /run/delay"
        for name in self.names():
            self.on(name, line)
        self.builder.run(["sh", "-c", line], timeout_s=60)

    def compiled(self) -> int:
        """Objects that the daemons say they have made, but for those of probes."""
        logs = [self.lab / "nodes" / name / "upper" / LOG.lstrip("/") for name in self.names()]
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return sum(" COMPILE_OK " in line and "/probe/probe.c" not in line for line in lines)

    def objects(self) -> set[str]:
        """The objects of C that lie there; what is made of assembler is not for helpers."""
        script = (
            "find . -name '*.o' | while read -r name; do "
            '[ ! -e "${name%.o}.c" ] || echo "$name"; done'
        )
        return set(self.sh(script).splitlines())


def build(
    ground: Ground, make: str, delay_s: float, variables: Mapping[str, str]
) -> tuple[float, int]:
    """Build from clean; seconds, and the objects that came of it."""
    ground.delay(delay_s)
    variables = {**variables, "OPTIMISE": "-O0" if delay_s else "-O2"}
    ground.sh(f"{ground.project.clean} > /dev/null")
    before = ground.objects()
    started = time.monotonic()
    ground.sh(f"{ground.project.make} {make} > /dev/null", variables)
    seconds = time.monotonic() - started
    return seconds, len(ground.objects() - before)


def measure_alone(ground: Ground, delay_s: float) -> Run:
    """The headnode alone, with as many slots as a helper has."""
    make = f"-j{SLOTS}"
    seconds, objects = build(ground, make, delay_s, {})
    return Run(
        helpers=0, delay_s=delay_s, seconds=seconds, objects=objects, compile_ok=0, make=make
    )


def measure_helped(ground: Ground, helpers: int, delay_s: float) -> Run:
    """The headnode with helpers; raises HeadnodeError where anything else compiled than they."""
    options = cluster(helpers, ground.user).distcc
    with assembled(options, ground.yard) as crew:
        if crew.left_out:
            raise HeadnodeError(f"Not all helpers passed: {crew.left_out}.")
        before = ground.compiled()
        # -l is about the load of the machine, which here is that of the helpers as well.
        jobs = crew.make_options.partition(" ")[0]
        seconds, objects = build(ground, jobs, delay_s, {**crew.variables, "PATH": MASQUERADED})
    compile_ok, done = ground.compiled() - before, account(ground.yard.folder)
    local = done.local if not ground.project.assembler else 0
    if (compile_ok, done.remote, local, done.fallbacks) != (objects, objects, 0, 0):
        raise HeadnodeError(f"{objects} objects, {compile_ok} COMPILE_OK, and distcc says {done}.")
    return Run(
        helpers=helpers,
        delay_s=delay_s,
        seconds=seconds,
        objects=objects,
        compile_ok=compile_ok,
        make=jobs,
    )


def measure(ground: Ground, rounds: int) -> list[Run]:
    """All builds, in turn and several times; without rounds once, and only those with delay."""
    runs = []
    delayed = [partial(measure_alone, ground, DELAY_S)]
    delayed += [partial(measure_helped, ground, count, DELAY_S) for count in HELPERS]
    plain = [partial(measure_alone, ground, 0.0), partial(measure_helped, ground, 1, 0.0)]
    for each in (*delayed * max(1, rounds), *plain * rounds):
        runs.append(each())
        say(f"{ground.project.name}: {runs[-1]}")
    return runs


def summary(runs: Sequence[Run], prefix: str = "") -> dict[str, object]:
    """The contract's keys and what they were worked out from. Pure."""

    def seconds(helpers: int, delay_s: float) -> list[float]:
        return [r.seconds for r in runs if (r.helpers, r.delay_s) == (helpers, delay_s)]

    def ratio(over: list[float], under: list[float]) -> float:
        return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 2)

    keys: dict[str, object] = {
        f"{prefix}speedup_{count}": ratio(seconds(0, DELAY_S), seconds(count, DELAY_S))
        for count in HELPERS
    }
    if any(not each.delay_s for each in runs):
        keys[f"{prefix}overhead_ratio"] = ratio(seconds(1, 0.0), seconds(0, 0.0))
    keys[f"{prefix}objects"] = runs[0].objects
    keys[f"{prefix}raw"] = [asdict(each) for each in runs]
    return keys


@contextmanager
def builder(folder: Path, project: Project) -> Iterator[tuple[Node, Path]]:
    """A node to build in, and its DISTCC_DIR as seen from here."""
    logs = folder / "logs"
    logs.mkdir(parents=True)
    binds = [
        Bind(source=project.tarball, target=PurePosixPath("/root/tarball")),
        Bind(source=logs, target=INSIDE.parent, writable=True),
    ]
    spec = NodeSpec(
        name="builder", store=folder / "node", lower=Path("/"), binds=tuple(binds), throwaway=True
    )
    node = start(spec)
    try:
        yield node, logs / INSIDE.name
    finally:
        node.stop()


def inside(folder: Path, user: str, projects: Sequence[tuple[str, Project, int]]) -> None:
    """What runs in the lab's headnode: from there the blades are reached."""
    result: dict[str, object] = {}
    for prefix, project, rounds in projects:
        say(f"{project.name}: getting ready")
        with builder(folder / "build", project) as (node, distcc_dir):
            compilers = {"gcc", chost_compiler()}
            script = f"mkdir -p {WORK} && tar xf /root/tarball -C {WORK}"
            node.run(["sh", "-c", script], timeout_s=BUILD_S)
            yard = Yard(
                node=node,
                folder=distcc_dir,
                inside=INSIDE,
                chost="x86_64-pc-linux-gnu",
                flags={"CFLAGS": "-O2", "CXXFLAGS": "-O2"},
                cores=os.cpu_count() or 1,
            )
            ground = Ground(lab=folder / "lab", user=user, builder=node, yard=yard, project=project)
            ground.sh(f"{project.prepare} > /dev/null")
            for name in compilers:
                node.run(["sh", "-c", install(name)], timeout_s=60)
            result |= summary(measure(ground, rounds), prefix)
        remove_tree(folder / "build")
    print(json.dumps(result))


def wrapper() -> str:
    """The compiler that waits."""
    return WRAPPER.format(delay=DELAY_S, real="gcc")


def install(name: str) -> str:
    """A shell line that puts the compiler that waits in front of the real one. Pure."""
    path = f"/usr/local/bin/{name}"
    return f"printf %s {shlex.quote(wrapper())} > {path}; chmod 755 {path}"


def start_distccd(lab: labs.Lab, blade: str, user: str) -> None:
    """Start distccd on a blade with the options that OpenRC's script is given."""
    script = (
        f"{install(chost_compiler())}; "
        f". /etc/conf.d/distccd; : > {LOG}; chown {user} {LOG}; "
        f'exec "$DISTCCD_EXEC" --daemon --no-detach $DISTCCD_OPTS --log-file {LOG}'
    )
    argv = lab.node(blade).argv(["sh", "-c", script])
    subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)


def outside(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Put up the lab, and measure in its headnode."""
    passwd = Path("/etc/passwd").read_text()
    user = next(name for name in USERS if f"\n{name}:" in passwd)
    blades = [f"blade{number}" for number in range(1, HELPERS[-1] + 1)]
    files = {name: distccd_files(cluster(HELPERS[-1], user), name) for name in blades}
    with labs.running(folder / "lab", files) as lab:
        for name in blades:
            start_distccd(lab, name, user)
        words = ["--inside", folder, "--user", user, "--rounds", options.rounds]
        words += ["--tarballs", options.tarballs or folder / "cache"]
        words += ["--kernel", options.kernel] if options.kernel else []
        me = [sys.executable, "-P", Path(__file__).resolve(), *words]
        argv = lab.headnode.argv([str(word) for word in me])
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def versions() -> dict[str, str]:
    """Of what was measured."""
    said = {name: run([name, "--version"], timeout_s=10).output for name in ("distcc", "gcc")}
    return {name: text.splitlines()[0] for name, text in said.items()}


def say(text: str) -> None:
    """Tell how it goes on, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench-distcc")
    parser.add_argument("--rounds", type=int, default=3, help="each build this often")
    parser.add_argument(
        "--kernel", nargs="?", const="vmlinux", default="", help="a target of Linux, too"
    )
    parser.add_argument("--tarballs", type=Path, help="folder that keeps what was fetched")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--user", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        projects = [("", lua(options.tarballs / "tarballs" / LUA.name), options.rounds)]
        if options.kernel:
            projects.append(("kernel_", kernel(options.kernel), 0))
        inside(options.inside, options.user, projects)
        return
    require("distcc", "distccd", "gcc", "make")
    with tempfile.TemporaryDirectory(prefix="headnode-bench-") as name:
        folder = Path(name)
        if fetch_tarballs(options.tarballs or folder / "cache", wanted=[LUA]) is None:
            raise SystemExit("The sources of Lua cannot be had from Debian here.")
        result = outside(folder, options)
    print(json.dumps({**result, "cores": os.cpu_count(), "versions": versions()}))


if __name__ == "__main__":
    main()
