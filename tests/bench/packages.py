"""Package files in the real format, thousands in seconds: for benchmarks, not for correctness.

Each has its own metadata, as large and as varied as in a real binhost, and all share one image.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

IMAGE_BYTES = 44_000
ENVIRONMENT_BYTES = 10_000
CATEGORIES = ("app-misc", "dev-libs", "dev-python", "media-libs", "net-misc", "sys-apps")
LIBRARIES = ("libc.so.6", "libcrypto.so.3", "libm.so.6", "libssl.so.3", "libz.so.1")
FLAGS = ("acl", "caps", "debug", "doc", "gtk", "idn", "ipv6", "nls", "pam", "ssl", "static-libs")


def write_packages(folder: Path, numbers: range) -> list[str]:
    """Write packages into `folder` as into a PKGDIR; return their names (`cat/pn/pf-id.gpkg.tar`).

    `numbers` tells them apart: the same number is the same package, byte for byte.
    """
    image = _member("image.tar.zst", zstandard.compress(_noise(IMAGE_BYTES)))
    names = []
    for number in numbers:
        category, pn = CATEGORIES[number % len(CATEGORIES)], f"package{number // 2}"
        pf, build_id = f"{pn}-1.{number % 2}.{number % 7}", 1 + number % 3
        name = f"{category}/{pn}/{pf}-{build_id}.gpkg.tar"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = dict(_metadata(number, category, pf, build_id))
        path.write_bytes(_gpkg(f"{pf}-{build_id}", metadata, image))
        names.append(name)
    return names


def _metadata(number: int, category: str, pf: str, build_id: int) -> Iterator[tuple[str, str]]:
    pick = random.Random(number)  # noqa: S311 (the same each time, that is all)
    use = sorted(pick.sample(FLAGS, 5))
    needs = [f"dev-libs/package{pick.randrange(9999)}" for _ in range(4)]
    dependencies = (
        f">={needs[0]}-1.2:0/3= {needs[1]}:= ssl? ( >=dev-libs/openssl-3:0/3= ) "
        f"gtk? ( x11-libs/gtk+:3[X] ) || ( {needs[2]} {needs[3]} ) !<app-misc/{pf}"
    )
    yield "BDEPEND", f">=dev-build/cmake-3.28 virtual/pkgconfig doc? ( {needs[3]} )"
    yield "BUILD_ID", str(build_id)
    yield "BUILD_TIME", str(1_700_000_000 + number)
    yield "CATEGORY", category
    yield "CBUILD", "x86_64-pc-linux-gnu"
    yield "CFLAGS", "-O2 -pipe -march=x86-64-v2"
    yield "CHOST", "x86_64-pc-linux-gnu"
    yield "DEFINED_PHASES", "compile configure install prepare test"
    yield "DEPEND", dependencies
    yield "DESCRIPTION", f"Package number {number}, which does what its name says"
    yield "EAPI", "8"
    yield "FEATURES", "assume-digests binpkg-multi-instance buildpkg parallel-fetch sandbox"
    yield "HOMEPAGE", f"https://package{number}.example.org/"
    yield "IUSE", " ".join(["+ssl", *FLAGS])
    yield "KEYWORDS", "~alpha amd64 arm arm64 ~hppa ppc64 ~riscv sparc x86"
    yield "LICENSE", "GPL-2+ doc? ( FDL-1.3 ) BSD"
    yield "PF", pf
    yield "PROVIDES", f"x86_64: lib{pf.partition('-')[0]}.so.{number % 9}"
    yield "RDEPEND", f"{dependencies} pam? ( sys-libs/pam )"
    yield "REQUIRES", f"x86_64: {' '.join(sorted(pick.sample(LIBRARIES, 3)))}"
    yield "RESTRICT", "test" if number % 5 else "mirror test"
    yield "SIZE", str(pick.randrange(10_000, 9_000_000))
    yield "SLOT", f"{number % 2}/{number % 9}"
    yield "USE", " ".join(["amd64", "elibc_glibc", "kernel_linux", *use, "userland_GNU"])
    yield "repository", "gentoo"


def _gpkg(folder: str, metadata: dict[str, str], image: tuple[str, bytes, str]) -> bytes:
    """A gpkg (GLEP 78)."""
    files = {f"metadata/{key}": f"{text}\n".encode() for key, text in metadata.items()}
    files["metadata/environment.bz2"] = _noise(ENVIRONMENT_BYTES)
    members = [
        _member("gpkg-1", b""),
        _member("metadata.tar.zst", zstandard.compress(_tar(files.items()))),
        image,
    ]
    manifest = "".join(f"DATA {name} {len(data)} {digests}\n" for name, data, digests in members)
    members.append(_member("Manifest", manifest.encode()))
    return _tar((f"{folder}/{name}", data) for name, data, _ in members)


def _member(name: str, data: bytes) -> tuple[str, bytes, str]:
    """A part of a package with what its Manifest says of it."""
    found = {each: hashlib.new(each, data).hexdigest() for each in ("blake2b", "sha512")}
    return name, data, " ".join(f"{kind.upper()} {digest}" for kind, digest in found.items())


def _noise(length: int) -> bytes:
    """What does not compress, the same each time."""
    return random.Random(length).randbytes(length)  # noqa: S311


def _tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
