"""Where a distfile lies: `filename-hash BLAKE2B 8`, the layout of Gentoo's own mirrors.

The first byte of the file name's BLAKE2B is the folder, so that none holds a hundred thousand.

Source: GLEP 75.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

LAYOUT_CONF = "[structure]\n0=filename-hash BLAKE2B 8\n"


def path_of(filename: str) -> PurePosixPath:
    """Give the place of `filename` below distfiles/: `0a/hello-1.tar.gz`."""
    return PurePosixPath(hashlib.blake2b(filename.encode()).hexdigest()[:2], filename)
