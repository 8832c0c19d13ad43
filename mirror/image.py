"""A snapshot set as one squashfs image, which blades mount instead of syncing 170,000 files.

::

    <state>/mirror/images/<sha256>.squashfs     named by its content, never written to again
    <state>/mirror/images/<set>.<kind>.json     which image a snapshot set is, by kind
    <state>/mirror/images/.new/                 one being made, or what a killed run left of it
    <state>/mirror/images/.lock                 held by who makes or prunes

`mirror.contents` lays out what is in an image, as hard links; mksquashfs compresses that. The same
content is the same file, whoever makes it and on how many cores; another version of mksquashfs or
libzstd may compress otherwise, and then blades fetch anew what they have, once. Not from a tar:
the root then has the time of the run, whatever `-root-time` says (squashfs-tools 4.5.1).

Source: mksquashfs(1).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import CommandError, MirrorError
from headnode.files import digests, remove_tree, sync_folder, write_atomic
from headnode.process import require, run
from mirror.contents import Kind, lay_out
from mirror.disk import writing_to
from mirror.sets import read_set, set_path
from mirror.snapshots import make_served

MAKE_S = 3600.0
SUFFIX = ".squashfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of a snapshot set. Blades find it as /images/<sha256>.squashfs."""

    kind: Kind
    sha256: str
    size_bytes: int


def folder_of(state: Path) -> Path:
    """Where the images are."""
    return state / "mirror" / "images"


def path_of(state: Path, image: Image) -> Path:
    """The file of an image."""
    return folder_of(state) / f"{image.sha256}{SUFFIX}"


def image_of(state: Path, set_id: str, kind: Kind) -> Image | None:
    """Give the image of a snapshot set, if it was made and is there whole (by its size)."""
    try:
        said = json.loads(_record(state, set_id, kind).read_text())
        image = Image(kind=kind, sha256=said["sha256"], size_bytes=said["size_bytes"])
        there = path_of(state, image).stat().st_size
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return image if there == image.size_bytes else None


def ensure_image(state: Path, set_id: str, kind: Kind = Kind.PROFILES) -> Image:
    """Give the image of a snapshot set, and make it if it is not there.

    Who asks while another makes one waits for him. A killed run leaves nothing that counts.

    Raises:
        MirrorError: there is no such set, or mksquashfs failed (a full disk).
        EnvironmentLacksError: there is no mksquashfs.
    """
    made = image_of(state, set_id, kind)
    if made is not None:
        return made
    repos = {name: set_path(state, set_id, name) for name in read_set(state, set_id)}
    require("mksquashfs")
    folder = folder_of(state)
    with writing_to(folder):
        make_served(folder, up_to=state)
        with _alone(folder) as scratch:
            made = image_of(state, set_id, kind)
            if made is None:
                made = _make(scratch, repos, kind)
                (scratch / "image").replace(path_of(state, made))
                sync_folder(folder)
                said = {"sha256": made.sha256, "size_bytes": made.size_bytes}
                write_atomic(_record(state, set_id, kind), json.dumps(said) + "\n")
    return made


def prune_images(state: Path, keep_sets: Iterable[str], *, dry_run: bool = False) -> dict[str, int]:
    """Remove the images, and the records, of every snapshot set but `keep_sets`.

    What went (with `dry_run`: would go), each with its bytes. An image that two sets share stays as
    long as one of them does.
    """
    folder, kept = folder_of(state), set(keep_sets)
    if not folder.is_dir():
        return {}
    with _alone(folder):
        records = {path: path.name.partition(".")[0] for path in folder.glob("*.json")}
        stay = [path for path, set_id in records.items() if set_id in kept]
        named = {_named(path) for path in stay}
        images = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if path.stem not in named]
        going = {path.name: path.stat().st_size for path in images}
        if not dry_run:
            for path in [*(records.keys() - set(stay)), *images]:
                path.unlink()
    return going


def build_argv(source: Path, target: Path) -> list[str | Path]:
    """Give mksquashfs's arguments to make `target` of the folder `source`. Pure.

    Blocks are of the default 128 KiB: of a tree of 100,000 files, 1 MiB made an image 6 % smaller,
    in which reading every file took three times as long.
    """
    return [
        *("mksquashfs", source, target, "-noappend", "-quiet", "-no-progress"),
        *("-comp", "zstd", "-no-xattrs", "-no-exports", "-exit-on-error"),
        *("-all-root", "-mkfs-time", "0"),
    ]


def _named(record: Path) -> str:
    """The digest that a record has; empty if it is damaged, which makes its image anew."""
    try:
        return str(json.loads(record.read_text())["sha256"])
    except (ValueError, KeyError, TypeError):
        return ""


def _record(state: Path, set_id: str, kind: Kind) -> Path:
    return folder_of(state) / f"{set_id}.{kind}.json"


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Wait for the lock, and give an empty scratch folder, which is gone after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".new"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_tree(scratch)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            remove_tree(scratch)


def _make(scratch: Path, repos: dict[str, Path], kind: Kind) -> Image:
    target = scratch / "image"
    _squash(repos, kind, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.chmod(0o644)
    return Image(
        kind=kind,
        sha256=digests(target, "sha256")["sha256"],
        size_bytes=target.stat().st_size,
    )


def _squash(repos: dict[str, Path], kind: Kind, target: Path) -> None:
    source = target.with_name("source")
    lay_out(repos, kind, source)
    try:
        run(build_argv(source, target), timeout_s=MAKE_S)
    except CommandError as error:
        raise MirrorError(
            f"The image of {', '.join(repos)} could not be made: {error.tail}",
            remedy="Free some space if the disk is full, then run this again.",
        ) from error
