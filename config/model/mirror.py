"""What the headnode copies from outside: repositories and distfiles."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator, model_validator

from config.model.base import Section, table
from config.values import Count, Hours, Line, Name, Place, Seconds, Upstream, Web, misplaced


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
    distfiles: Distfiles = table()

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
