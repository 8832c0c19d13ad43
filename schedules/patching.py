"""The fast lane: from a patch file to every blade.

A patch is tried on the version that the ring has, before anything is kept. Then the package is
built from the very tree that the ring's generation was built from, so that nothing else comes
along, and published as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from binhost import builder
from binhost.emerge import plain
from binhost.index import cp_of
from binhost.kept import cpv_of_name
from binhost.patches import explain_patch
from binhost.publish import Published
from binhost.records import BuildResult, Generation
from binhost.user_patches import drop, forget_dropped, keep, kept_of, put_back, read_patches
from config.portage import PATCHES, Rendered
from headnode.errors import BuildError, ConfigError, MirrorError
from headnode.files import locked
from headnode.gentoo import split_cpv
from headnode.process import last_lines
from headnode.wording import counted
from schedules.cycle import build_once
from schedules.moving import Asked, publish_once
from schedules.observer import Observer
from schedules.site import Site

TRY_S = 3600.0
LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be patched: the package (`cat/name`), the version that the ring has, its tree.

    `folder` is where patches for it lie, `cat/name` or `cat/name-version`.
    """

    cpv: str
    package: str
    folder: str
    snapshots: str
    generation: int


def find_target(site: Site, class_name: str, atom: str, ring: str | None) -> Target:
    """What an atom, `category/name` or `=category/name-version`, means in what a ring has.

    Raises:
        ConfigError: the ring has nothing, or not that package.
    """
    binhost, name = site.binhost(class_name), site.ring(class_name, ring)
    current = binhost.ring(name).current()
    if current is None:
        raise ConfigError(f"The ring {name} has nothing yet.", remedy="headnode publish first.")
    generation = binhost.generations.read(current.generation)
    [*found] = (cpv for cpv in _packages(generation) if atom in (cp_of(cpv), f"={cpv}"))
    if len(found) != 1:
        known = ", ".join(sorted(cpv for cpv in _packages(generation) if atom.lstrip("=") in cpv))
        has = f"it has {known}" if known else "nor anything like it"
        what = "no" if not found else "several packages"
        raise ConfigError(
            f"Generation {generation.number}, which the ring {name} has, has {what} {atom}; {has}.",
            remedy="Write it as category/name, or =category/name-version.",
        )
    return Target(
        cpv=found[0],
        package=cp_of(found[0]),
        folder=atom.removeprefix("="),
        snapshots=generation.snapshots,
        generation=generation.number,
    )


def _packages(generation: Generation) -> list[str]:
    return [cpv_of_name(name) for name in generation.packages]


def package_of(where: str) -> str:
    """The package, `category/name`, that a kept patch is for: by its place. Pure."""
    folder = str(PurePosixPath(where).parent)
    try:
        return split_cpv(folder)[0]
    except MirrorError:  # it has no version
        return folder


def try_patches(site: Site, class_name: str, target: Target, new: Mapping[str, str]) -> None:
    """Have Portage unpack the version that the ring has, and apply all of its patches.

    `new` are patches by their place.

    Raises:
        ConfigError: one has the name of another that applies to that version.
        BuildError: one does not apply, or the ebuild applies none; nothing was kept.
        BusyError: a build is at work.
    """
    shop = site.workshop(class_name, target.snapshots)
    kept = (path.removeprefix(f"{PATCHES}/") for path in shop.configuration.files)
    _require_own_names(kept, target, new)
    shop = replace(shop, configuration=_with(shop.configuration, new))
    ebuild = f"{target.package}/{PurePosixPath(target.cpv).name}.ebuild"
    repo = next((name for name, path in shop.repos.items() if (path / ebuild).is_file()), None)
    if repo is None:
        raise BuildError(f"The trees of generation {target.generation} have no {ebuild}.")
    argv = ["ebuild", f"/var/db/repos/{repo}/{ebuild}"]
    with locked(shop.folder / ".lock", "headnode patch"), builder.running(shop) as node:
        done = node.run([*argv, "clean", "prepare"], timeout_s=TRY_S, check=False)
        node.run([*argv, "clean"], timeout_s=TRY_S, check=False)
    said, names = plain(done.output), [PurePosixPath(where).name for where in new]
    if done.code:
        why = "\n".join(explain_patch(said)) or last_lines(f"{said}\n{plain(done.errors)}", LINES)
        raise BuildError(
            f"{', '.join(names)} does not apply to {target.cpv}:\n{why}",
            remedy="Make it against that version. Nothing was changed.",
        )
    _, _, applied = said.partition("Applying user patches from ")
    if left := [name for name in names if f" Applying {name} ..." not in applied]:
        raise BuildError(
            f"Portage did not apply {', '.join(left)} to {target.cpv}: an ebuild of EAPI 5 or "
            "older takes no user patches.",
            remedy="Have an overlay of yours with an ebuild that applies it. Nothing was changed.",
        )


