"""A flavour's kernel, from its recipe to the pool: what `headnode kernel build` does.

The recipe's files are brought and checked, the source is patched and configured in the builder
(`binhost.kernels`), the revision's ebuild is rendered into the overlay, the overlay synced like any
other repository, and then built with everything else of the class. What fails before that leaves
the present revision as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from binhost import builder, kernels
from binhost.builder import Workshop
from binhost.kernels import Materials, Resolved
from binhost.records import BuildResult
from binhost.revisions import Kept, Shelf, keep, revise
from config.flavour import Recipe, load_flavour, names
from config.overlay import OVERLAY, Revision
from config.portage import BUILDER_MIRROR
from headnode.errors import BuildError, ConfigError
from headnode.files import locked
from headnode.node.running import Node
from headnode.node.spec import Bind
from mirror import distfiles, sets, tree
from mirror.layout import path_of
from mirror.wanted import Package, plan
from schedules.cycle import build_once, newest_set
from schedules.flavour_files import Found, Patches, gather
from schedules.observer import Observer
from schedules.overlay import render_overlay
from schedules.site import Site


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
    patches: Patches,
    now: datetime,
    watch: Observer,
    trees: str | None = None,
) -> KernelBuilt:
    """Build the kernel of a flavour for a class, if anything that it is made of changed.

    `trees` is the snapshot set that it is built from, but for the overlay, so that nothing else
    comes along; None: the newest.

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
        revision, new = _revise(site, class_name, recipe, shelf, patches, now, watch, trees)
        _sync_overlay(site, now)
        snapshots = _set_of(site, trees)
    if new:
        watch.say(f"{revision.package} is new: it will be {revision.release}")
    result = build_once(site, class_name, watch=watch, snapshots=snapshots)
    return KernelBuilt(revision=revision, new=new, build=result)


def set_of_ring(site: Site, class_name: str, ring: str | None) -> str | None:
    """The snapshot set that a ring (None: the first) has; None if it has nothing yet."""
    current = site.binhost(class_name).ring(site.ring(class_name, ring)).current()
    return current.snapshots if current else None


def _set_of(site: Site, trees: str | None) -> str:
    """The snapshot set `trees` with the overlay as it is now."""
    newest = newest_set(site)
    if trees is None:
        return newest
    overlay = sets.read_set(site.state, newest)[OVERLAY]
    return sets.write_set(site.state, {**sets.read_set(site.state, trees), OVERLAY: overlay})


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
    trees: str | None,
) -> tuple[Revision, bool]:
    """The flavour's revision, kept, and whether it is a new one."""
    kept = shelf.kept()
    found = gather(site, recipe, shelf, kept, patches)
    if tree.current_snapshot(site.state, OVERLAY) is None:
        _sync_overlay(site, now)
    worked = _work_out(site, class_name, _set_of(site, trees), recipe, kept, found, watch)
    if worked is None and kept.present:
        return kept.present, False
    assert worked is not None  # noqa: S101 (nothing is unchanged that was never there)
    revision = revise(
        recipe,
        kept,
        worked.resolved,
        now=now,
        archive=recipe.flavour.source.file or "",
        sources=worked.materials.sources,
        sources_atom=worked.atom,
        patches=tuple(path.name for path in found.patches),
        dists=found.dists,
    )
    files = {**found.local, revision.config_file: worked.resolved.config.encode()}
    added = {path.name: path.read_bytes() for path in found.patches if path.name in found.added}
    shelf.put(keep(kept, revision, worked.inputs, found.added), files, added)
    return revision, kept.present is None or kept.present.key != revision.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What came of a flavour in the builder, and a digest of what it came from."""

    resolved: Resolved
    materials: Materials
    atom: str
    inputs: str


def _work_out(
    site: Site,
    class_name: str,
    snapshots: str,
    recipe: Recipe,
    kept: Kept,
    found: Found,
    watch: Observer,
) -> Worked | None:
    """Patch and configure a flavour in the class's builder; None where it is as it was."""
    shop = site.workshop(class_name, snapshots)
    work = shop.folder / "kernel"
    work.mkdir(parents=True, exist_ok=True)
    bind = Bind(source=work, target=kernels.WORK, writable=True)
    with (
        locked(shop.folder / ".lock", "headnode kernel build"),
        builder.running(shop, binds=(bind,)) as node,
    ):
        compiler = kernels.identify_compiler(node, recipe.flavour.compiler)
        materials, atom = _materials(site, shop, node, recipe, found)
        inputs = kernels.inputs_of(recipe, materials, compiler)
        if kept.present and (kept.inputs, kept.added) == (inputs, found.added):
            return None
        watch.say(f"Patching and configuring the source of {recipe.name}")
        resolved = kernels.resolve(node, work, recipe, materials, compiler)
    return Worked(resolved=resolved, materials=materials, atom=atom, inputs=inputs)


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
