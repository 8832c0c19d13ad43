"""Where everything of a pull lies on a blade, and how it is read and written there. Part of it.

    /etc/headnode/pull.json          where the headnode is, and which ring this blade is in
    /etc/headnode/keys.asc           the public keys that are trusted
    /var/lib/headnode/applied.json   the last deployment that was applied whole
    /var/lib/headnode/applying       there while one is being applied, and if that was cut or failed
    /var/lib/headnode/seen.json      the highest sequence that was seen, by class and ring
    /var/lib/headnode/synced         the snapshot set that the tree is at; none while it is synced
    /var/lib/headnode/index/         the index of the deployment, as it was checked
    /var/lib/headnode/now/           blade.json, index and generation of what was applied whole
    /var/lib/headnode/before/        the same of what was applied before that
    /var/lib/headnode/portage.json   what was put into /etc/portage
    /var/lib/headnode/edited/        what somebody else had put there
    /var/lib/headnode/unconfirmed    there until the headnode confirms a pull (blades.deadman)
    /var/lib/headnode/refused        the deployment that this blade went back from by itself
    /var/lib/headnode/etc/portage/   /etc/portage, but with that index as the only binhost
    /var/log/headnode-pull.log       what emerge said the last time; .1 to .5 the times before

Only what a pull that finds nothing new needs is imported: it has to cost next to nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SETTINGS = Path("/etc/headnode/pull.json")
KEYS = Path("/etc/headnode/keys.asc")
KEYRING = Path("/etc/portage/gnupg")
TRUST = "/usr/local/sbin/headnode-trust"
TREE = "/usr/local/sbin/headnode-tree"
PULL = "/usr/local/sbin/headnode-pull"
STATE = Path("/var/lib/headnode")
LOG = Path("/var/log/headnode-pull.log")
LOCK = Path("/run/headnode-pull.lock")
ROOT = Path("/")
VDB = Path("/var/db/pkg")
ETC = Path("/etc/portage")
REPOS = Path("/var/db/repos")
# Where emerge puts packages that it fetched, and finds those of earlier pulls.
FETCHED = Path("/var/cache/binhost/headnode")
# Where Portage keeps its copy of an index that came from file:///<index>, for ever: it would be
# taken for newer than the next one after a move to another ring (Portage 3.0.83).
CACHED = Path("/var/cache/edb/binhost")


class PullError(Exception):
    """The pull cannot go on; the text says why."""


class NotSetUpError(Exception):
    """The blade lacks something that it is given once; the text says what."""


def write(path: Path, text: str) -> None:
    """Put a file in place in one rename, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, said: Any) -> None:
    """Put a JSON file in place in one rename."""
    write(path, json.dumps(said, indent=1) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none, or it is damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def read_state(name: str) -> dict[str, Any]:
    """A JSON file of the state folder; empty if there is none, or it is damaged."""
    return read_object(STATE / name)


def read_settings() -> dict[str, Any]:
    """Where the headnode is and what this blade is, or a NotSetUpError."""
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError as error:
        raise NotSetUpError(f"no {SETTINGS}") from error
    except ValueError as error:
        raise NotSetUpError(f"{SETTINGS} is no JSON: {error}") from error
    wanted = ("headnode", "class", "ring", "blade", "signed")
    lacking = [key for key in wanted if not isinstance(settings, dict) or key not in settings]
    if lacking:
        raise NotSetUpError(f"{SETTINGS} has no {', '.join(lacking)}")
    return dict(settings)


def lacks_trees(says: Mapping[str, Any]) -> bool:
    """Whether the trees of an image are gone, after a boot that did not bring them back."""
    return says.get("image") is not None and not all(
        (REPOS / repo / "profiles").is_dir() for repo in says["repos"]
    )
