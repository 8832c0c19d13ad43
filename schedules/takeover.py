"""An old binhost becomes the first packages of a class: `headnode import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from binhost.pool import package_names
from binhost.takeover import LeftOut, builds_of, look, plan, take_over
from headnode.errors import PublishError
from headnode.files import locked, require_free_space
from schedules.observer import Observer
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import came to: names in staging, packages that were there already, and the rest."""

    taken: tuple[str, ...]
    known: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def import_once(site: Site, class_name: str, folder: Path, watch: Observer) -> Imported:
    """Copy the packages below `folder` into a class's staging; the next build takes what fits.

    Run again, it copies only what is not there yet.

    Raises:
        PublishError: there is no package in the folder.
        EnvironmentLacksError: not enough free space.
        BusyError: a build is at work.
    """
    binhost = site.binhost(class_name)
    watch.say(f"Looking at the packages in {folder}")
    found = list(look(folder))
    if not found:
        raise PublishError(
            f"There is no package in {folder}.",
            remedy="Name the folder that holds the *.gpkg.tar, *.xpak or *.tbz2 files (PKGDIR).",
        )
    with locked(binhost.build_folder / ".lock", "headnode import"):
        pool = binhost.pool
        todo = plan(
            found,
            chost=site.klass(class_name).chost,
            highest=pool.build_ids(package_names(binhost.staging) | pool.files()),
            builds=builds_of(pool, binhost.staging),
        )
        reserve = site.cluster.state.reserve_mib << 20
        require_free_space(binhost.staging, todo.size_bytes + reserve)
        damaged = take_over(
            todo.take,
            binhost.staging,
            lambda done, total: watch.amount("import", done, total, "packages"),
        )
    bad = {each.path for each in damaged}
    return Imported(
        taken=tuple(name for name, each in todo.take.items() if each.path not in bad),
        known=todo.known,
        left_out=todo.left_out + damaged,
    )
