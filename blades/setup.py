"""Everything that a blade is given once: what Portage reads, and the pull. Pure, but for one read.

::

    /etc/portage/…                 config.portage
    /etc/systemd/…, /etc/conf.d/…  config.distccd, where the blade helps to compile
    /etc/systemd/…, /etc/cron.d/…  blades.timer, where the blade pulls by itself
    /etc/headnode/keys.asc         the public keys that packages are checked against
    /usr/local/sbin/headnode-trust config/trust.py, as it is
    /etc/headnode/secret           what its reports are signed with (0600)
    /etc/headnode/pull.json        where the headnode is, and which ring the blade is in
    /var/lib/headnode/portage.json what of that is headnode's, so that edits are told from it
    /usr/local/sbin/headnode-pull  starts the pull, which is:
    /usr/local/sbin/headnode-tree    puts the trees in place; `blades.boot` starts it at boot
    /usr/local/sbin/headnode-kernel  says which kernel runs and which is due
    /usr/local/lib/headnode/blades/…   what they are: modules of this package, as they are
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from blades import drift, places
from blades.boot import TREE_PATH, boot_files
from blades.inventory import Blade
from blades.timer import timer_files
from config.distccd import distccd_files
from config.model import Cluster
from config.portage import ETC, Rendered, blade_files, http_url, is_program, rsync_url

PULL_PATH = "/usr/local/sbin/headnode-pull"
KERNEL_PATH = "/usr/local/sbin/headnode-kernel"
PULL_SETTINGS = "/etc/headnode/pull.json"
SECRET_PATH = "/etc/headnode/secret"  # noqa: S105 (where it is, not what)
LIBRARY = "/usr/local/lib/headnode"
PORTAGE_RECORD = f"{places.STATE}/{drift.RECORD}"
# What a blade is given of this package: modules of the standard library alone.
MODULES = (
    *("__init__", "afterwards", "brought", "deadman", "drift", "grub", "image", "kept", "kernel"),
    *("merging", "order", "places", "pull", "ready", "report", "restart", "signature", "tree"),
    *("update", "web"),
)
# -I: neither the folder that it is started in nor root's own packages come into it. -S: nor any
# that are not Python's own, which saves a third of the time that a pull without news takes.
LAUNCHER = f"""#!/bin/sh
# {{what}} Written by headnode.
# cron has no sbin in its PATH, where GRUB's tools and rc-service may be.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
exec python3 -I -S -c 'import sys
sys.path.insert(0, "{LIBRARY}")
from blades.{{module}} import main
sys.exit(main())' "$@"
"""


def setup_files(
    cluster: Cluster,
    blade: Blade,
    atoms: Sequence[str],
    keyring: str | None,
    secret: bytes | None = None,
) -> Rendered:
    """What `blade` is given; `atoms` is its class's set @blade, `keyring` the headnode's keys.

    Without a `secret` (`blades.secrets`) it keeps the one that it has.
    """
    settings = {
        "headnode": http_url(cluster, "").rstrip("/"),
        "rsync": rsync_url(cluster, "").rstrip("/"),
        "tree": cluster.classes[blade.class_name].tree,
        "class": blade.class_name,
        "ring": blade.ring,
        "blade": blade.name,
        "signed": keyring is not None,
        "kernel": cluster.classes[blade.class_name].kernel,
        "keep": cluster.kernel.keep,
        "loader": cluster.kernel.loader.value,
    }
    portage = blade_files(cluster, blade.name, atoms, keyring)
    helping = distccd_files(cluster, blade.name)
    files = {
        PULL_SETTINGS: json.dumps(settings, indent=1) + "\n",
        PORTAGE_RECORD: _record(portage),
        **program_files(),
    }
    if secret is not None:
        files[SECRET_PATH] = f"{secret.hex()}\n"
    boot = boot_files()
    own = timer_files(blade.name, cluster.pull.own_at, cluster.pull.own_splay_s)
    return Rendered(
        files={**portage.files, **helping.files, **files, **boot.files, **own.files},
        links={**portage.links, **helping.links, **boot.links, **own.links},
    )


def _record(portage: Rendered) -> str:
    """What is put into /etc/portage: the first pull takes anything else for somebody's edit."""
    want = drift.wanted({"files": in_portage(portage), "links": portage.links})
    return json.dumps({"digests": drift.digests_of(want)}, indent=1) + "\n"


def in_portage(rendered: Rendered) -> dict[str, str]:
    """Those of the files that lie in /etc/portage."""
    return {path: text for path, text in rendered.files.items() if path.startswith(f"{ETC}/")}


def program_files() -> dict[str, str]:
    """The programs of a blade, as files of it."""
    here = Path(__file__).parent
    modules = {f"{LIBRARY}/blades/{name}.py": (here / f"{name}.py").read_text() for name in MODULES}
    pull = LAUNCHER.format(what="Brings this blade to what its ring has.", module="pull")
    tree = LAUNCHER.format(what="Puts the trees of ebuilds in place.", module="tree")
    kernel = LAUNCHER.format(what="Which kernel runs, and which is due.", module="kernel")
    return {PULL_PATH: pull, TREE_PATH: tree, KERNEL_PATH: kernel, **modules}


def mode_of(path: str) -> int:
    """The permissions of a file on a blade."""
    if path == SECRET_PATH:
        return 0o600
    return 0o755 if is_program(path) else 0o644


def to_tar(rendered: Rendered) -> bytes:
    """A tar of the files, to be unpacked at a blade's root. Owned by root; the same every time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, text in sorted(rendered.files.items()):
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(text.encode())
            member.mode = mode_of(path)
            # Python takes a compiled module for its source's while size and time are the same: the
            # time is the content's, somewhere before 2004.
            member.mtime = zlib.crc32(text.encode()) & 0x3FFFFFFF
            archive.addfile(member, io.BytesIO(text.encode()))
        for path, target in sorted(rendered.links.items()):
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(link)
    return out.getvalue()
