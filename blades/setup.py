"""Everything that a blade is given once: what Portage reads, and the pull. Pure, but for one read.

::

    /etc/portage/…                 config.portage
    /etc/headnode/pull.json        where the headnode is, and which ring the blade is in
    /usr/local/sbin/headnode-pull  blades/pull.py, as it is
    /usr/local/sbin/headnode-tree  blades/tree.py, as it is; `blades.boot` has it started at boot
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from blades.boot import tree_files
from blades.inventory import Blade
from config.model import Cluster
from config.portage import Rendered, blade_files, http_url

PULL_PATH = "/usr/local/sbin/headnode-pull"
PULL_SETTINGS = "/etc/headnode/pull.json"


def setup_files(cluster: Cluster, blade: Blade, atoms: Sequence[str]) -> Rendered:
    """What `blade` is given; `atoms` is its class's set @blade."""
    settings = {
        "headnode": http_url(cluster, "").rstrip("/"),
        "class": blade.class_name,
        "ring": blade.ring,
        "blade": blade.name,
    }
    portage = blade_files(cluster, blade.name, atoms)
    pull = Path(__file__).with_name("pull.py").read_text()
    files = {PULL_SETTINGS: json.dumps(settings, indent=1) + "\n", PULL_PATH: pull}
    trees = tree_files()
    return Rendered(
        files={**portage.files, **files, **trees.files}, links={**portage.links, **trees.links}
    )


def is_program(path: str) -> bool:
    """Whether the file at `path` is to be executable. Pure."""
    return PurePosixPath(path).parent.name in ("bin", "local.d", "sbin")


def to_tar(rendered: Rendered) -> bytes:
    """A tar of the files, to be unpacked at a blade's root. Owned by root; the same every time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, text in sorted(rendered.files.items()):
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(text.encode())
            member.mode = 0o755 if is_program(path) else 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
        for path, target in sorted(rendered.links.items()):
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(link)
    return out.getvalue()
