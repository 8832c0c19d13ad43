"""A flavour's kernel, from its recipe to the pool: what `headnode kernel build` does.

The recipe's files are brought and checked, the source is patched and configured in the builder
(`binhost.kernels`), the revision's ebuild is rendered into the overlay, the overlay synced like any
other repository, and then built with everything else of the class. What fails before that leaves
the present revision as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

from binhost import builder, kernels
from binhost.builder import Workshop
from binhost.kernels import Materials
from binhost.records import BuildResult
from binhost.revisions import Kept, Shelf, dist_of, keep, revise
from config.flavour import Recipe, load_flavour, names
from config.overlay import OVERLAY, Dist, Revision
from config.portage import BUILDER_MIRROR
from headnode.errors import BuildError, ConfigError
from headnode.files import digests, is_regular, locked
from headnode.node import Bind, Node
from mirror import distfiles, tree
from mirror.claims import claimed
from mirror.disk import writing_to
from mirror.layout import path_of
from mirror.store import Store, put_in_place
from mirror.wanted import Package, plan
from schedules.cycle import build_once, newest_set
from schedules.observer import Observer
from schedules.overlay import render_overlay
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """What a build changes of the patches that were added to a flavour."""

    add: Sequence[Path] = ()
    drop: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuilt:
    """A flavour's revision, whether it is a new one, and the build that has its package."""

    revision: Revision
    new: bool
    build: BuildResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A flavour: which classes boot it, its present revision, the patches that were added."""

    name: str
    about: str
    shipped: bool
    classes: tuple[str, ...]
    revision: Revision | None
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The recipe's files, checked: what lies with the ebuild and what is a distfile."""

    archive: Path | None
    patches: tuple[Path, ...]
    local: Mapping[str, bytes]
    dists: tuple[Dist, ...]
    added: tuple[str, ...] = field(default=())


def list_flavours(site: Site) -> list[Listed]:
    """Every flavour there is.

    Raises:
        ConfigError: one is not as it must be.
        PublishError: the record of one is damaged.
    """
    folder = site.cluster.kernel.flavours
    found = []
    for name in names(folder):
        recipe, kept = load_flavour(folder, name), Shelf.of(site.state, name).kept()
        classes = tuple(key for key, cls in site.cluster.classes.items() if cls.kernel == name)
        found.append(
            Listed(
                name=name,
                about=recipe.flavour.about,
                shipped=recipe.shipped,
                classes=classes,
                revision=kept.present,
                added=kept.added,
            )
        )
    return found


def kernel_once(
    site: Site,
    class_name: str,
    name: str,
    *,
    patches: Patches = Patches(),
    now: datetime,
    watch: Observer,
) -> KernelBuilt:
    """Build the kernel of a flavour for a class, if anything that it is made of changed.

    Raises:
        ConfigError: no such flavour, the class boots another, or one of its files is not there or
            has another digest.
        BuildError: a patch does not apply, a symbol did not survive, or it does not compile.
        MirrorError, BusyError.
    """
    recipe = load_flavour(site.cluster.kernel.flavours, name)
    _require_booted(site, class_name, name)
    site.require_space()
    shelf = Shelf.of(site.state, name)
    with locked(site.state / "kernels" / ".lock", "headnode kernel build"):
        revision, new = _revise(site, class_name, recipe, shelf, patches, now, watch)
        _sync_overlay(site, now)
    if new:
        watch.say(f"{revision.package} is new: it will be {revision.release}")
    result = build_once(site, class_name, watch=watch)
    return KernelBuilt(revision=revision, new=new, build=result)


def _require_booted(site: Site, class_name: str, name: str) -> None:
    has = site.klass(class_name).kernel
    if has != name:
        raise ConfigError(
            f"The class {class_name} boots {f'the flavour {has!r}' if has else 'no flavour'}, "
            f"so nobody would get a kernel of {name!r}.",
            remedy=f'Set kernel = "{name}" in [classes.{class_name}] of cluster.toml.',
        )


def _sync_overlay(site: Site, now: datetime) -> None:
    """Make what was rendered the newest snapshot of the overlay."""
    if render_overlay(site, now=now) is not None:
        repo = site.cluster.mirror.repos[OVERLAY]
        tree.sync_repo(site.state, OVERLAY, repo, now=now, root=site.cluster.build.root)


def _revise(
    site: Site,
    class_name: str,
    recipe: Recipe,
    shelf: Shelf,
    patches: Patches,
    now: datetime,
    watch: Observer,
) -> tuple[Revision, bool]:
    kept = shelf.kept()
    found = _gather(site, recipe, shelf, kept, patches)
    if tree.current_snapshot(site.state, OVERLAY) is None:
        _sync_overlay(site, now)
    shop = site.workshop(class_name, newest_set(site))
    with locked(shop.folder / ".lock", "headnode kernel build"):
        work = shop.folder / "kernel"
        work.mkdir(parents=True, exist_ok=True)
        bind = Bind(source=work, target=kernels.WORK, writable=True)
        with builder.running(shop, binds=(bind,)) as node:
            compiler = kernels.identify_compiler(node, recipe.flavour.compiler)
            materials, atom = _materials(site, shop, node, recipe, found)
            inputs = kernels.inputs_of(recipe, materials, compiler)
            if kept.present and kept.inputs == inputs and kept.added == found.added:
                return kept.present, False
            watch.say(f"Patching and configuring the source of {recipe.name}")
            resolved = kernels.resolve(node, work, recipe, materials, compiler)
    revision = revise(
        recipe,
        kept,
        resolved,
        now=now,
        archive=recipe.flavour.source.file or "",
        sources=materials.sources,
        sources_atom=atom,
        patches=tuple(path.name for path in found.patches),
        dists=found.dists,
    )
    files = {**found.local, revision.config_file: resolved.config.encode()}
    added = {path.name: path.read_bytes() for path in found.patches if path.name in found.added}
    shelf.put(keep(kept, revision, inputs, found.added), files, added)
    return revision, kept.present is None or kept.present.key != revision.key


def _gather(site: Site, recipe: Recipe, shelf: Shelf, kept: Kept, asked: Patches) -> Found:
    """Find and check every file of a recipe, with the patches that were and are added."""
    added = _added(recipe, shelf, kept, asked)
    archive, dists = None, []
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
        archive=archive,
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
    for path in asked.add:
        if not path.is_file():
            raise ConfigError("there is no such file.", path=path)
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


def _materials(
    site: Site, shop: Workshop, node: Node, recipe: Recipe, found: Found
) -> tuple[Materials, str]:
    """What the builder is given, and the atom of the sources package, if it is one."""
    source = recipe.flavour.source
    if source.file and source.sha256:
        at = PurePosixPath(BUILDER_MIRROR) / path_of(source.file)
        digest = f"sha256 {source.sha256}"
        return Materials(source_digest=digest, archive=at, patches=found.patches), ""
    if source.package is None:
        raise BuildError(f"The flavour {recipe.name} has no source.")
    steps = builder.plan_of(node, source.package)
    packages = [Package(cpv=step.cpv, repo=step.repo) for step in steps if step.build_id is None]
    distfiles.fetch(site.state, plan(shop.repos, packages), site.cluster.mirror.distfiles)
    cpv, folder, digest = kernels.require_sources(node, source.package)
    materials = Materials(source_digest=digest, sources=folder, patches=found.patches)
    return materials, f"={cpv}"
