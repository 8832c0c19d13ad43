"""Snapshot sets: one snapshot of every repository, which a generation names by id.

The id is the digest of the content, so a set never changes, and the same trees have the same id.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from headnode.errors import MirrorError
from headnode.files import write_atomic
from mirror.snapshots import Folder

log = logging.getLogger(__name__)

ID_DIGITS = 16


def set_id(content: str) -> str:
    """Give the id of a set: the first 16 hex digits of the SHA-256 of its file."""
    return hashlib.sha256(content.encode()).hexdigest()[:ID_DIGITS]


def write_set(state: Path, snapshots: Mapping[str, str]) -> str:
    """Keep the set `snapshots` (repository: stamp) and give its id.

    Raises:
        MirrorError: one of the snapshots is not there.
    """
    for name, stamp in snapshots.items():
        if not (Folder.of(state, name).snapshots / stamp).is_dir():
            raise MirrorError(
                f"There is no snapshot {stamp} of {name}.", remedy="Run `headnode mirror sync`."
            )
    content = json.dumps(dict(snapshots), sort_keys=True, indent=2) + "\n"
    path = _path(state, set_id(content))
    if not path.exists():
        write_atomic(path, content)
    return path.stem


def read_set(state: Path, identity: str) -> dict[str, str]:
    """Give the set `identity`, as repository: stamp.

    Raises:
        MirrorError: there is none, or its content is not what its id says.
    """
    path = _path(state, identity)
    if not re.fullmatch(f"[0-9a-f]{{{ID_DIGITS}}}", identity) or not path.is_file():
        raise MirrorError(
            f"There is no snapshot set {identity!r}.", remedy=f"{path.parent} has those there are."
        )
    content = path.read_text(errors="replace")
    if set_id(content) != identity:
        raise MirrorError(
            f"{path} was altered: its content has the id {set_id(content)}.",
            remedy="Restore it from a backup, or publish again.",
        )
    return {str(name): str(stamp) for name, stamp in json.loads(content).items()}


def set_path(state: Path, identity: str, name: str) -> Path:
    """Give the tree of the repository `name` in the set `identity`.

    Raises:
        MirrorError: there is no such set, or it has no such repository.
    """
    snapshots = read_set(state, identity)
    if name not in snapshots:
        raise MirrorError(f"The snapshot set {identity} has no repository {name!r}.")
    return Folder.of(state, name).snapshots / snapshots[name]


def stamps_of(state: Path, name: str, identities: Collection[str]) -> set[str]:
    """Give the snapshots of one repository that the sets `identities` name; unknown sets do not.

    Raises:
        MirrorError: a set was altered, so that nobody knows what it named.
    """
    there = [identity for identity in identities if _path(state, identity).is_file()]
    return {read_set(state, identity).get(name, "") for identity in there} - {""}


def drop_broken(state: Path) -> None:
    """Remove the sets that name a snapshot which is not there any more."""
    for path in sorted((state / "mirror" / "sets").glob("*.json")):
        try:
            named = read_set(state, path.stem)
        except MirrorError as error:
            log.warning("%s", error)
            continue
        if not all((Folder.of(state, repo).snapshots / named[repo]).is_dir() for repo in named):
            path.unlink()


def _path(state: Path, identity: str) -> Path:
    return state / "mirror" / "sets" / f"{identity}.json"