def _require_own_names(kept: Iterable[str], target: Target, new: Iterable[str]) -> None:
    """Check that no new patch has the name of one in another folder that is for that version.

    Of patches of one name Portage applies the one in the most specific folder alone.

    Source: portage(5), "/etc/portage/patches"; `eapply_user` in phase-helpers.sh.
    """
    base = re.sub(r"-r\d+$", "", target.cpv)
    folders = {target.package, base, f"{base}-r0", target.cpv}
    names = {PurePosixPath(where).name for where in new}
    for path in map(PurePosixPath, kept):
        folder, _, _ = str(path.parent).partition(":")  # a slot may follow
        if path.name in names and folder in folders and str(path.parent) != target.folder:
            raise ConfigError(
                f"There is {path}, and of patches of one name Portage applies only one.",
                remedy="Rename yours, or drop the other first.",
            )


def _with(configuration: Rendered, patches: Mapping[str, str]) -> Rendered:
    files = {f"{PATCHES}/{where}": text for where, text in patches.items()}
    return Rendered(files={**configuration.files, **files}, links=configuration.links)


@contextmanager
def _as_before_unless_built(folder: Path, before: Mapping[str, str | None]) -> Iterator[None]:
    """Put the patches of `before` back where the block does not come to its end, for any reason.

    What is left of a change that failed would be built by the next night, and go to every blade. A
    kill leaves it so: the same command again goes on, and `headnode patch --drop` takes it back.
    """
    try:
        yield
    except BaseException:
        put_back(folder, before)
        raise
    forget_dropped(folder)


def patch_once(
    site: Site,
    class_name: str,
    target: Target,
    new: Mapping[str, str],
    ring: str | None,
    *,
    now: datetime,
    asked: Asked,
    watch: Observer,
) -> tuple[BuildResult, Published]:
    """Try patches, keep them, build, and publish to `ring` (None: the first).

    Raises:
        ConfigError: a patch has the name of another that applies to that version.
        BuildError, PublishError, BusyError, EnvironmentLacksError: a patch does not apply, its
            package does not build, or a gate says no. Patches are as they were, but for a gate:
            built, they wait for another `headnode publish`.
    """
    watch.say(f"Trying {counted(len(new), 'patch', 'patches')} on {target.cpv}")
    try_patches(site, class_name, target, new)
    folder = site.patches(class_name)
    known = read_patches(folder)
    with _as_before_unless_built(folder, {where: known.get(where) for where in new}):
        keep(folder, new)
        watch.say(f"Building {target.cpv}")
        result = build_once(site, class_name, watch=watch, snapshots=target.snapshots)
    watch.say("Publishing it")
    return result, publish_once(site, class_name, ring, now=now, asked=asked, watch=watch)


def drop_once(
    site: Site,
    class_name: str,
    atom: str,
    ring: str | None,
    *,
    now: datetime,
    asked: Asked,
    watch: Observer,
) -> tuple[list[str], Published]:
    """Drop patches, build the package without them, and publish.

    Raises:
        ConfigError: there is no such patch.
        BuildError, PublishError, BusyError: as above.
    """
    folder = site.patches(class_name)
    current = site.binhost(class_name).ring(site.ring(class_name, ring)).current()
    before = kept_of(folder, atom)
    gone = list(before)
    with _as_before_unless_built(folder, before):
        drop(folder, gone)
        without = counted(len(gone), "patch", "patches")
        watch.say(f"Building {package_of(gone[0])} without {without}")
        build_once(site, class_name, watch=watch, snapshots=current.snapshots if current else None)
    return gone, publish_once(site, class_name, ring, now=now, asked=asked, watch=watch)
