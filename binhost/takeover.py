"""Packages of a binhost that was there before, taken over into staging.

Whatever lies in the old PKGDIR is copied, never moved: gpkg as it is, xpak packed anew as gpkg,
since only that can be signed. What others have signed loses their signatures. From staging on they
are like packages that the builder made: a build takes those that fit, and builds the rest; a
generation has what a build named, and publishing signs it.

Left out, with the reason: what is damaged, what was built for another CHOST or for the CPU that
happened to compile it (`native`), and what staging or the pool has already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from binhost.entry import name_of
from binhost.gpkg import read_metadata
from binhost.index import field
from binhost.pool import Pool, package_names
from binhost.repack import COMPRESSION, GPKG, repack, xpak_data
from config.values import native_flag
from headnode.errors import PublishError
from headnode.files import sync_folder
from headnode.process import require

XPAK = (".xpak", ".tbz2")
# What the compilers were told; Portage keeps it beside the package's other facts.
FLAGS = ("CFLAGS", "CXXFLAGS", "FFLAGS", "FCFLAGS", "RUSTFLAGS")

Amount = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A package file of the old binhost. `build_id` is 0 where it has none."""

    path: Path
    cpv: str
    build_id: int
    build_time: str
    chost: str
    flags: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build of a package: no two have the same time."""

    cpv: str
    build_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file that is not taken over, and why."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is copied, by the name that it gets (`cat/pn/pf-id.gpkg.tar`); what is there already."""

    take: Mapping[str, Found]
    known: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def size_bytes(self) -> int:
        """What the copies need, about."""
        return sum(found.path.stat().st_size for found in self.take.values())


def look(folder: Path) -> Iterator[Found | LeftOut]:
    """Every package file below `folder`, whatever Portage's layout and format."""
    for path in sorted(folder.rglob("*")):
        name = path.name
        if name.endswith((GPKG, *XPAK)) and not name.startswith(".") and path.is_file():
            try:
                yield _found(path, _metadata(path))
            except PublishError as error:
                yield LeftOut(path=path, why=error.what)


def _metadata(path: Path) -> dict[str, str]:
    if path.name.endswith(GPKG):
        return read_metadata(path)
    return {key: data.decode("utf-8", "replace") for key, data in xpak_data(path).items()}


def _found(path: Path, metadata: Mapping[str, str]) -> Found:
    def value(key: str) -> str:
        return metadata.get(key, "").strip()

    if not value("CATEGORY") or not value("PF"):
        raise PublishError(f"{path} does not say which package it is.")
    number = value("BUILD_ID")
    return Found(
        path=path,
        cpv=f"{value('CATEGORY')}/{value('PF')}",
        build_id=int(number) if number.isdecimal() else 0,
        build_time=value("BUILD_TIME"),
        chost=value("CHOST"),
        flags=" ".join(value(key) for key in FLAGS),
    )


def plan(
    found: Iterable[Found | LeftOut],
    *,
    chost: str,
    highest: Mapping[str, int],
    builds: Iterable[Build],
) -> Plan:
    """Decide what becomes of each file. Pure.

    `highest` is the highest build id that was ever given, by CPV, `builds` what lies in pool and
    staging. A package keeps its build id if that is above it, and else gets the next one.
    """
    given, there = dict(highest), {(build.cpv, build.build_time) for build in builds}
    take: dict[str, Found] = {}
    known: list[str] = []
    left_out: list[LeftOut] = []
    for each in found:
        if isinstance(each, LeftOut):
            left_out.append(each)
        elif why := _misfit(each, chost):
            left_out.append(LeftOut(path=each.path, why=why))
        elif (each.cpv, each.build_time) in there:
            known.append(each.cpv)
        else:
            there.add((each.cpv, each.build_time))
            given[each.cpv] = max(each.build_id, given.get(each.cpv, 0) + 1)
            take[name_of(each.cpv, given[each.cpv])] = each
    return Plan(take=take, known=tuple(known), left_out=tuple(left_out))


def _misfit(found: Found, chost: str) -> str:
    if found.chost and found.chost != chost:
        return f"it was built for {found.chost}, and the class is {chost}"
    if flag := native_flag(found.flags):
        return f"it was compiled with {flag}, for the CPU that happened to compile it"
    return ""


def builds_of(pool: Pool, staging: Path) -> Iterator[Build]:
    """What the pool offers, and what lies in staging."""
    for entry in pool.entries().values():
        yield Build(cpv=field(entry, "CPV") or "", build_time=field(entry, "BUILD_TIME") or "")
    for name in package_names(staging):
        if not (staging / name).stat().st_size:  # a name that the builder reserved
            continue
        found = _found(staging / name, read_metadata(staging / name))
        yield Build(cpv=found.cpv, build_time=found.build_time)


def take_over(
    wanted: Mapping[str, Found], staging: Path, on_package: Amount
) -> tuple[LeftOut, ...]:
    """Copy packages into staging, each put there whole by one rename; those that turn out damaged.

    `on_package` is told how many of how many are done.
    """
    require("tar", COMPRESSION)
    damaged = []
    for count, (name, found) in enumerate(sorted(wanted.items()), 1):
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging, prefix=".import-") as folder:
            made = Path(folder) / target.name
            try:
                repack(found.path, made)
            except PublishError as error:
                damaged.append(LeftOut(path=found.path, why=error.what))
            else:
                made.rename(target)
                sync_folder(target.parent)
        on_package(count, len(wanted))
    return tuple(damaged)
