"""What a tree says of its own age, and whether an upstream has anything new. Pure but for reading.

A tree's head is `metadata/timestamp.chk`, written with each stamping, and the top-level `Manifest`,
whose TIMESTAMP is signed with it and whose entries name, by digest, every file below. Both are
small, so an upstream's head is asked for before anything else:

* the same stamp: the same tree, as Portage takes it;
* an older one: a mirror that lags, or somebody who replays an old tree;
* a newer one over the same entries: the same tree, stamped anew.

Source: GLEP 74 (TIMESTAMP; files with time stamps are in no Manifest); portage.sync.modules.rsync.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

CHK = "metadata/timestamp.chk"
MANIFEST = "Manifest"
FILES = (CHK, MANIFEST)
CHK_FORMAT = "%a, %d %b %Y %H:%M:%S +0000"
MANIFEST_FORMAT = "TIMESTAMP %Y-%m-%dT%H:%M:%SZ"
# What a stamping writes though no content changed. A package's own Manifest is not among them: it
# has the digests of distfiles.
STAMPED = re.compile(
    r"metadata/([\w-]+/)?(timestamp(\.chk|\.x|\.commit)?|Manifest(\.gz)?)|Manifest(\.gz)?"
)


class News(Enum):
    """What an upstream's head says against the one that is known."""

    NONE = "none"
    STAMP = "stamp"
    OLDER = "older"
    MAYBE = "maybe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A tree's head: both times UTC, None where it has none; `entries` without the TIMESTAMP."""

    chk: datetime | None = None
    manifest: datetime | None = None
    entries: tuple[str, ...] = ()

    @property
    def time(self) -> datetime | None:
        """When the tree was stamped, if it says so."""
        return self.chk or self.manifest


def read_head(tree: Path) -> Head:
    """Read the head of the tree in a folder; what is not there, or unreadable, is left out."""
    chk, manifest = _text(tree / CHK), _text(tree / MANIFEST)
    return parse_head(chk, manifest)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def parse_head(chk: str, manifest: str) -> Head:
    """Put a head together from the text of its two files (empty: not there)."""
    lines = _entries(manifest)
    stamps = [line for line in lines if line.startswith("TIMESTAMP ")]
    return Head(
        chk=_time(chk.strip(), CHK_FORMAT),
        manifest=_time(stamps[0], MANIFEST_FORMAT) if stamps else None,
        entries=tuple(sorted(line for line in lines if not line.startswith("TIMESTAMP "))),
    )


def _entries(manifest: str) -> list[str]:
    """The lines of a Manifest, without the armour of a clear-text signature (RFC 4880, 7)."""
    if manifest.startswith("-----BEGIN PGP SIGNED MESSAGE-----"):
        manifest = manifest.partition("\n\n")[2].partition("\n-----BEGIN PGP SIGNATURE-----")[0]
    return [line for line in manifest.splitlines() if line.strip()]


def _time(text: str, form: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    return None


def news(have: Head, known: Head, offered: Head) -> News:
    """Say what `offered` has that the tree with the head `have` has not.

    `known` has the newest times that any upstream said: a tree stamped anew is not fetched, and
    what is older than the stamp that was seen is older all the same.
    """
    if _goes_back(known.chk, offered.chk) or _goes_back(known.manifest, offered.manifest):
        return News.OLDER
    if offered.chk and offered in (
        have,
        Head(chk=known.chk, manifest=known.manifest, entries=have.entries),
    ):
        return News.NONE
    if offered.entries and offered.entries == have.entries:
        return News.STAMP
    return News.MAYBE


def _goes_back(before: datetime | None, after: datetime | None) -> bool:
    """A tree that had a stamp and has none could be of any age."""
    return before is not None and (after is None or after < before)


def only_stamped(paths: Iterable[str]) -> bool:
    """Whether files that differ are such as a stamping writes, and no other."""
    return all(STAMPED.fullmatch(path) for path in paths)


def newer(one: Head, other: Head) -> Head:
    """Put together the later times of both."""
    return Head(
        chk=max(filter(None, (one.chk, other.chk)), default=None),
        manifest=max(filter(None, (one.manifest, other.manifest)), default=None),
    )
