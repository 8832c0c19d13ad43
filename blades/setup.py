"""Everything that a blade is given once: what Portage reads, and the pull. Pure, but for one read.

::

    /etc/portage/…                 config.portage
    /etc/headnode/keys.asc         the public keys that packages are checked against
    /usr/local/sbin/headnode-trust config/trust.py, as it is
    /etc/headnode/pull.json        where the headnode is, and which ring the blade is in
    /var/lib/headnode/portage.json what of that is headnode's, so that edits are told from it
    /usr/local/sbin/headnode-pull  starts the pull, which is:
    /usr/local/lib/headnode/blades/…   modules of this package, as they are
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from blades import drift, places
from blades.inventory import Blade
from config.model import Cluster
from config.portage import ETC, Rendered, blade_files, http_url, is_program

PULL_PATH = "/usr/local/sbin/headnode-pull"
PULL_SETTINGS = "/etc/headnode/pull.json"
LIBRARY = "/usr/local/lib/headnode"
PORTAGE_RECORD = f"{places.STATE}/{drift.RECORD}"
# What a blade is given of this package: modules of the standard library alone.
MODULES = (
    *(
        "__init__",
        "afterwards",
        "deadman",
        "drift",
        "kept",
        "merging",
        "order",
        "places",
        "pull",
        "ready",
    ),
    *("update", "web"),
)
# -I: neither the folder that it is started in nor root's own packages come into it. -S: nor any
# that are not Python's own, which saves a third of the time that a pull without news takes.
LAUNCHER = f"""#!/bin/sh
# Brings this blade to what its ring has. Written by headnode.
exec python3 -I -S -c 'import sys
sys.path.insert(0, "{LIBRARY}")
from blades.pull import main
sys.exit(main())' "$@"
"""


def setup_files(
    cluster: Cluster, blade: Blade, atoms: Sequence[str], keyring: str | None
) -> Rendered:
    """What `blade` is given; `atoms` is its class's set @blade, `keyring` the headnode's keys."""
    settings = {
        "headnode": http_url(cluster, "").rstrip("/"),
        "class": blade.class_name,
        "ring": blade.ring,
        "blade": blade.name,
        "signed": keyring is not None,
    }
    portage = blade_files(cluster, blade.name, atoms, keyring)
    files = {
        PULL_SETTINGS: json.dumps(settings, indent=1) + "\n",
        PORTAGE_RECORD: _record(portage),
        **program_files(),
    }
    return Rendered(files={**portage.files, **files}, links=portage.links)


def _record(portage: Rendered) -> str:
    """What is put into /etc/portage: the first pull takes anything else for somebody's edit."""
    want = drift.wanted({"files": in_portage(portage), "links": portage.links})
    return json.dumps({"digests": drift.digests_of(want)}, indent=1) + "\n"


def in_portage(rendered: Rendered) -> dict[str, str]:
    """Those of the files that lie in /etc/portage."""
    return {path: text for path, text in rendered.files.items() if path.startswith(f"{ETC}/")}


def program_files() -> dict[str, str]:
    """The pull, as files of a blade."""
    here = Path(__file__).parent
    modules = {f"{LIBRARY}/blades/{name}.py": (here / f"{name}.py").read_text() for name in MODULES}
    return {PULL_PATH: LAUNCHER, **modules}


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
