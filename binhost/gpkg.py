"""What a package file says of itself: the metadata of a gpkg, read without unpacking its image.

Source: GLEP 78 (Gentoo binary package container format): a tar whose members lie in one folder,
among them `gpkg-1` (the format), `metadata.tar*` and `image.tar*` (both maybe compressed), and
`Manifest` with the digests of the others.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

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
            return _unpack(member.name, file.read(METADATA_LIMIT_BYTES))
    except (tarfile.TarError, zstandard.ZstdError, EOFError, OSError) as error:
        raise _broken(path, str(error) or type(error).__name__) from error


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
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data))
        data = reader.read(METADATA_LIMIT_BYTES)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        return {
            PurePosixPath(member.name).name: file.read().decode("utf-8", "replace")
            for member in archive
            if member.isfile() and (file := archive.extractfile(member))
        }


def _broken(path: Path, why: str) -> PublishError:
    return PublishError(
        f"{path} is not a whole gpkg: {why}.",
        remedy="Remove it and build the package again.",
    )
