"""Every option of cluster.toml: meaning, unit, default, and why that default.

Unknown keys are refused; flags that would tie binaries to the headnode's own CPU are refused; a
blade in two rings is refused. The manual's option page and the file that `headnode init` writes
are made from this module.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Self

from ClusterShell.NodeSet import NodeSet
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from config.values import (
    Atom,
    Count,
    Days,
    Fingerprint,
    Flags,
    Host,
    Hours,
    Line,
    Name,
    Nodes,
    Place,
    Port,
    Ring,
    Seconds,
    Setting,
    Upstream,
    Value,
    Variable,
    Web,
    misplaced,
)


class Section(BaseModel):
    """A table of cluster.toml: read once, never changed, no key that is not an option."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class State(Section):
    """Where headnode keeps what it knows and has built."""

    path: Place = Field(
        Path("/var/lib/headnode"),
        description="Folder of all state: mirror, packages, generations, logs. One file system, "
        "since files are put in place by rename and hard link.",
    )
    reserve_mib: Count = Field(
        1024,
        ge=0,
        description="Free space, in MiB, below which sync, build and publish refuse to start. "
        "A disk that fills up in the middle of a build costs the night. 0: never refuse.",
    )


class Serve(Section):
    """What the daemon listens on, and how blades reach it."""

    host: Host = Field(
        "headnode",
        description="Name or address under which blades reach the headnode. It is written into "
        "their binrepos.conf and repos.conf, and into every index.",
    )
    listen: Host = Field(
        "0.0.0.0",  # noqa: S104 (blades are other machines)
        description="Address that HTTP and rsync listen on. Blades are other machines, so the "
        "default is every address; name the cluster network's own where there are others.",
    )
    http_port: Port = Field(8080, description="TCP port of the HTTP server.")
    backend_port: Count = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port on 127.0.0.1 where `headnode serve` answers HTTP instead, when nginx "
        "has http_port: nginx sends the files, and passes on the rest (`headnode serve --nginx` "
        "prints its configuration). 0: there is no nginx, headnode has http_port itself.",
    )
    workers: Count = Field(
        0,
        ge=0,
        description="Processes that answer HTTP, all on http_port. One serves some thousand small "
        "files a second and fills a gigabit link with large ones. 0: as many as the headnode has "
        "cores, at most 4.",
    )
    access_log: Place | None = Field(
        None,
        examples=["/var/log/headnode-access.log"],
        description="File for a line a request, in the combined format that Apache and nginx "
        "write. It grows until it is rotated: rename it, then send `headnode serve` SIGUSR1. Not "
        "set: no access log, since a night of 58 blades is many lines that nobody reads.",
    )
    rsync_port: Port = Field(
        8730,
        description="TCP port of the rsync server. Not 873, which a system-wide rsyncd may hold.",
    )
    rsync_connections: Count = Field(
        64,
        ge=1,
        description="Blades that may sync at once; further ones are told to come back.",
    )


