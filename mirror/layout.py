"""Where a distfile lies: `filename-hash BLAKE2B 8`, the layout of Gentoo's own mirrors.

The first byte of the file name's BLAKE2B is the folder, so that none holds a hundred thousand.

Source: GLEP 75.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

LAYOUT_CONF = "[structure]\n0=filename-hash BLAKE2B 8\n"
NAME_BYTES = 255  # NAME_MAX of every Linux file system


def path_of(filename: str) -> PurePosixPath:
    """Give the place of `filename` below distfiles/: `0a/hello-1.tar.gz`."""
    return PurePosixPath(_hash(filename)[:2], filename)


def key_of(filename: str) -> str:
    """Give a short name that stands for `filename`: 32 hex digits."""
    return _hash(filename)[:32]


def is_file_name(filename: str) -> bool:
    """Whether `filename` may be a distfile's: one name, not hidden, that a folder can hold."""
    if not filename or filename[0] == "." or re.search(r"[\x00-\x20/\x7f]", filename):
        return False
    try:
        return len(filename.encode()) <= NAME_BYTES
    except UnicodeEncodeError:
        return False


def _hash(filename: str) -> str:
    return hashlib.blake2b(filename.encode()).hexdigest()
