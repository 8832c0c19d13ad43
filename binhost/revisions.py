"""What is kept of a flavour: its present revision, all that there were, patches that were added.

::

    <state>/kernels/<flavour>/
        record.json        revisions by key, and what the present one came from
        files/             what lies with its ebuild: the resolved configuration, local patches
        added/<name>       patches of `kernel build --patch`, applied after the flavour's own

A key that was there before gets its old revision again, so that a patch that is dropped does not
build the kernel anew. Numbers only grow for a flavour, over all versions: a name never means two
kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field

from binhost.kernels import Resolved
from binhost.records import Record, read, save
from config.flavour import Recipe
from config.overlay import Dist, Revision
from headnode.errors import BuildError
from headnode.files import digests, remove_tree, write_atomic

RELEASE_CHARACTERS = 64  # __NEW_UTS_LEN: what uname(2) has room for


class Kept(Record):
    """What record.json says. `added` are names of patches, in order."""

    present: Revision | None = None
    inputs: str = ""
    highest: int = 0
    known: dict[str, Revision] = Field(default_factory=dict)
    added: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of one flavour."""

    folder: Path

    @classmethod
    def of(cls, state: Path, flavour: str) -> Shelf:
        """The folder of the flavour `flavour`."""
        return cls(state / "kernels" / flavour)

    @property
    def files(self) -> Path:
        """What lies with the ebuild."""
        return self.folder / "files"

    def patch(self, name: str) -> Path:
        """Where an added patch lies."""
        return self.folder / "added" / name

    def kept(self) -> Kept:
        """What is kept; nothing before the first build.

        Raises:
            PublishError: the record is damaged.
        """
        path = self.folder / "record.json"
        return read(path, Kept) if path.exists() else Kept()

    def put(self, kept: Kept, files: Mapping[str, bytes], patches: Mapping[str, bytes]) -> None:
        """Keep `kept`, with the files of its present revision and the added patches.

        The record comes last: until then the earlier one stands, whose files stay as well.
        """
        for name, content in patches.items():
            write_atomic(self.patch(name), content)
        for name, content in files.items():
            write_atomic(self.files / name, content)
        save(self.folder / "record.json", kept)
        for folder, names in ((self.files, files), (self.patch("x").parent, kept.added)):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in names:
                    remove_tree(path)

    def present(self) -> tuple[Revision, dict[str, bytes]] | None:
        """The present revision, with what lies with its ebuild; None before the first build."""
        revision = self.kept().present
        if revision is None:
            return None
        return revision, {path.name: path.read_bytes() for path in sorted(self.files.iterdir())}


def revise(
    recipe: Recipe, kept: Kept, resolved: Resolved, *, now: datetime, **source: object
) -> Revision:
    """The revision of what was resolved: an old one whose key it has, or the next. Pure.

    `source` are the fields of a Revision that say where the source and patches are.

    Raises:
        BuildError: the release would be longer than the kernel has room for.
    """
    before = kept.known.get(resolved.key)
    number = before.number if before else kept.highest + 1
    local = f"{recipe.local_version}-r{number}"
    release = f"{resolved.base}{local}"
    if len(release) > RELEASE_CHARACTERS:
        raise BuildError(
            f"{release} has {len(release)} characters, and uname has room for "
            f"{RELEASE_CHARACTERS}.",
            remedy="Shorten `local_version` of the flavour.",
        )
    fields = {
        "flavour": recipe.name,
        "version": resolved.version,
        "number": number,
        "release": release,
        "local": local,
        "key": resolved.key,
        "compiler": recipe.flavour.compiler,
        "made": before.made if before else now,
        "make_args": recipe.flavour.make_args,
        "modules": recipe.flavour.modules,
        "initramfs": recipe.flavour.initramfs,
    }
    return Revision.model_validate({**fields, **source})


def keep(kept: Kept, revision: Revision, inputs: str, added: tuple[str, ...]) -> Kept:
    """The record after a revision became the present one. Pure."""
    return Kept(
        present=revision,
        inputs=inputs,
        highest=max(kept.highest, revision.number),
        known={**kept.known, revision.key: revision},
        added=added,
    )


def dist_of(path: Path, name: str) -> Dist:
    """What a Manifest says of a file that was checked."""
    found = digests(path, "blake2b", "sha512")
    return Dist(
        file=name,
        size_bytes=path.stat().st_size,
        blake2b=found["blake2b"],
        sha512=found["sha512"],
    )
