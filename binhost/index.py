"""The package index (`Packages`): entries read, looked into, and put together.

An entry is a block of `KEY: value` lines; it is made once, when its package enters the pool
(`binhost.entry`), and carried along byte for byte from then on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from isal import igzip

from headnode.errors import PublishError

# ISA-L's default: within a sixth of the size that zlib's level 6 comes to, in a tenth of the time.
LEVEL = 2

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


def cp_of(cpv: str) -> str:
    """The package's name, `category/name`, of a `category/name-version`. Pure."""
    from portage.versions import cpv_getkey

    return str(cpv_getkey(cpv))


# The lines that tell entries apart, in the order in which Portage writes them: one search for the
# three takes a third of the time of three.
_IDENTITY = re.compile(r"^BUILD_ID: (.*)\n(?:.*\n)*?CPV: (.*)\n(?:.*\n)*?PATH: (.*)$", re.MULTILINE)


def parse_entries(text: str) -> dict[str, str]:
    """Entries by their PATH, each as it stands.

    Raises:
        PublishError: one has no PATH, two have the same, or two are the same build of a package.
    """
    blocks = [block for each in text.split("\n\n") if (block := each.strip("\n"))]
    known = [_identity_of(block) for block in blocks]
    entries = {path: f"{block}\n" for (_, _, path), block in zip(known, blocks, strict=True)}
    if len(entries) < len(blocks):
        raise PublishError(
            f"The index has {len(blocks)} entries for {len(entries)} files.", remedy=DAMAGED
        )
    builds = Counter((cpv, build_id) for build_id, cpv, _ in known)
    if len(builds) < len(blocks):
        [((cpv, build_id), count)] = builds.most_common(1)
        raise PublishError(
            f"The index has {count} entries for build {build_id} of {cpv}.", remedy=DAMAGED
        )
    return entries


def _identity_of(block: str) -> tuple[str | None, str | None, str]:
    """BUILD_ID, CPV and PATH of an entry."""
    if found := _IDENTITY.search(block):
        return found[1], found[2], found[3]
    return field(block, "BUILD_ID"), field(block, "CPV"), _path_of(block)


def field(entry: str, key: str) -> str | None:
    """The value of a key in an entry as it stands; None if it has none."""
    mark = f"{key}: "
    if not entry.startswith(mark):
        mark = f"\n{mark}"
    at = entry.find(mark)
    return entry[at + len(mark) :].partition("\n")[0] if at >= 0 else None


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
    entries_content = join_entries(blocks).encode()
    content = render_content(header, entries_content, len(blocks), timestamp=timestamp, uri=uri)
    return content, packed(content, timestamp)


def render_content(
    header: Mapping[str, str], entries: bytes, count: int, *, timestamp: int, uri: str
) -> bytes:
    """The same `Packages` of `count` entries that were put together already."""
    lines = {
        **header,
        "PACKAGES": str(count),
        "TIMESTAMP": str(timestamp),
        "URI": uri,
        "VERSION": "0",
    }
    head = "".join(f"{key}: {value}\n" for key, value in sorted(lines.items()) if value)
    return b"".join((head.encode(), b"\n", entries, b"\n"))


def packed(packages: bytes, timestamp: int) -> bytes:
    """`Packages.gz` of a `Packages`."""
    return igzip.compress(packages, LEVEL, mtime=timestamp)
