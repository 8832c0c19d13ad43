"""A cluster on disk to look at: generations and rings as publish makes them, and a night's pulls.

What is not told by files yet (pulls, runs) is a `Fleet` that takes the place of the ledger's.
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from binhost.index import join_entries
from binhost.records import BuildResult, Configuration, GateReport, Generation, save
from binhost.routes import Roots
from binhost.server import Server, open_listener
from binhost.site import Route
from binhost.site import Site as Served
from config.load import from_values
from headnode.files import write_atomic
from headnode.rehearsal import rings
from headnode.status import gather
from headnode.status.model import NextRun, Run
from headnode.status.routes import PATHS
from headnode.status.sources.fleet import Fleet, Heard
from headnode.status.views import Views
from mirror.sets import write_set
from mirror.status import Status as MirrorStatus
from mirror.status import Tried, write_status
from schedules.site import Site

NOW = datetime(2026, 3, 4, 7, 12, tzinfo=UTC)
NIGHT = NOW.replace(hour=1, minute=30)
HEADER = {"ARCH": "amd64", "CHOST": "x86_64-pc-linux-gnu"}

# Night by night: what came (a package's newest version), and what went.
NIGHTS: tuple[tuple[str, dict[str, str | None]], ...] = (
    (
        "",
        {
            "app-shells/bash": "5.2_p37",
            "dev-lang/python": "3.13.1",
            "dev-libs/openssl": "3.3.2",
            "net-misc/openssh": "9.9_p1",
            "sys-apps/portage": "3.0.82",
            "sys-cluster/munge": "0.5.16",
            "sys-cluster/slurm": "24.05.4",
            "sys-devel/gcc": "14.2.1",
            "sys-kernel/blade-kernel": "6.12.8",
            "sys-libs/glibc": "2.40",
        },
    ),
    ("", {"dev-libs/openssl": "3.3.3", "sys-apps/portage": "3.0.83"}),
    (
        "",
        {"sys-cluster/slurm": "24.11.1", "dev-libs/json-c": "0.18", "sys-cluster/munge": "0.5.16"},
    ),
    ("kernel with the patch for the network cards", {"sys-kernel/blade-kernel": "6.12.16"}),
    ("", {"dev-lang/python": "3.13.2", "app-shells/bash": "5.2_p37", "dev-libs/json-c": None}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A cluster that is looked at: its site, what its blades did, and where it is served."""

    site: Site
    fleet: Fleet


def site_with(state: Path, count: int, **classes: object) -> Site:
    """A site of `count` blades."""
    names = (
        {"canary": "blade[01-02]", "fleet": f"blade[03-{count:02}]"} if count > 2 else rings(count)
    )
    if count > 99:
        names = {"canary": "blade[0001-0020]", "fleet": f"blade[0021-{count:04}]"}
    return Site(
        cluster=from_values(
            {
                "state": {"path": str(state)},
                "classes": {"blade": {"rings": names, **classes}},
                "signing": {"mode": "off"},
            }
        )
    )


def entry_of(name: str, version: str, number: int) -> tuple[str, str]:
    category, _, package = name.partition("/")
    path = f"{category}/{package}/{package}-{version}-{number}.gpkg.tar"
    lines = [
        f"BUILD_ID: {number}",
        f"CPV: {name}-{version}",
        f"PATH: {path}",
        "SIZE: 1000",
        "SLOT: 0",
    ]
    return path, "\n".join(lines) + "\n"


def publish_night(site: Site, packages: dict[str, tuple[str, int]], why: str, at: datetime) -> int:
    """A generation of these packages (version and build id), as publish leaves it on disk."""
    folder = site.binhost("blade").generations.folder
    latest = site.binhost("blade").generations.latest()
    entries = dict(entry_of(name, *rest) for name, rest in sorted(packages.items()))
    text = join_entries(entries.values())
    snapshot = f"{at:%Y%m%dT%H%M%SZ}"
    (site.state / "mirror/repos/gentoo/snapshots" / snapshot).mkdir(parents=True, exist_ok=True)
    make_conf = f'COMMON_FLAGS="-O2 -pipe"\n# {len(packages)}\n'
    result = BuildResult(
        class_name="blade",
        snapshots=write_set(site.state, {"gentoo": snapshot}),
        atoms=("@system", "sys-cluster/slurm"),
        header=HEADER,
        packages=tuple(entries),
        built=tuple(list(entries)[:2]),
        configuration=Configuration(files={"/etc/portage/make.conf": make_conf}, links={}),
        finished=at,
        seconds=1510.0,
    )
    generation = Generation(
        number=latest.number + 1 if latest else 1,
        class_name="blade",
        parent=latest.number if latest else None,
        made=at + timedelta(minutes=9),
        why=why,
        snapshots=result.snapshots,
        atoms=result.atoms,
        header=HEADER,
        packages=dict.fromkeys(entries, "0" * 64),
        configuration=result.configuration,
        entries_sha256=hashlib.sha256(text.encode()).hexdigest(),
        gates=gates(),
    )
    write_atomic(folder / str(generation.number) / "entries", text)
    save(folder / str(generation.number) / "generation.json", generation)
    save(site.state / "build/blade/result.json", result)
    return generation.number


