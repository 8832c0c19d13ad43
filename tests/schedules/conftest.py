"""A binhost with real packages to move rings of: built once, put together into generations at will.

Its packages: `tool` brings a check and links to `libgate`; `oneway` refuses to be downgraded, as
glibc does; `flagged` has a USE flag; `broken` links to a library that nobody has.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from binhost.gates import Move, MoveKind
from binhost.generations import entries_of
from binhost.publish import Binhost, Published
from binhost.records import BuildResult, read, save
from config.model import Class, Cluster, Publish, Rollout, Signing, SigningMode, State
from mirror import sets
from mirror.tree import Folder
from mirror.upstream import metadata
from mirror.upstream.assemble import assemble
from schedules.cycle import build_once
from schedules.moving import Asked, promote_once, publish_once, rollback_once
from schedules.site import Site

NOW = datetime.now(UTC)
EBUILD = """EAPI=8
DESCRIPTION="A package of the tests"
HOMEPAGE="https://blades.example/"
S="${{WORKDIR}}"
LICENSE="GPL-2+"
SLOT="0{sub_slot}"
KEYWORDS="amd64"
{body}
"""
LIBRARY = """src_compile() {
	echo 'int gate(void) { return 0; }' > gate.c || die
	gcc -shared -fPIC -Wl,-soname,libgate.so.1 -o libgate.so.1 gate.c || die
}
src_install() {
	into /usr
	dolib.so libgate.so.1
	dosym libgate.so.1 /usr/$(get_libdir)/libgate.so
}"""
TOOL = """RDEPEND="dev-libs/libgate:="
DEPEND="${RDEPEND}"
src_compile() {
	echo 'int gate(void); int main(void) { return gate(); }' > tool.c || die
	gcc -o gatetool tool.c -lgate || die
}
src_install() {
	dobin gatetool
	exeinto /usr/lib/headnode/checks
	printf '#!/bin/sh\\nexec gatetool\\n' | newexe - tool
}"""
ONE_WAY = """pkg_pretend() {
	has_version ">${CATEGORY}/${PF}" && die "Sanity check to keep you from breaking your system"
}
src_install() { echo ${PV} > oneway; insinto /usr/share; doins oneway; }"""
FLAGGED = 'IUSE="extra"\nsrc_install() { :; }'
BROKEN = """src_compile() {
	echo 'int nobody(void) { return 0; }' > nobody.c || die
	gcc -shared -fPIC -Wl,-soname,libnobody.so.3 -o libnobody.so nobody.c || die
	echo 'int nobody(void); int main(void) { return nobody(); }' > broken.c || die
	gcc -o broken broken.c -L. -lnobody || die
}
src_install() { dobin broken; }"""
EBUILDS = {
    "dev-libs/libgate-1": LIBRARY,
    "app-misc/tool-1": TOOL,
    "app-misc/tool-2": TOOL,
    "app-misc/oneway-1": ONE_WAY,
    "app-misc/oneway-2": ONE_WAY,
    "app-misc/flagged-1": FLAGGED,
    "app-misc/broken-1": BROKEN,
}
FIRST = (
    *("=app-misc/tool-1", "=app-misc/oneway-1", "app-misc/flagged", "app-misc/broken"),
    "sys-apps/nodekeys",
)
SECOND = ("=app-misc/tool-2", "=app-misc/oneway-2", "app-misc/flagged", "sys-apps/nodekeys")


@dataclass
class Notes:
    """An observer that writes down what it is told."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class World:
    """A site with packages. `first` and `second` are the builds of its two sets of versions."""

    state: Path
    first: BuildResult
    second: BuildResult

    def site(self, publish: dict[str, Any] | None = None, **more: Any) -> Site:
        """The site, with options of [publish] and of its class."""
        return site_of(self.state, FIRST, publish or {}, **more)

    @property
    def binhost(self) -> Binhost:
        return self.site().binhost("blade")

    def stage(self, *packages: str) -> None:
        """Let the last build be one of these packages (`name-version`, all in app-misc or so)."""
        names = {Path(name).name.rpartition("-")[0]: name for name in self.packages}
        chosen = tuple(sorted(names[package] for package in packages))
        atoms = tuple(
            f"={name.split('/')[0]}/{Path(name).name.rpartition('-')[0]}" for name in chosen
        )
        update = {"packages": chosen, "atoms": atoms}
        save(self.binhost.build_folder / "result.json", self.first.model_copy(update=update))

    @property
    def packages(self) -> set[str]:
        """The pool names of everything that was built."""
        return {*self.first.packages, *self.second.packages}

    now = NOW
    notes = Notes

    def move(self, *packages: str, **more: Any) -> Move:
        """A publish of these packages to the first ring, proposed and not made."""
        self.stage(*packages)
        binhost = self.binhost
        result = read(binhost.build_folder / "result.json", BuildResult)
        stock = binhost.pool.add(binhost.staging, result.packages)
        entries = entries_of(result, stock)
        generation = binhost.generations.propose(
            result,
            stock.sha256,
            entries,
            latest=binhost.generations.latest(),
            why="",
            now=NOW,
        )
        present = self.has("canary")
        move = Move(
            kind=MoveKind.PUBLISH,
            class_name="blade",
            ring="canary",
            present=binhost.generations.read(present) if present else None,
            generation=generation,
            entries=entries,
        )
        return replace(move, **more)

    def publish(self, site: Site | None = None, **asked: Any) -> tuple[Published, list[str]]:
        """Publish to the first ring, with what the observer was told."""
        notes = Notes()
        done = publish_once(
            site or self.site(), "blade", None, now=NOW, asked=Asked(**asked), watch=notes
        )
        return done, notes.lines

    def promote(
        self, ring: str, number: int, site: Site | None = None
    ) -> tuple[Published, list[str]]:
        notes = Notes()
        done = promote_once(site or self.site(), "blade", ring, number, now=NOW, watch=notes)
        return done, notes.lines

    def rollback(self, number: int) -> tuple[Published, list[str]]:
        notes = Notes()
        done = rollback_once(self.site(), "blade", "canary", number, now=NOW, watch=notes)
        return done, notes.lines

    def has(self, ring: str) -> int | None:
        """The generation that a ring has."""
        current = self.binhost.ring(ring).current()
        return current.generation if current else None


