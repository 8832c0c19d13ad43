"""The overlay of ebuilds that headnode renders: the kernels of flavours, and openMosix. Pure.

::

    <state>/overlay/                     the repository `headnode`, mirrored like any other
        profiles/, metadata/, eclass/    shipped (config/overlay_tree)
        sys-kernel/headnode-<flavour>/   one ebuild: the flavour's present revision
        sys-kernel/tree-<flavour>/       what modules of one's own are built against, in the builder
        virtual/dist-kernel/             the kernel as those modules' packages name it
        sys-cluster/openmosix-map/       /etc/openmosix.map
        sys-cluster/openmosix-user/      openMosix's tools, where their archive is at hand
        app-admin/headnode-pull/         the blades' own programs (config.pull_package)

What is shipped has headnode's own ebuild besides, and of what it needs that the Gentoo tree lacks;
that folder is an overlay by itself, for a headnode that is installed by emerge.

It is one more repository with a `path`, so that it is snapshotted, named by generations and served
to blades as all trees are.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from config.model import Cluster, Repo
from config.openmosix import openmosix_map
from config.portage import Rendered
from config.pull_package import PULL, content_version, pull_package
from headnode.errors import ConfigError

OVERLAY = "headnode"
SHIPPED = Path(__file__).with_name("overlay_tree")
KERNELS = "sys-kernel"
KERNEL_START = f"{KERNELS}/headnode-"
CLUSTER = "sys-cluster"
# What is for the headnode alone: no blade's set names it, and its archives are not mirrored.
HEADNODES = {"headnode", "clustershell"}


class Dist(BaseModel):
    """What a Manifest says of a distfile."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    file: str
    size_bytes: int
    blake2b: str
    sha512: str


class Revision(BaseModel):
    """One revision of a flavour's kernel: what its ebuild says.

    `version` and `number` make the package's version, `release` is what `uname -r` will say, and
    `local` the end of it. `archive` or `sources` (a folder in /usr/src, of the package
    `sources_atom`) is the source. `patches` are in order; those that are no `dists` lie with the
    ebuild, as the resolved configuration does. `made` is when it first came about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    flavour: str
    version: str
    number: int
    release: str
    local: str
    key: str
    compiler: str
    made: datetime
    archive: str = ""
    sources: str = ""
    sources_atom: str = ""
    patches: tuple[str, ...] = ()
    dists: tuple[Dist, ...] = ()
    make_args: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("all",)
    initramfs: str = ""

    @property
    def package(self) -> str:
        """Its package, `category/name-version`."""
        return f"{kernel_package(self.flavour)}-{self.version}-r{self.number}"

    @property
    def config_file(self) -> str:
        """The name of its resolved configuration."""
        return f"{self.version}-r{self.number}.config"


def kernel_package(flavour: str) -> str:
    """The package of a flavour's kernel."""
    return f"{KERNEL_START}{flavour}"


def tree_package(flavour: str) -> str:
    """The package of what modules of one's own are built against."""
    return f"{KERNELS}/tree-{flavour}"


def with_overlay(cluster: Cluster, atoms: Iterable[str]) -> Cluster:
    """The cluster with the overlay among its repositories, where one of its sets needs it.

    `atoms` are those of all sets.

    Raises:
        ConfigError: a repository has its name already.
    """
    if not any(KERNEL_START in atom or PULL in atom for atom in atoms):
        return cluster
    repos = cluster.mirror.repos
    if OVERLAY in repos:
        raise ConfigError(
            f"mirror.repos.{OVERLAY}: that is the name of the repository that headnode renders.",
            remedy="Give yours another one, in its profiles/repo_name too.",
        )
    ours = Repo(path=cluster.state.path / "overlay")
    mirror = cluster.mirror.model_copy(update={"repos": {**repos, OVERLAY: ours}})
    return cluster.model_copy(update={"mirror": mirror})


def overlay_files(
    cluster: Cluster,
    kernels: Mapping[str, tuple[Revision, Mapping[str, bytes]] | None],
    pull: Rendered,
    tools: Dist | None = None,
) -> dict[str, bytes]:
    """Every file of the overlay, by path.

    `kernels` has each flavour's revision with the files that lie with its ebuild, or None before
    its first build. `pull` are the programs of blades. `tools` is openMosix's archive, where it is
    at hand.
    """
    left_out = HEADNODES if tools else {*HEADNODES, "openmosix-user"}
    files = {
        str(path.relative_to(SHIPPED)): path.read_bytes()
        for path in sorted(SHIPPED.rglob("*"))
        if path.is_file() and not left_out & set(path.relative_to(SHIPPED).parts)
    }
    files["metadata/layout.conf"] = layout_conf(cluster.mirror.main_repo).encode()
    files |= _map_package(openmosix_map(cluster.openmosix.addresses))
    files |= pull_package(pull)
    if tools:
        files[f"{CLUSTER}/openmosix-user/Manifest"] = manifest([tools]).encode()
    for flavour, built in kernels.items():
        folder = kernel_package(flavour)
        if built is None:
            files[f"{folder}/headnode-{flavour}-0.ebuild"] = UNBUILT.format(flavour).encode()
            continue
        revision, with_it = built
        files[f"{folder}/{revision.package.partition('/')[2]}.ebuild"] = ebuild(revision).encode()
        files[f"{folder}/files/{about_file(revision)}"] = about(revision).encode()
        files |= {f"{folder}/files/{name}": content for name, content in with_it.items()}
        if revision.dists:
            files[f"{folder}/Manifest"] = manifest(revision.dists).encode()
    # One flavour is what a virtual can stand for: its version is the kernel's.
    [*known] = filter(None, kernels.values())
    if len(kernels) == len(known) == 1:
        files |= _modules_packages(*known[0])
    return files


