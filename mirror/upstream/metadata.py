"""Manifests, md5-cache and timestamps of the assembled tree, the first two by Portage's egencache.

egencache ignores the caller's environment and make.conf, and so takes DISTDIR from make.globals
alone. It therefore runs under a throw-away prefix whose global configuration is the environment's
with DISTDIR changed. Nothing outside the tree and that prefix is written.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from headnode.errors import MirrorError
from headnode.files import digests, write_atomic
from headnode.process import Completed, run

EGENCACHE_S = 120.0
PROFILE = "lab/amd64"
CHK_FORMAT = "%a, %d %b %Y %H:%M:%S +0000"


def index(tree: Path, distfiles: Path) -> None:
    """Bring Manifests, md5-cache and use.local.desc of `tree` up to date with its ebuilds.

    Raises:
        MirrorError: an ebuild does not parse, or a distfile is missing.
    """
    with tempfile.TemporaryDirectory(prefix="headnode-upstream-") as scratch:
        done = _egencache(tree.resolve(), distfiles.resolve(), Path(scratch))
    unindexed = _unindexed(tree)
    if done.code or unindexed:
        which = ", ".join(unindexed) or "the tree"
        raise MirrorError(
            f"Portage could not index {which} in {tree}:\n{done.tail}",
            remedy="Correct the ebuild, or put its distfile in place.",
        )


def _egencache(tree: Path, distfiles: Path, scratch: Path) -> Completed:
    prefix, root = _prefix(scratch, distfiles), _config_root(scratch, tree)
    argv: list[str | Path] = [
        sys.executable,
        Path(sysconfig.get_path("scripts")) / "egencache",
        *("--config-root", root, "--repo", "gentoo", "--jobs", str(os.cpu_count() or 1)),
        *("--repositories-configuration", repos_conf(tree)),
        # Strict would ask for the very Manifests that are about to be made.
        *("--strict-manifests", "n"),
        *("--update", "--update-use-local-desc", "--update-manifests"),
    ]
    env = {
        "PORTAGE_OVERRIDE_EPREFIX": str(prefix),
        "PORTAGE_CONFIGROOT": str(root),
        "PORTAGE_USERNAME": "root",
        "PORTAGE_GRPNAME": "root",
    }
    return run(argv, timeout_s=EGENCACHE_S, check=False, env=env)


def _prefix(scratch: Path, distfiles: Path) -> Path:
    """The throw-away prefix: etc/portage, and the global configuration with a DISTDIR of ours."""
    prefix, flat = scratch / "prefix", scratch / "distfiles"
    settings = prefix / "share/portage/config"
    shutil.copytree(Path(sys.prefix) / "share/portage/config", settings)
    with (settings / "make.globals").open("a") as file:
        file.write(f'\nDISTDIR="{flat}"\n')
    (prefix / "etc/portage").mkdir(parents=True)
    # Portage reads local files from a flat folder only; the hashed layout is for mirrors.
    flat.mkdir()
    for path in distfiles.glob("[0-9a-f][0-9a-f]/*"):
        (flat / path.name).symlink_to(path)
    return prefix


def _config_root(scratch: Path, tree: Path) -> Path:
    root = scratch / "root"
    (root / "etc/portage").mkdir(parents=True)
    (root / "etc/portage/make.profile").symlink_to(tree / "profiles" / PROFILE)
    return root


def repos_conf(tree: Path) -> str:
    """A repos.conf that has `tree` as the main repository and no other. Source: portage(5)."""
    return f"[DEFAULT]\nmain-repo = gentoo\n[gentoo]\nlocation = {tree}\nauto-sync = no\n"


def _unindexed(tree: Path) -> list[str]:
    """The packages that egencache left out.

    It exits 0, and leaves the old entries, where an ebuild does not parse (3.0.83), and 0, with a
    Manifest without DIST, where a distfile is missing: so its results are looked at.
    """
    ebuilds = [path.relative_to(tree) for path in tree.glob("*/*/*.ebuild")]
    return sorted({str(path.parent) for path in ebuilds if not _is_indexed(tree, path)})


def _is_indexed(tree: Path, ebuild: Path) -> bool:
    cached = tree / "metadata/md5-cache" / ebuild.parts[0] / ebuild.stem
    manifest = (tree / ebuild).with_name("Manifest")
    if not (cached.is_file() and manifest.is_file()):
        return False
    lines = dict(line.split("=", 1) for line in cached.read_text().splitlines())
    listed = {tuple(line.split()[:2]) for line in manifest.read_text().splitlines()}
    wanted = {("EBUILD", ebuild.name), *(("DIST", name) for name in _names(lines))}
    return lines["_md5_"] == digests(tree / ebuild, "md5")["md5"] and wanted <= listed


def _names(cached: dict[str, str]) -> list[str]:
    """The distfiles of a cache entry's SRC_URI, where none depends on a USE flag."""
    uris = cached.get("SRC_URI", "").replace(" -> ", "\0").split()
    return [uri.split("\0")[-1].rpartition("/")[2] for uri in uris]


def stamp(tree: Path, now_s: float) -> int:
    """Write timestamp.chk and timestamp.x, later than what was there; return the epoch in seconds.

    Portage refuses a tree whose timestamp.chk is older than its own ("SERVER OUT OF DATE"), and
    skips one that is equal: so each change of the tree moves on by a second at least.
    """
    written = tree / "metadata/timestamp.x"
    before = int(written.read_text().split()[0]) if written.exists() else 0
    epoch = max(int(now_s), before + 1)
    when = time.gmtime(epoch)
    write_atomic(tree / "metadata/timestamp.chk", time.strftime(CHK_FORMAT, when) + "\n")
    words = time.strftime("%a %d %b %Y %I:%M:%S %p UTC", when)
    write_atomic(written, f"{epoch} {words}\n")
    return epoch
