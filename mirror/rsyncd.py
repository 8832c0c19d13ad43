"""The rsync server in front of the trees: its modules and its configuration, rendered.

`gentoo-portage` is the newest checked tree of the main repository; `<class>-<ring>-<repo>` is what
the ring's generation was built from, which blades' repos.conf names. A module's path is a symlink
that publishing flips: a transfer that runs ends on the old tree, the next starts on the new, and
the server needs no restart (found out by running).

A module whose path is not there yet is listed, and answers with an error until it is.

Source: rsyncd.conf(5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from config.model import Cluster
from headnode.errors import MirrorError
from mirror.image import folder_of
from mirror.snapshots import Folder

MAIN_MODULE = "gentoo-portage"
IMAGES_MODULE = "images"
TIMEOUT_S = 300
NOBODY = 65534
# A blade asking for checksums would have every file of the tree read; Gentoo's mirrors refuse too.
REFUSED = "checksum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What is served under a name: `path` may be a symlink that is flipped while serving."""

    name: str
    path: Path
    comment: str


def module_name(cls: str, ring: str, repo: str) -> str:
    """Give the module in which blades of a ring find the tree of a repository."""
    return f"{cls}-{ring}-{repo}"


def modules(state: Path, cluster: Cluster) -> list[Module]:
    """Give every module: the newest main tree, the images, one for each class, ring and repository.

    Raises:
        MirrorError: two of them have the same name.
    """
    main = cluster.mirror.main_repo
    found = [
        Module(name=MAIN_MODULE, path=Folder.of(state, main).current, comment="newest tree"),
        Module(name=IMAGES_MODULE, path=folder_of(state), comment="trees as images"),
    ]
    found += [
        Module(
            name=module_name(name, ring, repo),
            path=state / "binhost" / name / "rings" / ring / "current" / "repos" / repo,
            comment=f"{repo} as the ring {ring} of {name} was built from it",
        )
        for name, cls in cluster.classes.items()
        for ring in cls.rings
        for repo in cluster.mirror.repos
    ]
    _check_names_differ(found)
    return found


def log_path(state: Path) -> Path:
    """Where the server logs, a few lines a client: it opens the file anew for each one.

    So it needs no signal when the file is rotated; who is being served goes on in the old one.
    """
    return state / "rsyncd.log"


def render(
    modules: Iterable[Module],
    *,
    listen: str,
    port: int,
    max_connections: int,
    log_file: Path,
    pid_file: Path,
    lock_file: Path,
    chroot: bool,
) -> str:
    """Render rsyncd.conf; `chroot` needs root, and then the server reads as nobody.

    Without it the server cannot change its user, and runs as whoever started it.
    """
    # By number: Gentoo and Debian disagree on the group's name, and so may a container.
    identity = (f"uid = {NOBODY}", f"gid = {NOBODY}") if chroot else ()
    lines = [
        *(f"address = {listen}", f"port = {port}", f"use chroot = {_yes(chroot)}", *identity),
        *(f"pid file = {pid_file}", f"lock file = {lock_file}", f"log file = {log_file}"),
        *("read only = yes", "list = yes", "numeric ids = yes", "munge symlinks = no"),
        *(f"max connections = {max_connections}", f"timeout = {TIMEOUT_S}"),
        *(f"refuse options = {REFUSED}", "dont compress = *"),
        # A blade with nothing to sync then waits 0.02 s instead of 0.2 for the handshake's ACKs.
        "socket options = TCP_NODELAY",
    ]
    for module in modules:
        lines += ["", f"[{module.name}]", f"path = {module.path}/", f"comment = {module.comment}"]
    return "\n".join(lines) + "\n"


def argv(conf: Path) -> list[str]:
    """Give the server's arguments: in the foreground, so that whoever started it watches it.

    The kernel ends it when its parent was killed: it would else keep the port from the next one.
    Source: setpriv(1), prctl(2), PR_SET_PDEATHSIG.
    """
    rsync = ["rsync", "--daemon", "--no-detach", f"--config={conf}"]
    return ["setpriv", "--pdeathsig", "TERM", "--", *rsync]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _check_names_differ(found: list[Module]) -> None:
    seen: dict[str, Module] = {}
    for module in found:
        other = seen.setdefault(module.name, module)
        if other is not module:
            raise MirrorError(
                f"Two trees would be served as {module.name}: {other.comment}, {module.comment}.",
                remedy="Rename the class, the ring or the repository in cluster.toml.",
            )
