"""The tarballs of the upstream: made here from in-house sources, or fetched as Debian ships them.

What apt is asked is asked with a private configuration: its sources are the machine's own Debian
ones turned to `deb-src`, and its lists and caches lie in the cache folder, so that nothing in
/etc/apt, /var/lib/apt or /var/cache/apt changes. Only pinned files are accepted, whatever apt says.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import HeadnodeError
from headnode.files import digests, write_atomic
from headnode.process import require, run

log = logging.getLogger(__name__)

APT_SOURCES = Path("/etc/apt")
APT_UPDATE_S = 120.0
APT_SOURCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tarball:
    """A real upstream tarball: its package and version, Debian's source package, its digest."""

    package: str
    version: str
    debian: str
    sha256: str

    @property
    def name(self) -> str:
        """The distfile's name in the ebuild's SRC_URI."""
        return f"{self.package.partition('/')[2]}-{self.version}.tar.gz"


REAL = (
    Tarball(
        package="app-misc/hello",
        version="2.10",
        debian="hello",
        sha256="31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b",
    ),
    Tarball(
        package="app-text/tree",
        version="2.1.0",
        debian="tree",
        sha256="0160c535bff2b0dc6a830b9944e981e3427380f63e748da96ced7071faebabf6",
    ),
    Tarball(
        package="app-admin/pwgen",
        version="2.08",
        debian="pwgen",
        sha256="dab03dd30ad5a58e578c5581241a6e87e184a18eb2c3b2e0fffa8a9cf105c97b",
    ),
)


def fetch_tarballs(
    cache: Path, apt_sources: Path = APT_SOURCES, wanted: Sequence[Tarball] = REAL
) -> Path | None:
    """Have the `wanted` tarballs in `cache/tarballs`; return that folder, or None if it has none.

    What is there and right is not fetched again. Why one cannot be had is logged, and is no error:
    the upstream then has its stand-in (module `mirror.upstream.assemble`).
    """
    folder = cache.resolve() / "tarballs"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [tarball for tarball in wanted if not is_real(folder, tarball)]
    if missing:
        try:
            _fetch(missing, folder, cache.resolve() / "apt", apt_sources)
        except (HeadnodeError, OSError) as error:
            log.warning("no source packages from Debian: %s", error)
    return folder if any(is_real(folder, tarball) for tarball in wanted) else None


def is_real(folder: Path, tarball: Tarball) -> bool:
    """Whether `folder` has that tarball, with the pinned digest."""
    path = folder / tarball.name
    return path.is_file() and digests(path, "sha256")["sha256"] == tarball.sha256


def _fetch(wanted: list[Tarball], folder: Path, private: Path, apt_sources: Path) -> None:
    require("apt-get")
    options = _private_apt(private, apt_sources)
    # A third source that fails must not keep the others from being used: no check.
    run(["apt-get", *options, "update"], timeout_s=APT_UPDATE_S, check=False)
    for tarball in wanted:
        done = run(
            ["apt-get", *options, "source", "--tar-only", "--download-only", tarball.debian],
            timeout_s=APT_SOURCE_S,
            check=False,
            cwd=private,
        )
        if not _accept(private, folder, tarball):
            log.warning("no real %s, its stand-in is used: %s", tarball.name, done.tail)


def _accept(downloads: Path, folder: Path, tarball: Tarball) -> bool:
    """Move the download with the pinned digest, under whatever name, to its place in `folder`."""
    for path in downloads.glob(f"{tarball.debian}_*.orig.tar.gz"):
        if digests(path, "sha256")["sha256"] == tarball.sha256:
            path.replace(folder / tarball.name)
            return True
    return False


def _private_apt(private: Path, apt_sources: Path) -> list[str]:
    """Write the private configuration; return the options that make apt-get use only that.

    Source: apt.conf(5), sources.list(5).
    """
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (private / name).mkdir(parents=True, exist_ok=True)
    listed = sorted([*apt_sources.glob("sources.list"), *apt_sources.glob("sources.list.d/*")])
    for path in listed:
        if path.suffix in {".list", ".sources"}:
            text = debian_sources(path.read_text(), deb822=path.suffix == ".sources")
            (private / "sources" / path.name).write_text(text)
    settings = {
        "Dir::State::lists": private / "lists",
        "Dir::Cache": private / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": private / "sources",
        # The folder may be closed to apt's own user, which apt would then complain about.
        "APT::Sandbox::User": "root",
    }
    quiet = ["-q", "-q"]
    return [*quiet, *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]


def debian_sources(text: str, *, deb822: bool) -> str:
    """The Debian entries of a sources file, each asking for source packages in place of binaries.

    Others (vendors' repositories) have no source packages, and each would make the update fail.
    """
    if deb822:
        stanzas = [part for part in text.split("\n\n") if "/debian" in part]
        return "\n\n".join(_with_types(stanza) for stanza in stanzas) + "\n"
    lines = [line.split(None, 1) for line in text.splitlines() if "/debian" in line]
    return "".join(f"deb-src {line[1]}\n" for line in lines if line[0] in {"deb", "deb-src"})


def _with_types(stanza: str) -> str:
    lines = stanza.strip().splitlines()
    return "\n".join("Types: deb-src" if line.startswith("Types:") else line for line in lines)


def in_house(source: Path, name: str, version: str) -> bytes:
    """The tarball `<name>-<version>.tar.gz` of a source folder, with a file VERSION added.

    The same bytes for the same content: sorted names, no owner, no times, fixed modes.
    """
    members = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    members["VERSION"] = f"{version}\n".encode()
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0, compresslevel=9) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for member in sorted(members):
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size, entry.mode = len(members[member]), 0o644
            archive.addfile(entry, io.BytesIO(members[member]))
    return packed.getvalue()


def place(distfiles: Path, name: str, content: bytes) -> Path:
    """Put a distfile where GLEP 75 wants it under `distfiles`.

    Source: GLEP 75, `filename-hash BLAKE2B 8`: a folder of the first 8 bits of the name's digest.
    """
    digest = hashlib.blake2b(name.encode()).hexdigest()
    target = distfiles / digest[:2] / name
    write_atomic(target, content)
    return target