class Repo(Section):
    """One repository of ebuilds that the headnode mirrors."""

    upstreams: tuple[Upstream, ...] = Field(
        (),
        description="Where it comes from, tried in order: rsync:// addresses, or git addresses "
        "written git+https:// (git+ssh, git+file). Either all rsync or all git, since an rsync "
        "tree has metadata that git does not.",
    )
    path: Place | None = Field(
        None,
        examples=["/var/db/repos/site"],
        description="A folder of this machine instead of upstreams: the headnode's own ebuilds.",
    )
    branch: Line = Field(
        "", description="Branch of a git upstream. Empty: the one that upstream has as its HEAD."
    )
    openpgp_key: Place | None = Field(
        None,
        examples=["/usr/share/openpgp-keys/gentoo-release.asc"],
        description="File with the OpenPGP keys of whoever signs the top-level Manifest: then it "
        "has to be there and be signed by one of them. Not set: Manifests are checked where there "
        "are any, signatures are not, since the file lies elsewhere on each system.",
    )
    min_interval_h: Hours = Field(
        20.0,
        description="Hours after a good sync before upstreams are asked again (`mirror sync --now` "
        "asks all the same). Gentoo's servers shut out those who sync more than once or twice a "
        "day; 20 lets a nightly sync begin a little earlier than the night before. "
        "0: ask each time, for an upstream of your own. Unused with `path`.",
    )
    tries: Count = Field(
        3,
        ge=1,
        description="Rounds over the upstreams before a sync is given up, with a growing pause "
        "between them, within timeout_s. What cannot pass by waiting is not tried again.",
    )
    bwlimit_kib: Count = Field(
        0, ge=0, description="KiB a second that an rsync upstream may send. 0: no limit."
    )
    max_deleted_percent: Count = Field(
        10,
        ge=0,
        le=100,
        description="Share of the files, in percent, that may be gone in one sync: an upstream "
        "that is half empty is refused (`mirror sync --waive deletions` takes it). A day of "
        "development removes far less. Fewer than 100 files never count. 0: no limit.",
    )
    max_deleted_files: Count = Field(
        20000,
        ge=0,
        description="Files that may be gone in one sync, beside the share. 0: no limit.",
    )
    stall_s: Seconds = Field(
        120.0,
        description="Seconds without a byte from the upstream after which a sync is given up. "
        "A frozen server would otherwise hold the night for ever.",
    )
    timeout_s: Seconds = Field(
        3600.0, description="Seconds that one sync may take in all, over all upstreams."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        kinds = {upstream.partition(":")[0] == "rsync" for upstream in self.upstreams}
        if not self.upstreams and self.path is None:
            raise misplaced("needs at least one address, or `path`", "upstreams")
        if self.upstreams and self.path is not None:
            raise misplaced("a repository has either upstreams or a path", "path")
        if len(kinds) > 1:
            raise misplaced("upstreams are either all rsync or all git", "upstreams")
        return self

    @property
    def origins(self) -> tuple[str, ...]:
        """Every place that it may come from, in order."""
        return self.upstreams or (str(self.path),)


class Scope(StrEnum):
    """Which distfiles the mirror holds before anyone asks for them."""

    SETS = "sets"
    FULL = "full"


class Distfiles(Section):
    """Which source archives the mirror holds, and where they are fetched from."""

    scope: Scope = Field(
        Scope.SETS,
        description="`sets`: what the classes' packages need, a few gigabytes; anything else that "
        "a tree names is fetched when a blade first asks for it. `full`: every file of every "
        "repository, by Portage's emirrordist, some hundreds of gigabytes.",
    )

    full_timeout_s: Seconds = Field(
        24 * 3600.0,
        description="Seconds that emirrordist may take for one repository with scope `full`; what "
        "it brought stays, and the next sync goes on from there.",
    )
    upstreams: tuple[Web, ...] = Field(
        ("https://distfiles.gentoo.org",),
        description="Mirrors of distfiles (http or https), tried in order before the address that "
        "the ebuild itself names. Empty: only the ebuild's own.",
    )
    parallel: Count = Field(8, ge=1, description="Files fetched at once, from all hosts together.")
    per_host: Count = Field(
        4,
        ge=1,
        description="Files fetched at once from one host. More is seldom faster, and mirrors that "
        "others pay for turn such clients away.",
    )
    timeout_s: Seconds = Field(
        60.0, description="Seconds without an answer after which a download is tried elsewhere."
    )
    tries: Count = Field(3, ge=1, description="Times each address is tried for a file.")
    quiet_s: Seconds = Field(
        60.0,
        description="Seconds for which a file that could not be fetched for a blade is not tried "
        "again: 58 blades ask for the same one. `mirror sync` tries at once.",
    )
    wait_s: Seconds = Field(
        300.0,
        description="Seconds for which a blade is kept waiting while the file that it asked for is "
        "fetched. The download goes on after that, for the next one who asks.",
    )
    recycle_days: Count = Field(
        30,
        ge=0,
        description="Days for which a file is kept, unserved, that no tree in use names any more: "
        "a package that comes back, or a generation that is restored, then needs no download. "
        "0: such files are removed with the next sync.",
    )


class Mirror(Section):
    """What the headnode copies from outside, once for all blades."""

    repos: dict[Name, Repo] = Field(
        default_factory=lambda: {
            "gentoo": Repo(upstreams=("rsync://rsync.gentoo.org/gentoo-portage",))
        },
        description="The repositories, by the name in their profiles/repo_name. The first is the "
        "main one, which profiles come from.",
    )
    keep_snapshots: Count = Field(
        5,
        ge=2,
        description="Newest snapshots of each repository that are kept, beside those that a "
        "generation, a ring or a build was made from. A snapshot costs the files that changed.",
    )
    stale_h: Hours = Field(
        48.0,
        description="Hours after which a repository that was not synced, or an upstream that "
        "stamped nothing new, is warned of by every command: two nights that failed in a row. "
        "0: never.",
    )
    distfiles: Distfiles = Distfiles()

    @field_validator("repos")
    @classmethod
    def _some(cls, repos: dict[str, Repo]) -> dict[str, Repo]:
        if not repos:
            raise ValueError("at least one repository is needed: profiles come from the first")
        return repos

    @property
    def main_repo(self) -> str:
        """The name of the main repository."""
        return next(iter(self.repos))


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


class Binhost(Section):
    """How long published packages are kept: what `headnode generations gc` leaves."""

    keep_generations: Count = Field(
        10,
        ge=1,
        description="The newest generations that are kept whatever happens; a ring's own, the one "
        "it can go back to and those with a tag are kept besides. Ten are ten nights with news: "
        "an old one costs only the packages that no newer one has.",
    )
    keep_days: Days = Field(
        7.0,
        description="Days for which a generation is kept after the last ring left it. A blade that "
        "was in the middle of a merge, or switched off for the weekend, still holds that index and "
        "fetches its files. 0: none is kept for that.",
    )


class Gate(StrEnum):
    """What a generation can have to pass before a ring gets it, the cheapest first."""

    INTEGRITY = "integrity"
    LICENCE = "licence"
    MONOTONIC = "monotonic"
    CLOSURE = "closure"
    SONAME = "soname"
    SMOKE = "smoke"
    CONVERGED = "converged"
    WAY_BACK = "way-back"


class Publish(Section):
    """What a generation has to pass before a ring gets it."""

    gates: tuple[Gate, ...] = Field(
        tuple(Gate),
        description="The gates that are asked. All of them, "
        "since one bad publish costs a whole cluster. A machine that cannot run lab blades (no "
        "root's rights, no overlayfs) can do `integrity` and `monotonic`. Empty: none is asked.",
    )
    max_gone_percent: Count = Field(
        20,
        ge=0,
        le=100,
        description="Share of a ring's packages, in percent, that may disappear at once even where "
        "the set says so: a truncated world file says so too. 0: never refuse for that.",
    )
    pull_timeout_s: Seconds = Field(
        3600.0,
        description="Seconds that a pull on the lab blade may take. The first one installs "
        "everything; later ones what changed.",
    )
    smoke_timeout_s: Seconds = Field(
        60.0,
        description="Seconds that one `smoke` command, or one check that a package brings, may "
        "take.",
    )


class TransportKind(StrEnum):
    """How the headnode starts a command on a blade."""

    SSH = "ssh"
    EXEC = "exec"


class Rollout(Section):
    """How blades are brought to a new generation."""

    transport: TransportKind = Field(
        TransportKind.SSH,
        description="`ssh`: OpenSSH, with the user's own configuration. `exec`: a command of "
        "yours, for simulated blades or another way in.",
    )
    exec_command: str = Field(
        "",
        description="For `exec`: the command that runs its last argument as a shell line on a "
        "blade; %h is the blade's name. It exits with 255, as ssh does, where the blade cannot be "
        "reached. Unused with ssh.",
    )
    fanout: Count = Field(
        16,
        ge=1,
        description="Blades that pull at once. More finish sooner, until the headnode's network "
        "is the limit.",
    )
    timeout_s: Seconds = Field(
        3600.0,
        description="Seconds after which a blade that has not finished its pull counts as failed.",
    )

    @model_validator(mode="after")
    def _exec_needs_a_command(self) -> Self:
        if self.transport is TransportKind.EXEC and "%h" not in self.exec_command:
            raise misplaced("transport `exec` needs an exec_command with %h in it", "exec_command")
        return self


class Distcc(Section):
    """Who helps to compile."""

    helpers: Nodes | None = Field(
        None,
        examples=["blade[01-58]"],
        description="Node set of the machines that run distccd. Not set: only the headnode.",
    )
    slots: Count = Field(4, ge=1, description="Compile jobs that each helper takes at once.")


class SigningMode(StrEnum):
    """Whether blades check where packages come from."""

    ON = "on"
    OFF = "off"


class Signing(Section):
    """How blades know that packages and deployments are this headnode's."""

    mode: SigningMode = Field(
        SigningMode.ON,
        description="`on`: packages and deployments are signed, and blades refuse any other. "
        "`off`: whoever can answer in the headnode's place installs what he likes as root.",
    )
    home: Place | None = Field(
        None,
        examples=["/root/.gnupg"],
        description="gpg's home with the key that signs. Not set: keys/signing in the state "
        "folder, where `headnode init` makes one.",
    )
    key: Fingerprint | None = Field(
        None,
        examples=["0123456789ABCDEF0123456789ABCDEF01234567"],
        description="Fingerprint of the key that signs, if it is one of your own; an agent or a "
        "card may hold it. Not set: the one that `headnode keys use` chose.",
    )
    valid_days: Days = Field(
        14.0,
        gt=0,
        description="Days after which blades refuse a deployment, so that nobody can hold them at "
        "an old state by answering in the headnode's place. `headnode serve` renews each when half "
        "of that is over: with the default, the headnode may be off for a week.",
    )


class Cluster(Section):
    """All of cluster.toml."""

    state: State = State()
    serve: Serve = Serve()
    mirror: Mirror = Mirror()
    build: Build = Build()
    classes: dict[Name, Class] = Field(
        default_factory=lambda: {"blade": Class()},
        description="Classes of blades, by name. The usual cluster has one, `blade`.",
    )
    signing: Signing = Signing()
    binhost: Binhost = Binhost()
    publish: Publish = Publish()
    distcc: Distcc = Distcc()
    rollout: Rollout = Rollout()

    @field_validator("classes")
    @classmethod
    def _blades_are_in_one_class(cls, classes: dict[str, Class]) -> dict[str, Class]:
        seen: dict[str, str] = {}
        if not classes:
            raise ValueError("at least one class is needed")
        for name, each in classes.items():
            for ring, nodes in each.rings.items():
                for node in NodeSet(nodes):
                    if (other := seen.setdefault(node, name)) != name:
                        text = f"{node} is in two classes, {other} and {name}"
                        raise misplaced(text, name, "rings", ring)
        return classes

    def place_of(self, blade: str) -> tuple[str, str] | None:
        """The class and the ring that `blade` is in, or None if it is in none."""
        for name, cls in self.classes.items():
            for ring, nodes in cls.rings.items():
                if blade in NodeSet(nodes):
                    return name, ring
        return None
