"""The files that a flavour names: brought from beside it or from the mirror, and checked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from binhost.revisions import Kept, Shelf, dist_of
from config.flavour import Recipe
from config.overlay import Dist
from headnode.errors import ConfigError
from headnode.files import digests, is_regular
from mirror.claims import claimed
from mirror.disk import writing_to
from mirror.store import Store, put_in_place
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """What a build changes of the patches that were added to a flavour."""

    add: Sequence[Path] = ()
    drop: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The recipe's files, checked: what lies with the ebuild and what is a distfile."""

    patches: tuple[Path, ...]
    local: Mapping[str, bytes]
    dists: tuple[Dist, ...]
    added: tuple[str, ...]


def gather(site: Site, recipe: Recipe, shelf: Shelf, kept: Kept, asked: Patches) -> Found:
    """Find and check every file of a recipe, with the patches that were and are added."""
    added = _added(recipe, shelf, kept, asked)
    dists = []
    source = recipe.flavour.source
    if source.file and source.sha256:
        archive = _distfile(site, recipe, source.file, source.sha256)
        dists.append(dist_of(archive, source.file))
    patches, local = [], {}
    for patch in recipe.flavour.patches:
        path = _checked(site, recipe, patch.file, patch.sha256)
        patches.append(path)
        if path == recipe.beside(patch.file):
            local[patch.file] = path.read_bytes()
        else:
            dists.append(dist_of(path, patch.file))
    local |= {path.name: path.read_bytes() for path in added}
    return Found(
        patches=(*patches, *added),
        local=local,
        dists=tuple(dists),
        added=tuple(path.name for path in added),
    )


def _added(recipe: Recipe, shelf: Shelf, kept: Kept, asked: Patches) -> list[Path]:
    """The added patches, in order: those that are kept, and the new; a name replaces itself.

    Raises:
        ConfigError: one is not there or has a name that is taken, or there is none to drop.
    """
    found = {name: shelf.patch(name) for name in kept.added}
    for name in asked.drop:
        if name not in found:
            known = ", ".join(found) or "none"
            raise ConfigError(
                f"No patch {name!r} was added to the flavour {recipe.name}.",
                remedy=f"Added are: {known}. Its own are in {recipe.path}.",
            )
        del found[name]
    own = {patch.file for patch in recipe.flavour.patches}
    names = [path.name for path in asked.add]
    for path in asked.add:
        if not path.is_file():
            raise ConfigError("there is no such file.", path=path)
        if names.count(path.name) > 1:
            raise ConfigError(
                f"Two patches would be added as {path.name}.", remedy="Rename one of them."
            )
        if path.name in own:
            raise ConfigError(
                f"The flavour {recipe.name} has a patch {path.name} of its own.",
                remedy="Rename yours.",
            )
        found[path.name] = path
    return list(found.values())


def _checked(site: Site, recipe: Recipe, file: str, sha256: str) -> Path:
    """The file that a flavour names, from beside it or from the mirror.

    Raises:
        ConfigError: it is in neither place, or another file.
    """
    beside, stored = recipe.beside(file), Store(site.state).place(file)
    path = beside if beside.is_file() else stored
    if not is_regular(path.resolve()):
        raise ConfigError(
            f"there is no {file}.",
            path=recipe.path,
            remedy=f"Put it into {recipe.folder}.",
        )
    found = digests(path, "sha256")["sha256"]
    if found != sha256:
        raise ConfigError(
            f"{path} is not the file that this flavour names: its SHA-256 is {found}, and should "
            f"be {sha256}.",
            path=recipe.path,
            remedy="Fetch it again, or correct the digest if the file is right.",
        )
    return path


def _distfile(site: Site, recipe: Recipe, file: str, sha256: str) -> Path:
    """The source among the mirror's distfiles, where the builder sees it; put there if need be."""
    path, store = _checked(site, recipe, file, sha256), Store(site.state)
    place = store.place(file)
    if path != place:
        with writing_to(store.folder):
            store.prepare()
            with claimed(store.claim(file)):
                if not is_regular(place) or digests(place, "sha256")["sha256"] != sha256:
                    shutil.copyfile(path, store.partials / file)
                    put_in_place(store.partials / file, place)
    return place
