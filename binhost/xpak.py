"""What a package file of the older format says of itself: the metadata at the end of an xpak.

Such packages are what existing binhosts have. They cannot be signed, and nothing but the index has
a digest of them.

Source: xpak(5): a tarball, `XPAKPACK`, the lengths of index and data, both, `XPAKSTOP`, the length
of all that, `STOP`; in the index, each name with its offset and length in the data. Numbers have
four bytes, the highest first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from binhost.gpkg import METADATA_LIMIT_BYTES
from headnode.errors import PublishError

HEAD = struct.Struct(">8sII")
TRAILER = struct.Struct(">8sI4s")
NUMBER = struct.Struct(">I")
PLACE = struct.Struct(">II")


def read_xpak(path: Path) -> dict[str, str]:
    """The metadata of a package: key (`CPV`-less, as in a vdb folder) to text, as it stands.

    Raises:
        PublishError: it is no whole xpak.
    """
    try:
        with path.open("rb") as file:
            index, data = _parts(file)
        return {
            name.decode("utf-8", "replace"): data[start:end].decode("utf-8", "replace")
            for name, start, end in _places(index, len(data))
        }
    except (ValueError, struct.error, OSError) as error:
        raise PublishError(
            f"{path} is not a whole xpak: {error}.", remedy="Remove it and build the package again."
        ) from error


def _parts(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Index and data, which must be where, and as long as, all of trailer and head say."""
    size = file.seek(0, os.SEEK_END)
    if size < HEAD.size + TRAILER.size:
        raise ValueError(f"it has {size} bytes")
    file.seek(-TRAILER.size, os.SEEK_END)
    stop, length, end = TRAILER.unpack(file.read())
    if (stop, end) != (b"XPAKSTOP", b"STOP"):
        raise ValueError("it does not end as one does")
    if not HEAD.size <= length <= min(size - 8, METADATA_LIMIT_BYTES):
        raise ValueError(f"its metadata cannot have {length} bytes")
    file.seek(-length - 8, os.SEEK_END)
    start, index, data = HEAD.unpack(file.read(HEAD.size))
    if start != b"XPAKPACK" or HEAD.size + index + data + len(stop) != length:
        raise ValueError("its metadata does not begin where it should")
    return file.read(index), file.read(data)


def _places(index: bytes, limit: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each value."""
    at = 0
    while at < len(index):
        (length,) = NUMBER.unpack_from(index, at)
        name = index[at + NUMBER.size : at + NUMBER.size + length]
        at += NUMBER.size + length
        start, size = PLACE.unpack_from(index, at)
        at += PLACE.size
        if start + size > limit:
            raise ValueError(f"{name.decode('utf-8', 'replace')} lies beyond its metadata")
        yield name, start, start + size
