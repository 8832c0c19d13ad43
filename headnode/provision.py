"""Gives a node an `emerge` where its root has none.

A stage3 or a Gentoo headnode has Portage of its own, and then this does nothing. Over any other
root (a Debian machine that tries the lab), Portage from this Python environment is used: small
scripts in the node's /usr/local/bin call it, and it finds its global configuration under
/share/portage, where Portage installed as a Python module looks when EPREFIX is empty.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from headnode.node.spec import FRESH_IN_NODES, Bind, NodeSpec, mount_of, write_upper

TOOLS = ("ebuild", "egencache", "emaint", "emerge", "emirrordist", "gpkg-sign", "portageq")

# Portage drops to a user of its own for fetching and compiling. A foreign root has no such user,
# and its environment may lie where that user could not read it.
WRAPPER = """#!/bin/sh
export PORTAGE_OVERRIDE_EPREFIX= PORTAGE_USERNAME=root PORTAGE_GRPNAME=root
exec {tool} "$@"
"""


def has_portage(root: Path) -> bool:
    """Whether `root` has an emerge of its own."""
    return (root / "usr/bin/emerge").exists()


def environment_binds(*, root: Path = Path("/")) -> tuple[Bind, ...]:
    """What of this Python environment must be bound into a node laid over `root`."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    return tuple(
        Bind(source=path, target=PurePosixPath(path))
        for path in _environment_paths()
        if root != Path("/") or not seen_through(path, mountinfo)
    )


def _environment_paths() -> Iterator[Path]:
    seen: list[Path] = []
    for name in (sys.prefix, sys.base_prefix, Path(__file__).resolve().parent.parent):
        path = Path(name).resolve()
        if path == Path("/usr") or any(path.is_relative_to(other) for other in seen):
            continue
        seen.append(path)
        yield path


def seen_through(path: Path, mountinfo: str) -> bool:
    """Whether an overlay of / shows `path`. Pure.

    It shows one mount: not what the machine mounts below / (another disk, but also a folder of the
    same one, which the device number would not tell), nor what a node has fresh.
    """
    if any(path.is_relative_to(folder) for folder in FRESH_IN_NODES):
        return False
    return mount_of(path, mountinfo)[0] == Path("/")


def provide_emerge(spec: NodeSpec) -> None:
    """Write what lets `emerge` run in the node, if its lower root has none."""
    if spec.lower is None or has_portage(spec.lower):
        return
    scripts = Path(sys.prefix) / "bin"
    write_upper(
        spec,
        {f"/usr/local/bin/{tool}": WRAPPER.format(tool=scripts / tool) for tool in TOOLS},
        mode=0o755,
    )
    _link(spec.upper / "share/portage", Path(sys.prefix) / "share/portage")
    if not (spec.lower / "usr/bin/gtar").exists():
        _link(spec.upper / "usr/local/bin/gtar", Path("/usr/bin/tar"))
    if not any((spec.lower / name / "python3").exists() for name in ("usr/bin", "usr/local/bin")):
        _link(spec.upper / "usr/local/bin/python3", Path(sys.executable))  # what the pull is run by


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
