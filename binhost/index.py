"""The package index (`Packages`): entries as Portage writes them, and the files put together.

An entry is a block of `KEY: value` lines; it is made once, when its package enters the pool, and
carried along byte for byte from then on. Which keys there are, how values are folded and how
dependencies are reduced to the package's own USE flags is Portage's to say
(`portage.dbapi.bintree`, `portage.getbinpkg.PackageIndex`), so it is Portage that is asked.
"""

from __future__ import annotations

import functools
import gzip
import io
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from binhost.gpkg import read_metadata
from headnode.errors import PublishError
from headnode.files import digests

# The keys that Portage's own index header has beside the USE_EXPAND ones
# (bintree._pkgindex_header_keys), less what says nothing to a client.
HEADER_KEYS = (
    "ACCEPT_KEYWORDS",
    "ACCEPT_LICENSE",
    "ACCEPT_PROPERTIES",
    "ACCEPT_RESTRICT",
    "ARCH",
    "CBUILD",
    "CHOST",
    "CONFIG_PROTECT",
    "CONFIG_PROTECT_MASK",
    "IUSE_IMPLICIT",
    "USE",
    "USE_EXPAND",
    "USE_EXPAND_HIDDEN",
    "USE_EXPAND_IMPLICIT",
    "USE_EXPAND_UNPREFIXED",
)


DAMAGED = "It is damaged: put the file `entries` back from a backup."


@functools.cache
def _bintree() -> Any:
    """A bintree of Portage's without a folder: it knows the keys, and reads nothing."""
    from portage.dbapi.bintree import binarytree

    class Settings(dict[str, str]):
        features = frozenset({"binpkg-multi-instance"})

    return binarytree(pkgdir="/nonexistent", settings=Settings())


def make_entry(path: Path, pool_path: PurePosixPath) -> tuple[str, str]:
    """The index entry of the package file `path` under its name in the pool, and its SHA-256.

    Raises:
        PublishError: it is no whole gpkg, or its name is not its content's.
    """
    from portage.exception import InvalidDependString

    tree = _bintree()
    metadata = read_metadata(path)
    stat = path.stat()
    known = tree._pkgindex_keys  # what `emaint binhost --fix` records
    entry = {key: " ".join(value.split()) for key, value in metadata.items() if key in known}
    hashes = digests(path, "md5", "sha1", "sha256")
    entry |= {
        "CPV": cpv_of(metadata, pool_path),
        "PATH": str(pool_path),
        "SIZE": str(stat.st_size),
        "MD5": hashes["md5"],
        "SHA1": hashes["sha1"],
        "_mtime_": str(int(stat.st_mtime)),
    }
    try:
        tree._eval_use_flags(entry["CPV"], entry)
    except InvalidDependString as error:
        raise PublishError(
            f"{path} has dependencies that Portage cannot read: {error}.",
            remedy="Correct its ebuild, remove the file and build the package again.",
        ) from error
    index = tree._new_pkgindex()
    index.packages.append(entry)
    return _body(index), hashes["sha256"]


def cpv_of(metadata: Mapping[str, str], pool_path: PurePosixPath) -> str:
    """The package that metadata and name agree on.

    Raises:
        PublishError: they do not.
    """
    category = metadata.get("CATEGORY", "").strip()
    version = metadata.get("PF", "").strip()
    build_id = metadata.get("BUILD_ID", "").strip()
    cpv = f"{category}/{version}"
    expected = name_of(cpv, build_id)
    if str(pool_path) != expected:
        raise PublishError(
            f"{pool_path} says of itself that it is {expected}.",
            remedy="Remove it from the staging folder and build the package again.",
        )
    return cpv


def cp_of(cpv: str) -> str:
    """The package's name, `category/name`, of a `category/name-version`. Pure."""
    from portage.versions import cpv_getkey

    return str(cpv_getkey(cpv))


def name_of(cpv: str, build_id: int | str) -> str:
    """The name in the pool (and below PKGDIR) of a build of a package. Pure.

    Source: portage.dbapi.bintree, `_allocate_filename_multi`.
    """
    return f"{cp_of(cpv)}/{PurePosixPath(cpv).name}-{build_id}.gpkg.tar"


def _body(index: Any) -> str:
    text = io.StringIO()
    index.write(text)
    _, _, body = text.getvalue().partition("\n\n")
    return str(body).strip("\n") + "\n"


def parse_entries(text: str) -> dict[str, str]:
    """Entries by their PATH, each as it stands.

    Raises:
        PublishError: one has no PATH, or two have the same.
    """
    blocks = [block for each in text.split("\n\n") if (block := each.strip("\n"))]
    entries = {_path_of(block): block + "\n" for block in blocks}
    if len(entries) < len(blocks):
        raise PublishError(
            f"The index has {len(blocks)} entries for {len(entries)} files.", remedy=DAMAGED
        )
    return entries


def field(entry: str, key: str) -> str | None:
    """The value of a key in an entry as it stands; None if it has none."""
    _, found, rest = f"\n{entry}".partition(f"\n{key}: ")
    return rest.partition("\n")[0] if found else None


def _path_of(block: str) -> str:
    path = field(block, "PATH")
    if path is None:
        raise PublishError(
            f"An index entry has no PATH: {block.splitlines()[0]!r}.",
            remedy=DAMAGED,
        )
    return path


def join_entries(entries: Iterable[str]) -> str:
    """Entries one after the other, in the order given."""
    return "\n".join(entries)


def render(
    header: Mapping[str, str], entries: Iterable[str], *, timestamp: int, uri: str
) -> tuple[bytes, bytes]:
    """`Packages` and `Packages.gz` (the same content): `timestamp` is in seconds since the epoch.

    `uri` is where PATHs are looked up, as the `URI:` header that Portage honours.
    """
    blocks = list(entries)
    lines = {
        **header,
        "PACKAGES": str(len(blocks)),
        "TIMESTAMP": str(timestamp),
        "URI": uri,
        "VERSION": "0",
    }
    head = "".join(f"{key}: {value}\n" for key, value in sorted(lines.items()) if value)
    content = f"{head}\n{join_entries(blocks)}\n".encode()
    return content, gzip.compress(content, compresslevel=6, mtime=timestamp)
