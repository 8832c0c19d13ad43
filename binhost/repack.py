"""A package file of any age written as an unsigned gpkg, as Portage's builder would leave it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from binhost.signing import FormatSettings
from headnode.errors import PublishError
from headnode.process import run

GPKG = ".gpkg.tar"
SIGNATURE = ".sig"
COMPRESSION = "zstd"  # Portage's default
UNCHECKED = frozenset({"binpkg-ignore-signature"})
TRAILER_BYTES = 8  # of an xpak: the length of its metadata, and STOP
UNPACK_S = 1800.0


def xpak_data(path: Path) -> dict[str, bytes]:
    """The metadata of an xpak.

    Raises:
        PublishError: it has none.
    """
    from portage.xpak import tbz2

    data = tbz2(str(path)).get_data()
    if not data:
        raise PublishError(f"{path} is not a whole xpak: it has no metadata at its end.")
    return {os.fsdecode(key): value for key, value in data.items()}


def repack(source: Path, target: Path) -> None:
    """Write the package `source`, gpkg or xpak, as the gpkg `target`, numbered as its name is.

    Raises:
        PublishError: it cannot be read, or is not what its digests say.
    """
    from portage.exception import PortageException

    number = target.name.removesuffix(GPKG).rpartition("-")[2]
    try:
        if source.name.endswith(GPKG):
            _copy(source, target)
            _number(target, number)
        else:
            _convert_xpak(source, target, number)
    except (PortageException, tarfile.TarError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise PublishError(f"{source} cannot be read: {why}.") from error


def _package(path: Path, compression: str = "", base: str | None = None) -> Any:
    from portage.gpkg import gpkg

    settings = FormatSettings(UNCHECKED, BINPKG_COMPRESS=compression)
    return gpkg(settings=settings, basename=base, gpkg_file=str(path))


def _pack(image: str, metadata: Mapping[str, bytes], target: Path) -> None:
    base = target.name.removesuffix(GPKG)
    _package(target, COMPRESSION, base).compress(image, metadata)


def _numbered(metadata: Mapping[str, bytes], number: str) -> dict[str, bytes]:
    return {**metadata, "BUILD_ID": f"{number}\n".encode()}


def _copy(source: Path, target: Path) -> None:
    """Copy a gpkg without the signatures that it may have. Source: GLEP 78.

    Portage 3.0.83 cannot drop them, and reads nothing of a package whose key it does not know.
    """
    with (
        tarfile.open(source, "r:") as old,
        tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in old:
            file, name = old.extractfile(member), PurePosixPath(member.name).name
            if name == "Manifest" and file:
                text = _plain_manifest(file.read().decode()).encode()
                member.size, file = len(text), io.BytesIO(text)
            if not name.endswith(SIGNATURE):
                new.addfile(member, file)


def _plain_manifest(text: str) -> str:
    """A Manifest without clear-signature, and without what it says of signatures. Pure."""
    lines = [line for line in text.splitlines() if line.startswith("DATA ")]
    return "".join(f"{line}\n" for line in lines if not line.split()[1].endswith(SIGNATURE))


def _number(path: Path, number: str) -> None:
    """Have a package say its build id, if it does not; its digests are checked on the way."""
    package = _package(path)
    metadata = package.get_metadata()
    if _has_plain_members(path):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unpacked-") as folder:
            package.decompress(folder)
            _pack(folder, _numbered(metadata, number), path)
    elif metadata.get("BUILD_ID", b"").strip() == number.encode():
        package._verify_binpkg()
    else:
        base = path.name.removesuffix(GPKG)
        _package(path, COMPRESSION).update_metadata(_numbered(metadata, number), base)


def _has_plain_members(path: Path) -> bool:
    """Whether something in a gpkg is not compressed.

    A blade on which Portage compresses by default cannot read that: it takes the compression that
    it writes with (portage.gpkg, `_get_decompression_cmd`, 3.0.83).
    """
    with tarfile.open(path, "r:") as container:
        return any(name.endswith(".tar") for name in container.getnames())


def _convert_xpak(source: Path, target: Path, number: str) -> None:
    """Unpack an xpak, and pack its content as gpkg. Source: xpak(5), GLEP 78."""
    from portage.xpak import tbz2

    package = tbz2(str(source))
    if not package.scan():
        raise PublishError(f"{source} is not a whole xpak.")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacked-") as folder:
        image, archive = Path(folder) / "image", Path(folder) / "archive"
        image.mkdir()
        shutil.copyfile(source, archive)
        os.truncate(archive, package.filestat.st_size - package.infosize - TRAILER_BYTES)
        options = ("--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-p")
        run(["tar", "-x", *options, "-f", archive, "-C", image], timeout_s=UNPACK_S)
        _pack(str(image), _numbered(xpak_data(source), number), target)
