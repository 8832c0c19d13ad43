"""What a node is made of, checked before it is started, and what is put into it beforehand."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePath, PurePosixPath

from headnode.errors import NodeError
from headnode.files import remove_tree

NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FRESH_IN_NODES = (Path("/dev"), Path("/run"), Path("/tmp"))  # noqa: S108 (a mount point)
MOST_LINKS = 40  # as path_resolution(7)
# File systems that overlayfs takes no upper folder on (overlayfs.rst, "Upper and Lower"): a
# container engine's own root, and what lacks whiteouts or trusted.* attributes.
NO_UPPER = frozenset({"9p", "cifs", "exfat", "nfs", "nfs4", "overlay", "vfat"})


class Life(StrEnum):
    """How long a node stays up."""

    WITH_STARTER = "with-starter"  # until the process that started it ends, whatever ends it
    UNTIL_STOPPED = "until-stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder of the machine that the node sees at `target`."""

    source: Path
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a node is made of.

    `lower` is the root it is laid over and never writes to; None gives it the machine's own root as
    it is (the lab's headnode: a network of its own, but the real state folder). `hidden` folders
    are empty in the node, but for what is bound below them. `throwaway` lets overlayfs skip syncing
    to disk, for an upper that is worth nothing after a power cut. `beneath` are uppers of nodes
    that are down: they lie between the node's own upper and `lower`, the uppermost first, and are
    only read.
    """

    name: str
    store: Path
    lower: Path | None
    binds: tuple[Bind, ...] = ()
    hidden: tuple[Path, ...] = ()
    throwaway: bool = False
    beneath: tuple[Path, ...] = ()

    @property
    def upper(self) -> Path:
        """Where the node's own files are."""
        return self.store / "upper"


def check_spec(spec: NodeSpec) -> None:
    """Refuse a spec that overlayfs would misread or that needs what is not there.

    Raises:
        NodeError: naming the path.
    """
    for path in (spec.store, *spec.beneath, *([spec.lower] if spec.lower else [])):
        if any(mark in str(path) for mark in ',:\\"'):
            raise NodeError(
                f"overlayfs cannot take the path {path}.",
                remedy="Use a folder whose path has no comma, colon, backslash or quotation mark.",
            )
    if spec.lower is not None and not spec.lower.is_dir():
        raise NodeError(f"{spec.name}: the root {spec.lower} is not a folder.")
    for layer in spec.beneath:
        if not layer.is_dir():
            raise NodeError(f"{spec.name}: the layer {layer} is not a folder.")
    for bind in spec.binds:
        if not bind.source.exists():
            raise NodeError(f"{spec.name}: {bind.source} is not there to be bound in.")
    _, kind = mount_of(spec.store, Path("/proc/self/mountinfo").read_text())
    if spec.lower is not None and kind in NO_UPPER:
        raise NodeError(
            f"{spec.name}: {spec.store} lies on {kind}, which overlayfs cannot write to.",
            remedy="Use a folder on a local file system such as ext4, xfs, btrfs or tmpfs.",
        )


def follow_links(spec: NodeSpec) -> NodeSpec:
    """The same with what is bound and hidden at the places where the links of the root lead to.

    mount(8) is called before the node's root is its root: it would follow an absolute link, as
    /var/db/repos/gentoo -> /usr/portage, to the machine's own folder, where the node sees nothing.

    Raises:
        NodeError: links lead in a circle.
    """
    if spec.lower is None:
        return spec
    below = (*spec.beneath, spec.lower)
    seen = (spec.upper, *below)
    # Of a link that a file given to the node covers, the root's own folder is hidden, too.
    hidden = {_led_to(spec, layers, each) for layers in (seen, below) for each in spec.hidden}
    return replace(
        spec,
        binds=tuple(replace(each, target=_led_to(spec, seen, each.target)) for each in spec.binds),
        hidden=tuple(map(Path, sorted(hidden))),
    )


def _led_to(spec: NodeSpec, layers: Sequence[Path], path: PurePath) -> PurePosixPath:
    done, left, links = list[str](), list(path.parts[1:]), 0
    while left:
        name = left.pop(0)
        here = "/".join([*done, name])
        at = next((each / here for each in layers if os.path.lexists(each / here)), None)
        if name == "..":
            done[-1:] = []
        elif at is None or not at.is_symlink():
            done.append(name)
        else:
            to, links = at.readlink(), links + 1
            if links > MOST_LINKS:
                raise NodeError(f"{spec.name}: the links of {spec.lower}{path} lead in a circle.")
            done, left = [] if to.is_absolute() else done, [*to.parts[to.is_absolute() :], *left]
    return PurePosixPath("/", *done)


def mount_of(path: Path, mountinfo: str) -> tuple[Path, str]:
    """The mount that `path` lies on, its folder and its type, from proc_pid_mountinfo(5). Pure."""
    found = (Path("/"), "")
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        folder = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
        # A later mount on the same folder covers the earlier.
        if path.is_relative_to(folder) and len(folder.parts) >= len(found[0].parts):
            found = (folder, rest.split()[0])
    return found


def prepare_store(spec: NodeSpec) -> None:
    """Make the folders of `spec.store`, and drop what a killed node left of overlayfs's own."""
    remove_tree(spec.store / "work")
    for name in ("upper", "work", "root"):
        (spec.store / name).mkdir(parents=True, exist_ok=True)


def write_upper(spec: NodeSpec, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    """Put text files (absolute path in the node -> content) into the node before it starts."""
    for name, content in files.items():
        path = spec.upper / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)


def empty_in_upper(spec: NodeSpec, folder: str) -> None:
    """Make `folder` start empty in the node, whatever the lower has there (an opaque folder)."""
    path = spec.upper / folder.lstrip("/")
    path.mkdir(parents=True, exist_ok=True)
    os.setxattr(path, "trusted.overlay.opaque", b"y")
