"""Put an upstream together in a folder, and later move one of its packages on.

The layout is drawn in `mirror.upstream`. Running servers need no restart after either.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import MirrorError
from headnode.files import remove_tree, write_atomic
from mirror.upstream import metadata
from mirror.upstream.packages import (
    SOURCES,
    TREE,
    Step,
    ebuild_path,
    next_version,
    packages,
    versions,
)
from mirror.upstream.tarballs import REAL, in_house, is_real, place

log = logging.getLogger(__name__)

LAYOUT = "[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n"
STAND_IN = "0"
RECORD = "assembled.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What an upstream folder holds: the newest version by `category/name`, and the tree's time.

    `real` names the packages built from their upstream's own tarball, `stand_ins` those for which
    that could not be had and a small C source in files/ (version 0) takes the name.
    """

    root: Path
    packages: dict[str, str]
    real: tuple[str, ...]
    stand_ins: tuple[str, ...]
    epoch: int

    @property
    def tree(self) -> Path:
        """The repository, module gentoo-portage."""
        return self.root / "tree"

    @property
    def distfiles(self) -> Path:
        """The distfiles, GLEP 75 layout."""
        return self.root / "distfiles"


def assemble(
    target: Path, *, tarballs: Path | None, clock: Callable[[], float] = time.time
) -> Assembled:
    """Write a fresh upstream into `target`, in place of one that is there.

    `tarballs` is what `fetch_tarballs` returned; a package whose tarball is not there with its
    pinned digest is a stand-in.

    Raises:
        MirrorError: Portage could not index the tree.
    """
    for folder in ("tree", "distfiles"):
        remove_tree(target / folder)
    tree, distfiles = target / "tree", target / "distfiles"
    shutil.copytree(TREE, tree)
    write_atomic(distfiles / "layout.conf", LAYOUT)
    real = _choose_real(tree, distfiles, tarballs)
    for source in sorted(path.name for path in SOURCES.iterdir()):
        _make_distfile(tree, distfiles, source)
    metadata.index(tree, distfiles)
    return _record(target, real, metadata.stamp(tree, clock()))


def _choose_real(tree: Path, distfiles: Path, tarballs: Path | None) -> tuple[str, ...]:
    """Keep the real ebuild or the stand-in of each package; place the real ones' tarballs."""
    real = []
    for tarball in REAL:
        if tarballs is not None and is_real(tarballs, tarball):
            place(distfiles, tarball.name, (tarballs / tarball.name).read_bytes())
            ebuild_path(tree, tarball.package, STAND_IN).unlink()
            real.append(tarball.package)
        else:
            ebuild_path(tree, tarball.package, tarball.version).unlink()
            log.warning("%s is a stand-in: no %s", tarball.package, tarball.name)
    return tuple(real)


def _make_distfile(tree: Path, distfiles: Path, name: str) -> None:
    """Make the tarball of the newest version of the in-house source `name`."""
    package = next(package for package in packages(tree) if package.endswith(f"/{name}"))
    version = versions(tree, package)[-1].partition("-r")[0]
    content = in_house(SOURCES / name, name, version)
    place(distfiles, f"{name}-{version}.tar.gz", content)


def bump(
    upstream: Path,
    package: str,
    step: Step = Step.MINOR,
    *,
    clock: Callable[[], float] = time.time,
) -> str:
    """Give `package` its next version, beside the old one, and return it.

    The new ebuild is a copy under the new name, and what it installs says the new version. A MAJOR
    step of dev-libs/libblade moves its soname and sub-slot.

    Raises:
        MirrorError: no such package, nothing assembled there, or a step that a real tarball
            cannot take (a REVISION it can).
    """
    before = read_assembled(upstream)
    current = versions(before.tree, package)[-1]
    if package in before.real and step is not Step.REVISION:
        raise MirrorError(
            f"{package} is built from the real tarball of {current}, there is no newer one.",
            remedy="Bump its revision (Step.REVISION), or another package.",
        )
    version = next_version(current, step)
    name = package.partition("/")[2]
    if (SOURCES / name).is_dir() and step is not Step.REVISION:
        content = in_house(SOURCES / name, name, version)
        place(before.distfiles, f"{name}-{version}.tar.gz", content)
    old = ebuild_path(before.tree, package, current)
    write_atomic(ebuild_path(before.tree, package, version), old.read_bytes())
    metadata.index(before.tree, before.distfiles)
    _record(upstream, before.real, metadata.stamp(before.tree, clock()))
    return version


def _record(root: Path, real: tuple[str, ...], epoch: int) -> Assembled:
    tree = root / "tree"
    held = {package: versions(tree, package)[-1] for package in packages(tree)}
    stand_ins = tuple(each.package for each in REAL if each.package not in real)
    content = {"packages": held, "real": real, "stand_ins": stand_ins, "epoch": epoch}
    write_atomic(root / RECORD, json.dumps(content, indent=2) + "\n")
    return Assembled(root=root, packages=held, real=real, stand_ins=stand_ins, epoch=epoch)


def read_assembled(root: Path) -> Assembled:
    """What `assemble` and `bump` left in `root`.

    Raises:
        MirrorError: nothing was assembled there.
    """
    try:
        content = json.loads((root / RECORD).read_text())
    except FileNotFoundError:
        raise MirrorError(
            f"There is no upstream in {root}.", remedy="Assemble one there first."
        ) from None
    return Assembled(
        root=root,
        packages=content["packages"],
        real=tuple(content["real"]),
        stand_ins=tuple(content["stand_ins"]),
        epoch=content["epoch"],
    )
