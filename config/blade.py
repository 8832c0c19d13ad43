"""What a deployment says that its blades are to be like, beside their packages. Pure.

It is the file `blade.json` of a deployment, named there by its digest, so that a blade believes it
as it believes the index. The pull (`blades`) reads it::

    files, links   what /etc/portage has: the generation's, and the ring's addresses
    checks         shell commands that must succeed after a pull
    health         shell commands that must succeed when the blade has settled
    pull           the options of [pull] that count on the blade, by name
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from config.model import Cluster
from config.portage import SET_PATH, ring_files, set_text

# Of [pull], two are lists of their own in blade.json, and two are no matter of a deployment.
APART = {"checks", "health", "own_at", "own_splay_s"}


def blade_json(
    cluster: Cluster,
    class_name: str,
    ring: str,
    *,
    files: Mapping[str, str],
    links: Mapping[str, str],
    atoms: Sequence[str],
    signed: bool,
) -> str:
    """The text of blade.json; `files`, `links` and `atoms` (@blade) are the generation's."""
    of_ring = ring_files(cluster, class_name, ring, signed=signed)
    said = {
        "files": {**files, SET_PATH: set_text(atoms), **of_ring},
        "links": dict(links),
        "checks": list(cluster.pull.checks),
        "health": list(cluster.pull.health),
        "pull": cluster.pull.model_dump(mode="json", exclude=APART),
    }
    return json.dumps(said, indent=1, sort_keys=True) + "\n"
