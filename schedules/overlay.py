"""The overlay on disk: rendered from cluster.toml and what is kept of each flavour."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from binhost.revisions import Shelf, dist_of
from blades.enrol import package_files
from config.overlay import OVERLAY, Dist, overlay_files
from headnode.files import digests, is_regular, remove_tree, write_atomic
from mirror.heads import CHK, CHK_FORMAT
from mirror.store import Store
from schedules.site import Site

TOOLS = "openmosix-tools-0.3.6-2.tar.gz"
# Source: the digest of Gentoo's sys-cluster/openmosix-user-0.3.6-r3.
TOOLS_SHA256 = "c63f843890fdbaa3810d037912491b517cc6e7e101d1852d6f1def1b1edd5d6c"


def render_overlay(site: Site, *, now: datetime) -> Path | None:
    """Bring the overlay's folder up to date, and give it; None where no set needs it.

    What changed gets a new stamp: Portage syncs no tree by rsync that has none.

    Raises:
        ConfigError: [openmosix] is not as it must be.
        PublishError: the record of a flavour is damaged.
    """
    repo = site.cluster.mirror.repos.get(OVERLAY)
    if repo is None or repo.path is None:
        return None
    flavours = sorted({cls.kernel for cls in site.cluster.classes.values() if cls.kernel})
    kernels = [(name, Shelf.of(site.state, name).present()) for name in flavours]
    files = overlay_files(site.cluster, dict(kernels), package_files(), _tools(site))
    stamp = repo.path / CHK
    if _write(repo.path, files) or not stamp.exists():
        write_atomic(stamp, f"{now.astimezone(UTC):{CHK_FORMAT}}\n")
    return repo.path


def _write(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Have `files` in the folder, and no others but the stamp; whether anything changed."""
    changed = False
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
            changed = True
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(folder)) not in {*files, CHK}:
            remove_tree(path)
            changed = True
    return changed


def _tools(site: Site) -> Dist | None:
    path = Store(site.state).place(TOOLS)
    if not is_regular(path) or digests(path, "sha256")["sha256"] != TOOLS_SHA256:
        return None
    return dist_of(path, TOOLS)
