"""The folder of distfiles: what lies where, and how a checked file becomes visible.

::

    <state>/mirror/distfiles/layout.conf       GLEP 75
    <state>/mirror/distfiles/<2 hex>/<file>    served: complete and checked
    <state>/mirror/distfiles/.partial/         `Store.partials`, readable by root only
        <file>                                 being fetched, resumed by the next run
        .validators/<32 hex>                   where a partial file comes from (`mirror.validators`)
        .claims/<32 hex>                       who fetches a file just now (`mirror.claims`)
    <state>/mirror/recycle/<2 hex>/<file>      no tree in use names it any more (`mirror.recycle`)
    <state>/mirror/quarantine/<2 hex>/<file>   was found damaged (`mirror.audit`)

All of it is one file system, since files move between these by rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headnode.files import digests, is_regular, sync_folder, write_atomic
from mirror.layout import LAYOUT_CONF, is_file_name, key_of, path_of
from mirror.wanted import STRONG, Wanted


@dataclass(frozen=True, slots=True)
class Store:
    """The distfiles of the state folder `state`."""

    state: Path

    @property
    def folder(self) -> Path:
        """What is served."""
        return self.state / "mirror" / "distfiles"

    @property
    def partials(self) -> Path:
        """What is on its way."""
        return self.folder / ".partial"

    @property
    def recycled(self) -> Path:
        """What no tree in use names any more."""
        return self.state / "mirror" / "recycle"

    @property
    def quarantine(self) -> Path:
        """What was found damaged."""
        return self.state / "mirror" / "quarantine"

    def place(self, filename: str) -> Path:
        """Where a file is served from."""
        return self.folder / path_of(filename)

    @property
    def claims(self) -> Path:
        """The lock files of whoever brings a file."""
        return self.partials / ".claims"

    def claim(self, filename: str) -> Path:
        """The lock file for one file, by a key: a long name leaves no room for an ending."""
        return self.claims / key_of(filename)

    def prepare(self) -> None:
        """Make the folders, and the layout.conf that tells clients how they lie."""
        for each in (self.folder, self.partials):
            each.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.partials.chmod(0o700)
        layout = self.folder / "layout.conf"
        if not layout.exists() or layout.read_text() != LAYOUT_CONF:
            write_atomic(layout, LAYOUT_CONF)

    def has(self, wanted: Wanted) -> bool:
        """Whether the file is in place, by its size."""
        path = self.place(wanted.filename)
        return is_regular(path) and path.stat().st_size == wanted.size_bytes

    def restore(self, wanted: Wanted) -> bool:
        """Bring the file back from the recycle bin, if it is there and still what it should be."""
        path = self.recycled / path_of(wanted.filename)
        if not is_regular(path) or mismatch(path, wanted.size_bytes, wanted.digests):
            return False
        put_in_place(path, self.place(wanted.filename))
        return True


def files_below(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Give the files of a folder in our layout, by name, and whatever else lies in it.

    Hidden names and layout.conf are not looked at.
    """
    placed: dict[str, Path] = {}
    strays: list[Path] = []
    for path in sorted(_walk(folder)):
        named = is_file_name(path.name)
        if named and is_regular(path) and path == folder / path_of(path.name):
            placed[path.name] = path
        else:
            strays.append(path)
    return placed, strays


def _walk(folder: Path) -> Iterator[Path]:
    for top in folder.iterdir() if folder.is_dir() else ():
        if top.name.startswith(".") or top.name == "layout.conf":
            continue
        if top.is_dir() and not top.is_symlink():
            yield from top.iterdir()
        else:
            yield top


def mismatch(path: Path, size_bytes: int, expected: Mapping[str, str]) -> str:
    """Say how a file differs from what the Manifest says of it; empty if it does not."""
    size = path.stat().st_size
    if size != size_bytes:
        return f"it has {size} bytes and should have {size_bytes}"
    found = digests(path, *(STRONG[kind] for kind in expected))
    for kind, value in expected.items():
        got = found[STRONG[kind]]
        if got != value.lower():
            return f"wrong content: its {kind} is {got[:16]}…, the Manifest says {value[:16]}…"
    return ""


def put_in_place(path: Path, target: Path) -> None:
    """Move a checked file to `target` in one rename, durable and readable by everyone."""
    with path.open("rb") as file:
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    path.replace(target)
    sync_folder(target.parent)