def gates() -> tuple[GateReport, ...]:
    said = {
        "integrity": "10 packages, all as they were entered.",
        "closure": "@blade installs on an empty blade.",
        "soname": "Every library that is linked to is there.",
        "way-back": "A lab blade went there and back.",
    }
    return tuple(GateReport(gate=name, passed=True, report=text) for name, text in said.items())


def deploy(site: Site, ring: str, number: int, at: datetime) -> None:
    binhost = site.binhost("blade")
    generation: Generation = binhost.generations.read(number)
    binhost.ring(ring).deploy(
        generation,
        binhost.generations.entries(generation),
        repos={},
        pool_url=binhost.pool_url,
        now=at,
        valid=timedelta(days=7),
        signer=None,
    )


def fill(site: Site) -> None:
    """Publish night after night; the canaries have the newest, the fleet too."""
    packages: dict[str, tuple[str, int]] = {}
    for back, (why, changes) in zip(range(len(NIGHTS) - 1, -1, -1), NIGHTS, strict=True):
        at = NIGHT - timedelta(days=back) + timedelta(minutes=31)
        for name, version in changes.items():
            if version is None:
                packages.pop(name)
            else:
                before = packages.get(name)
                number = before[1] + 1 if before and before[0] == version else 1
                packages[name] = (version, number)
        number = publish_night(site, packages, why, at)
        deploy(site, "canary", number, at + timedelta(minutes=10))
        deploy(site, "fleet", number, at + timedelta(minutes=36))
    write_status(
        site.state,
        MirrorStatus(
            repo="gentoo",
            last_try=NIGHT + timedelta(minutes=4),
            last_good=NIGHT + timedelta(minutes=4),
            seen_chk=NIGHT - timedelta(minutes=11),
            files=160_000,
            size_bytes=620 << 20,
            seconds=212.0,
            upstreams={"rsync://upstream/gentoo": Tried(last_try=NIGHT)},
        ),
    )


GLSA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE glsa SYSTEM "http://www.gentoo.org/dtd/glsa.dtd">
<glsa id="{name}"><title>{title}</title><synopsis>s</synopsis><product type="ebuild">x</product>
<announced>2026-03-01</announced><revised count="01">2026-03-01</revised><access>remote</access>
<affected><package name="{package}" auto="yes" arch="*">
<unaffected range="ge">{fixed}</unaffected><vulnerable range="lt">{fixed}</vulnerable>
</package></affected>
<background><p>b</p></background><description><p>d</p></description>
<impact type="{severity}"><p>i</p></impact><workaround><p>w</p></workaround>
<resolution><p>r</p></resolution><references></references>
</glsa>
"""
GLSAS = (
    ("202603-07", "OpenSSL: Multiple vulnerabilities", "dev-libs/openssl", "3.3.4", "high"),
    ("202602-03", "Python: Denial of service", "dev-lang/python", "3.13.2", "normal"),
)
NEWS = """Title: OpenSSH 10 drops DSA keys
Author: The tests <tests@blades.example>
Posted: 2026-03-02
Revision: 1
News-Item-Format: 2.0
Display-If-Installed: net-misc/openssh

Keys of the kind ssh-dss are refused from net-misc/openssh-10 on.
"""
ELOG = """WARN: postinst
slurmdbd's tables are converted at its first start.
Have a copy of its database before it is updated.
"""


def make_insecure(site: Site, stamp: str = "20260304T013100Z", advisories: int = 2) -> None:
    """A newest tree with advisories about what blades have, and news; and an ebuild's message."""
    repo = site.state / "mirror/repos/gentoo"
    tree = repo / "snapshots" / stamp
    for name, title, package, fixed, severity in GLSAS[:advisories]:
        text = GLSA.format(name=name, title=title, package=package, fixed=fixed, severity=severity)
        write_atomic(tree / f"metadata/glsa/glsa-{name}.xml", text)
    item = "2026-03-02-openssh-dsa"
    write_atomic(tree / f"metadata/news/{item}/{item}.en.txt", NEWS)
    (repo / "current").unlink(missing_ok=True)
    (repo / "current").symlink_to(f"snapshots/{stamp}")
    elog = site.binhost("blade").build_folder / "logs/elog"
    write_atomic(elog / "sys-cluster:slurm-24.11.1:20260302-021500.log", ELOG)


