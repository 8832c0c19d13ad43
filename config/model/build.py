"""What is built, for whom, and where."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path, PurePosixPath

from ClusterShell.NodeSet import NodeSet
from pydantic import Field, field_validator

from config.model.base import Section
from config.values import (
    Atom,
    Count,
    Flags,
    FlavourName,
    Line,
    Nodes,
    Place,
    Ring,
    Seconds,
    Setting,
    Value,
    Variable,
    misplaced,
)


class Build(Section):
    """The builder: an overlay over a root, in which emerge builds."""

    root: Place = Field(
        Path("/"),
        description="The root that packages are built over: the headnode's own / where that is "
        "Gentoo, or the folder of an unpacked stage3. It is never written to.",
    )
    jobs: Count = Field(
        0,
        ge=0,
        description="Compile jobs at once, for make -j and for packages side by side. 0: as many "
        "as the headnode has cores.",
    )
    timeout_s: Seconds = Field(
        6 * 3600.0,
        description="Seconds that one build may take; it is ended after that, and what was built "
        "stays.",
    )


class TreeKind(StrEnum):
    """In which way blades have the trees of ebuilds."""

    PROFILES = "profiles"
    FULL = "full"
    RSYNC = "rsync"


class Class(Section):
    """Blades that can share binaries: one profile, one set of flags, one set of packages."""

    packages: tuple[Atom, ...] = Field(
        (),
        description="The set @blade: what every blade of the class has, one atom each. `@system` "
        "among them keeps the profile's base system up to date from here as well.",
    )
    world: Place | None = Field(
        None,
        examples=["blade.world"],
        description="A file with further atoms of @blade, one a line, such as a copy of a golden "
        "node's /var/lib/portage/world. Relative to cluster.toml.",
    )
    kernel: FlavourName = Field(
        "",
        examples=["openmosix"],
        description="Flavour of the kernel that its blades boot (`headnode kernel list`). Its "
        "package is then part of @blade. Empty: headnode leaves kernels and boot loader alone.",
    )
    profile: str = Field(
        "default/linux/amd64/23.0",
        description="Profile, as a folder below profiles/ of the main repository.",
    )
    chost: Value = Field(
        "x86_64-pc-linux-gnu", description="CHOST: the machine type of all binaries."
    )
    cflags: Flags = Field(
        "-O2 -pipe -march=x86-64-v2",
        description="CFLAGS: the C compiler's flags. -march names the oldest CPU of the class; "
        "x86-64-v2 runs on nearly every machine since 2009. `native` is refused, here and in "
        "every other flag: it would mean the headnode's CPU.",
    )
    cxxflags: Flags = Field("${CFLAGS}", description="CXXFLAGS: the C++ compiler's flags.")
    ldflags: Flags = Field(
        "-Wl,-O1 -Wl,--as-needed",
        description="LDFLAGS: the linker's flags. The default is Gentoo's own.",
    )
    use: Value = Field("", description="USE flags beside the profile's.")
    accept_keywords: Value = Field(
        "", description="ACCEPT_KEYWORDS beside the profile's, such as ~amd64."
    )
    accept_license: Value = Field(
        "@FREE",
        description="ACCEPT_LICENSE: licences that packages may have. The default takes free "
        "software only; single exceptions go into package_license.",
    )
    make_conf: dict[Variable, Setting] = Field(
        {},
        description="Further make.conf variables, for blades and builder alike, such as "
        'VIDEO_CARDS = "".',
    )
    package_use: tuple[Line, ...] = Field(
        (), description="Lines of package.use, as in `net-misc/curl http2`."
    )
    package_accept_keywords: tuple[Line, ...] = Field(
        (), description="Lines of package.accept_keywords, as in `dev-vcs/git ~amd64`."
    )
    package_license: tuple[Line, ...] = Field(
        (),
        description="Lines of package.license, as in "
        "`sys-kernel/linux-firmware @BINARY-REDISTRIBUTABLE`.",
    )
    package_mask: tuple[Line, ...] = Field(
        (), description="Lines of package.mask, as in `>=dev-lang/python-3.14`."
    )
    tree: TreeKind = Field(
        TreeKind.PROFILES,
        description="How blades have the trees of ebuilds. `profiles`: what installing binary "
        "packages needs of them (profiles, licences, news, GLSAs), as one squashfs image that is "
        "mounted: a few megabytes, and all of a tree changes at once. `full`: all of it as such an "
        "image, for blades on which somebody builds or reads ebuilds. `rsync`: all of it as files, "
        "by emerge --sync, for blades whose kernel mounts no squashfs; 170,000 files on each. "
        "After a change from or to `rsync`, restart `headnode serve`, and give blades their files "
        "again (blades config).",
    )
    public: bool = Field(
        False,
        strict=True,
        description="Whether anybody but the cluster's owner gets these packages. A publish is "
        "then refused where a licence forbids giving binaries away (gate `licence`). Within one "
        "organisation that is not giving away.",
    )
    redistributable: Value = Field(
        "@BINARY-REDISTRIBUTABLE",
        description="For `public`: licences whose binaries may be given away, written as in "
        "ACCEPT_LICENSE. The default is the group of that name in the main repository's "
        "profiles/license_groups. RESTRICT=bindist is refused whatever the licence.",
    )
    smoke: tuple[Line, ...] = Field(
        (),
        examples=[["munge --no-input | unmunge", "sinfo --version"]],
        description="Shell commands that must succeed on a lab blade with the new generation "
        "before a ring gets it: what would hurt most if it broke.",
    )
    rings: dict[Ring, Nodes] = Field(
        default_factory=lambda: {"canary": "blade[01-02]", "fleet": "blade[03-58]"},
        description="Rings in the order in which a generation reaches them, each a node set.",
    )

    @field_validator("profile")
    @classmethod
    def _below_profiles(cls, profile: str) -> str:
        path = PurePosixPath(profile)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("a profile is a folder below profiles/ of the main repository")
        return profile

    @field_validator("rings")
    @classmethod
    def _rings_are_apart(cls, rings: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        if not rings:
            raise ValueError("a class needs at least one ring")
        for ring, nodes in rings.items():
            for node in NodeSet(nodes):
                if node in seen:
                    raise misplaced(f"{node} is in two rings, {seen[node]} and {ring}", ring)
                seen[node] = ring
        return rings
