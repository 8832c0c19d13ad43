"""What a package file says of itself: the metadata of a gpkg, read without unpacking its image.

Source: GLEP 78 (Gentoo binary package container format): a tar whose members lie in one folder,
among them `gpkg-1` (the format), `metadata.tar*` and `image.tar*` (both maybe compressed), and
`Manifest` with the digests of the others.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from headnode.errors import PublishError

FORMAT = "gpkg-1"
# Portage's metadata is some kilobytes; this is to refuse a bomb, not to fit tightly.
METADATA_LIMIT_BYTES = 64 << 20


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a package: key (`CPV`-less, as in a vdb folder) to text, as it stands.

    Raises:
        PublishError: it is no whole gpkg.
    """
    try:
        with tarfile.open(path, "r:") as container:
            member = _metadata_member(container, path)
            file = container.extractfile(member)
            if file is None:
                raise _broken(path, f"{member.name} is not a file")
            return _unpack(member.name, _read(file))
    except _UNREADABLE as error:
        raise _broken(path, str(error) or type(error).__name__) from error


class _TooLargeError(Exception):
    """The metadata unpacks to more than any package's is."""

    def __init__(self) -> None:
        super().__init__(f"its metadata is larger than {METADATA_LIMIT_BYTES >> 20} MiB")


_UNREADABLE = (
    _TooLargeError,
    tarfile.TarError,
    zstandard.ZstdError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
)


def _read(file: IO[bytes]) -> bytes:
    """All of `file`, if that is within the limit: what it says of its size is not asked."""
    data = file.read(METADATA_LIMIT_BYTES + 1)
    if len(data) > METADATA_LIMIT_BYTES:
        raise _TooLargeError
    return data


def is_signed(path: Path) -> bool:
    """Whether a package has signatures, whatever they are worth.

    Source: GLEP 78: `<member>.sig` beside each member, and a clear-signed Manifest.

    Raises:
        PublishError: it is no whole gpkg.
    """
    try:
        with tarfile.open(path, "r:") as container:
            names = {PurePosixPath(member.name).name for member in container.getmembers()}
    except _UNREADABLE as error:
        raise _broken(path, str(error) or type(error).__name__) from error
    return any(name.startswith("image.tar") and name.endswith(".sig") for name in names)


def _metadata_member(container: tarfile.TarFile, path: Path) -> tarfile.TarInfo:
    members = {PurePosixPath(member.name).name: member for member in container.getmembers()}
    if FORMAT not in members or "Manifest" not in members:
        raise _broken(path, f"no {FORMAT} or no Manifest in it")
    for name, member in members.items():
        if name.startswith("metadata.tar") and not name.endswith(".sig"):
            return member
    raise _broken(path, "no metadata in it")


def _unpack(name: str, data: bytes) -> dict[str, str]:
    if name.endswith(".zst"):
        unpacker = zstandard.ZstdDecompressor()
        data = _read(unpacker.stream_reader(io.BytesIO(data), read_across_frames=True))
    metadata, room = {}, METADATA_LIMIT_BYTES
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        for member in archive:
            room -= member.size
            if room < 0:
                raise _TooLargeError
            if member.isfile() and (file := archive.extractfile(member)):
                text = file.read().decode("utf-8", "replace")
                metadata[PurePosixPath(member.name).name] = text
    return metadata


def _broken(path: Path, why: str) -> PublishError:
    return PublishError(
        f"{path} is not a whole gpkg: {why}.",
        remedy="Remove it and build the package again.",
    )