def _modules_packages(revision: Revision, with_it: Mapping[str, bytes]) -> dict[str, bytes]:
    """What packages of modules need: the tree to build against, and the virtual. Pure.

    They depend on `virtual/dist-kernel:=`, whose sub-slot is the revision: a new kernel makes
    emerge build them anew, as it does what links to a library that moved. Gentoo's
    linux-mod-r1.eclass does so with USE=dist-kernel.
    """
    folder, version = tree_package(revision.flavour), f"{revision.version}-r{revision.number}"
    text = ebuild(revision, part="tree")
    files = {
        f"{folder}/{folder.partition('/')[2]}-{version}.ebuild": text.encode(),
        f"virtual/dist-kernel/dist-kernel-{version}.ebuild": VIRTUAL.format(
            version=version, kernel=revision.package, tree=f"{folder}-{version}"
        ).encode(),
        **{f"{folder}/files/{name}": content for name, content in with_it.items()},
    }
    if revision.dists:
        files[f"{folder}/Manifest"] = manifest(revision.dists).encode()
    return files


def layout_conf(main_repo: str) -> str:
    """metadata/layout.conf. Manifests are thin: what lies with an ebuild never leaves the mirror.

    Source: portage(5), "layout.conf".
    """
    shipped = (SHIPPED / "metadata/layout.conf").read_text()
    return shipped.replace("masters = gentoo\n", f"masters = {main_repo}\n")


def manifest(dists: Sequence[Dist]) -> str:
    """A thin Manifest. Source: GLEP 74."""
    return "".join(
        f"DIST {each.file} {each.size_bytes} BLAKE2B {each.blake2b} SHA512 {each.sha512}\n"
        for each in sorted(dists, key=lambda each: each.file)
    )


def about_file(revision: Revision) -> str:
    """The name of the file that `about` is written to."""
    return f"{revision.version}-r{revision.number}.json"


def about(revision: Revision) -> str:
    """What a blade is told of its kernel: /lib/modules/<release>/headnode.json."""
    said = {
        "flavour": revision.flavour,
        "release": revision.release,
        "package": revision.package,
        "key": revision.key,
        "initramfs": shlex.split(revision.initramfs),
    }
    return json.dumps(said, indent=1) + "\n"


def ebuild(revision: Revision, part: str = "image") -> str:
    """The ebuild of a kernel: the eclass does the work, these are its values.

    `part` is `image`, or `tree` for what modules of one's own are built against.
    """
    values = {
        "KERNEL_PART": part,
        "KERNEL_RELEASE": revision.release,
        "KERNEL_LOCAL": revision.local,
        "KERNEL_ARCHIVE": revision.archive,
        "KERNEL_SOURCES": revision.sources,
        "KERNEL_CONFIG": revision.config_file,
        "KERNEL_ABOUT": about_file(revision),
        "KERNEL_CC": revision.compiler,
        "KERNEL_MODULES": " ".join(revision.modules),
        "KERNEL_DATE": f"{revision.made:%a %b %e %H:%M:%S UTC %Y}",
    }
    arrays = {"KERNEL_PATCHES": revision.patches, "KERNEL_MAKE": revision.make_args}
    lines = [
        "# Rendered by headnode: changes here are lost.",
        f"# key {revision.key}",
        "EAPI=8",
        "",
        *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
        *(f"{name}=({_words(words)})" for name, words in arrays.items()),
        "inherit headnode-kernel",
        "",
        f'SRC_URI="{" ".join(each.file for each in revision.dists)}"',
    ]
    if revision.sources_atom:
        lines.append(f'BDEPEND+=" {revision.sources_atom}"')
    if part == "tree":
        lines.append(f'BDEPEND+=" ={revision.package}"')
    return "\n".join(lines) + "\n"


def _words(words: Sequence[str]) -> str:
    return "".join(f" {shlex.quote(word)}" for word in words) + (" " if words else "")


VIRTUAL = """\
# Rendered by headnode: changes here are lost.
EAPI=8

DESCRIPTION="The kernel of this cluster's blades, for packages of modules"
HOMEPAGE="https://www.kernel.org/"
S="${{WORKDIR}}"
LICENSE="metapackage"
SLOT="0/{version}"
KEYWORDS="amd64 x86"
RDEPEND="={kernel}"
BDEPEND="={tree}"
"""

# The set @blade names the package before there is one: a sync has to go through all the same.
UNBUILT = """\
# Rendered by headnode: changes here are lost.
EAPI=8

DESCRIPTION="Stands for a kernel that was not built yet"
HOMEPAGE="https://www.kernel.org/"
S="${{WORKDIR}}"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64 x86"

pkg_setup() {{
	die "This flavour's kernel was never built: headnode kernel build {}"
}}
"""

MAP_EBUILD = """\
# Rendered by headnode from [openmosix] of cluster.toml: changes here are lost.
EAPI=8

DESCRIPTION="Which node is who: /etc/openmosix.map of this cluster"
HOMEPAGE="https://openmosix.sourceforge.net/"
S="${{WORKDIR}}"
LICENSE="metapackage"
SLOT="0"
KEYWORDS="amd64 x86"

src_install() {{
	insinto /etc
	newins - openmosix.map <<-'MAP' || die
{map}	MAP
}}
"""


def _map_package(text: str) -> dict[str, bytes]:
    """The map as a package."""
    path = f"{CLUSTER}/openmosix-map/openmosix-map-{content_version(text.encode())}.ebuild"
    # Tabs before a line go (<<-), those within stay.
    indented = "".join(f"\t{line}\n" for line in text.splitlines())
    return {path: MAP_EBUILD.format(map=indented).encode()}
