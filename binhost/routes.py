"""Which file of the state folder a URL names, and how long a client may keep it.

The contract is the table "What blades see over HTTP" of the design; nothing here touches a disk.
Refused, by returning None: whatever the table does not name, and any path with an empty or hidden
name, `..`, a slash or a NUL that was percent-encoded, a backslash, a control character, or bytes
that are not UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

NOT_RINGS = frozenset({"pool", "generations"})
RING_FILES = frozenset(
    {
        "Packages",
        "Packages.gz",
        "deployment.json",
        "deployment.json.asc",
        "blade.json",
        "generation.json",
        "keys.asc",
    }
)
IMAGE = re.compile(r"[0-9a-f]{64}\.squashfs")
INDEX = re.compile(r"/binhost/[^/]+/(?!pool/)[^/]+/(deployments/[0-9]+/)?Packages")
SEQUENCE = re.compile(r"[0-9]+")
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]")

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"

OCTETS = "application/octet-stream"
# Never a Content-Encoding: Portage would decompress Packages.gz a second time, and fail.
TYPES = {
    ".asc": "application/pgp-signature",
    ".conf": "text/plain; charset=utf-8",
    ".gz": "application/gzip",
    ".json": "application/json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the served files are: `state` is the state folder of the design, an absolute path."""

    state: Path


def is_index(url_path: str) -> bool:
    """Whether this is a plain index, a ring's or a deployment's."""
    return url_path.endswith("/Packages") and INDEX.fullmatch(url_path) is not None


def distfile(url_path: str, roots: Roots) -> Path | None:
    """The file of a distfile's `url_path`, exists or not; None where it is none's."""
    return resolve(url_path, roots) if url_path.startswith("/distfiles/") else None


def resolve(url_path: str, roots: Roots) -> Path | None:
    """Find the file that `url_path` (percent-encoded, no query) names; None where it names none.

    The path is below `roots.state`, exists or not, and has the ring's link `current` unresolved.
    """
    binhost, mirror = roots.state / "binhost", roots.state / "mirror"
    match _names(url_path):
        case ["binhost", group, "pool", *inside] if inside:
            return binhost.joinpath(group, "pool", *inside)
        case ["binhost", _, ring, *_] if ring in NOT_RINGS:
            return None
        case ["binhost", group, ring, name] if name in RING_FILES:
            return binhost.joinpath(group, "rings", ring, "current", name)
        case ["binhost", group, ring, "deployments", number, name] if SEQUENCE.fullmatch(number):
            return binhost.joinpath(group, "rings", ring, "deployments", number, name)
        case ["binhost", group, _, "drained.json"]:
            return binhost.joinpath(group, "drained.json")
        case ["distfiles", *inside] if inside:
            return mirror.joinpath("distfiles", *inside)
        case ["images", name] if IMAGE.fullmatch(name):
            return mirror / "images" / name
    return None


def _names(url_path: str) -> list[str] | None:
    """The decoded names between the slashes, or None where one of them may not be asked for."""
    if not url_path.startswith("/") or not url_path.isascii():
        return None
    try:
        names = [unquote_to_bytes(part).decode() for part in url_path[1:].split("/")]
    except UnicodeDecodeError:
        return None
    refused = any(not name or name[0] == "." or FORBIDDEN.search(name) for name in names)
    return None if refused else names


def is_ring_link(names: tuple[str, ...]) -> bool:
    """Whether `names`, counted from the state folder, are a ring's `current` and so a symlink."""
    match names:
        case ("binhost", _, "rings", _, "current"):
            return True
    return False


def cache_control(file: Path, roots: Roots) -> str | None:
    """How long a client may use `file` unasked: for ever where its name never changes content."""
    names = file.relative_to(roots.state).parts
    if names[2] == "pool" or names[:2] == ("mirror", "images"):
        return IMMUTABLE
    return REVALIDATE if is_ring_link(names[:5]) else None


def content_type(file: Path) -> str:
    """The media type of `file`, by its name alone."""
    return (
        "text/plain; charset=utf-8" if file.name == "Packages" else TYPES.get(file.suffix, OCTETS)
    )
