"""The secrets that blades sign their reports with: one each, made when it is first asked for.

::

    <state>/keys/blades/<name>    64 hex digits, 0600 in a folder of 0700

A blade's secret is no other's, so that a blade that was broken into can speak for itself alone.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

from headnode.files import sync_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
SECRET_BYTES = 32


def secrets_folder(state: Path) -> Path:
    """Where the secrets are."""
    return state / "keys" / "blades"


def read_secret(state: Path, blade: str) -> bytes | None:
    """The secret of a blade; None if it has no whole one, or if that is no blade's name."""
    if not NAME.fullmatch(blade):
        return None
    try:
        secret = bytes.fromhex((secrets_folder(state) / blade).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return secret if len(secret) == SECRET_BYTES else None  # anybody could sign with an empty one


def secret_of(state: Path, blade: str) -> bytes:
    """The secret of a blade, made now if it has none."""
    if not NAME.fullmatch(blade):
        raise ValueError(f"{blade!r} is no blade's name")
    if known := read_secret(state, blade):
        return known
    folder = secrets_folder(state)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{blade}.")  # which is 0600
    beside = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_bytes(SECRET_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, folder / blade)  # whoever is first has made it
        except FileExistsError:
            if read_secret(state, blade) is None:  # cut off, or edited by hand
                beside.replace(folder / blade)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(folder)
    return read_secret(state, blade) or b""