def site_of(state: Path, atoms: tuple[str, ...], publish: dict[str, Any], **more: Any) -> Site:
    cluster = Cluster(
        state=State(path=state, reserve_mib=0),
        classes={
            "blade": Class(
                packages=atoms,
                profile="lab/amd64",
                rings={"canary": "blade01", "fleet": "blade[02-03]"},
                **more,
            )
        },
        publish=Publish(**publish),
        rollout=Rollout(),
        signing=Signing(mode=SigningMode.OFF),
    )
    return Site(cluster=cluster)


def mirror(state: Path, upstream: Path) -> None:
    """What a sync would leave: a snapshot of the tree with the tests' ebuilds, and its set."""
    assemble(upstream, tarballs=None)
    for package, body in EBUILDS.items():
        category, _, version = package.partition("/")
        folder = upstream / "tree" / category / version.rpartition("-")[0]
        folder.mkdir(exist_ok=True)
        sub_slot = "/1" if "libgate" in package else ""
        (folder / f"{version}.ebuild").write_text(EBUILD.format(body=body, sub_slot=sub_slot))
    metadata.index(upstream / "tree", upstream / "distfiles")
    folder = Folder.of(state, "gentoo")
    shutil.copytree(upstream / "tree", folder.snapshots / "20260101T000000Z")
    folder.current.symlink_to("snapshots/20260101T000000Z")
    sets.write_set(state, {"gentoo": "20260101T000000Z"})
    shutil.copytree(upstream / "distfiles", state / "mirror/distfiles")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for all tests: nothing is published in it yet."""
    folder = tmp_path_factory.mktemp("world")
    state = folder / "state"
    mirror(state, folder / "upstream")
    results = []
    for atoms in (FIRST, SECOND):
        build_once(site_of(state, atoms, {}), "blade", watch=Notes())
        results.append(read(state / "build/blade/result.json", BuildResult))
    yield World(state=state, first=results[0], second=results[1])
    shutil.rmtree(folder, ignore_errors=True)