@pytest.fixture
def insecure() -> Callable[..., None]:
    """Gives a site's newest tree advisories and news, and its builder a message."""
    return make_insecure


@pytest.fixture
def get() -> Callable[[str], str]:
    """What is at an address."""

    def ask(url: str) -> str:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())

    return ask


def night_of(site: Site) -> Fleet:
    """What the blades and the schedule did in the night: nearly all of it is good."""
    blades = [name for ring in site.cluster.classes["blade"].rings.values() for name in nodes(ring)]
    wave, heard = NIGHT + timedelta(minutes=68), {}
    for number, name in enumerate(blades):
        at = wave + timedelta(seconds=11 * number % 900)
        good = Heard(result="updated", good=True, tried=at, seen=at, generation=5, kernel="6.12.16")
        heard[name] = good
        if name.endswith("17"):
            error = "emerge failed with exit code 1: no space left on device"
            heard[name] = replace(good, result="failed", good=False, generation=4, error=error)
        if name.endswith(("31", "32")):
            before = NIGHT - timedelta(days=2)
            heard[name] = replace(
                good, result="unreached", good=False, seen=before, generation=3, error="no answer"
            )
        if name.endswith("44"):
            heard[name] = replace(good, generation=4)
    drained = {name: "memory is to be replaced" for name in blades if name.endswith("50")}
    return Fleet(
        heard=heard,
        drained=drained,
        runs=runs(),
        next_runs=(
            NextRun(job="nightly", at=NIGHT + timedelta(days=1)),
            NextRun(job="verify", at=NIGHT + timedelta(days=3, hours=4)),
        ),
    )


def nodes(text: str) -> list[str]:
    from ClusterShell.NodeSet import NodeSet

    return [str(node) for node in NodeSet(text)]


def runs() -> tuple[Run, ...]:
    def step(name: str, start: float, minutes: float, note: str) -> Run:
        begun = NIGHT + timedelta(minutes=start)
        return Run(
            id="n5" if name else "nightly-5",
            job="nightly",
            step=name,
            started=begun,
            ended=begun + timedelta(minutes=minutes),
            result="good",
            note=note,
        )

    return (
        step("rollout", 67, 16, "wave 2: 52 of 56 blades"),
        step("rollout", 42, 3, "wave 1: 2 of 2 blades"),
        step("publish", 31, 9, "generation 5, 4 gates passed"),
        step("build", 4, 27, "2 packages built"),
        step("mirror-sync", 0, 4, "gentoo: new"),
        step("", 0, 83, "generation 5 is everywhere but on 4 blades"),
    )


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """The morning after the night."""
    return lambda: NOW


def start(running: ExitStack, site: Site) -> Server:
    """Serve the status of a site, and its files, on a port of its own in this process."""
    views = Views(site, now=lambda: NOW)
    route = Route(answer=lambda request: views.answer(request.path, request.fields))
    served = Served(roots=Roots(state=site.state), routes=dict.fromkeys(PATHS, route))
    return running.enter_context(Server(open_listener("127.0.0.1", 0), served))


@pytest.fixture
def serve() -> Iterator[Callable[[Site], Server]]:
    """Serve sites until the test's end."""
    with ExitStack() as running:
        yield partial(start, running)


@pytest.fixture(scope="module")
def serve_all() -> Iterator[Callable[[Site], Server]]:
    """Serve sites until the module's end."""
    with ExitStack() as running:
        yield partial(start, running)


Look = Callable[..., Looked]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a cluster after some nights, to be copied."""
    site = site_with(tmp_path_factory.mktemp("filled") / "state", 58)
    fill(site)
    return site.state


@pytest.fixture(scope="module")
def filled_site(filled: Path) -> Iterator[Site]:
    """A cluster of 58 blades after a night, which nobody changes."""
    with pytest.MonkeyPatch.context() as patch:
        site = site_with(filled, 58)
        fleet = night_of(site)
        patch.setattr(gather, "read_fleet", lambda site, now: fleet)
        yield site


@pytest.fixture
def look(tmp_path: Path, filled: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """A cluster of so many blades after a night."""

    def make(count: int = 58, **changes: Any) -> Looked:
        site = site_with(tmp_path / "state", count)
        if not site.state.exists():
            shutil.copytree(filled, site.state, symlinks=True)
        fleet = replace(night_of(site), **changes)
        monkeypatch.setattr(gather, "read_fleet", lambda site, now: fleet)
        return Looked(site=site, fleet=fleet)

    return make


@pytest.fixture
def empty(tmp_path: Path) -> Callable[..., Site]:
    """A site of so many blades on which nothing was done yet."""
    return lambda count, **classes: site_with(tmp_path / "state", count, **classes)
