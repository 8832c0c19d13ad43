"""Which distfiles packages need: decided from Manifests and metadata, without the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headnode import gentoo
from headnode.errors import MirrorError
from mirror.layout import is_file_name

STRONG = {"BLAKE2B": "blake2b", "SHA512": "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An ebuild whose distfiles are wanted: its category/name-version and its repository."""

    cpv: str
    repo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file that packages need. `digests` are hex, by Manifest name; `by` names the packages.

    `mirrored`: mirrors may have it. `by_hand`: only a person may fetch it.
    """

    filename: str
    size_bytes: int
    digests: Mapping[str, str]
    uris: tuple[str, ...]
    mirrored: bool = True
    by_hand: bool = False
    by: tuple[str, ...] = ()


def plan(repos: Mapping[str, Path], packages: Iterable[Package]) -> list[Wanted]:
    """Say which files `packages` need; `repos` gives each repository's tree, the main one first.

    All files of an ebuild are wanted, whatever the USE flags. Sorted by file name.

    Raises:
        MirrorError: a Manifest or the metadata cache lacks something, or two packages want
            different files of one name.
    """
    mirrors = gentoo.third_party_mirrors(repos.values())
    wanted: dict[str, Wanted] = {}
    for package in packages:
        for each in _wanted_by(package, repos[package.repo], mirrors):
            known = wanted.get(each.filename)
            wanted[each.filename] = merge(known, each) if known else each
    return [wanted[filename] for filename in sorted(wanted)]


def _wanted_by(
    package: Package, repo: Path, mirrors: Mapping[str, tuple[str, ...]]
) -> Iterable[Wanted]:
    cp, _ = gentoo.split_cpv(package.cpv)
    manifest = gentoo.manifest_digests(repo, cp)
    for source in gentoo.source_uris(repo, package.cpv, mirrors).values():
        if not is_file_name(source.filename):
            raise MirrorError(
                f"{package.cpv} wants a distfile {source.filename!r}, which is not a file's name.",
                remedy="Sync again; if it stays, it has to be put right upstream.",
            )
        dist = manifest.get(source.filename)
        if dist is None or not dist.digests.keys() & STRONG.keys():
            raise MirrorError(
                f"{repo / cp / 'Manifest'} has no size and BLAKE2B or SHA512 of "
                f"{source.filename}, which {package.cpv} needs.",
                remedy="Sync again; if it stays, it has to be put right upstream.",
            )
        yield Wanted(
            filename=source.filename,
            size_bytes=dist.size_bytes,
            digests={kind: dist.digests[kind] for kind in STRONG if kind in dist.digests},
            uris=source.uris,
            mirrored=source.mirrored,
            by_hand=source.by_hand,
            by=(package.cpv,),
        )


def merge(one: Wanted, other: Wanted) -> Wanted:
    """Put together what two packages say about one file."""
    shared = one.digests.keys() & other.digests.keys()
    same = all(one.digests[kind] == other.digests[kind] for kind in shared)
    if one.size_bytes != other.size_bytes or not same:
        raise MirrorError(
            f"{one.by[0]} and {other.by[0]} want different files of the name {one.filename}.",
            remedy="Take one of them out of the sets: a mirror has room for one.",
        )
    return Wanted(
        filename=one.filename,
        size_bytes=one.size_bytes,
        digests={**one.digests, **other.digests},
        uris=tuple(dict.fromkeys((*one.uris, *other.uris))),
        mirrored=one.mirrored or other.mirrored,
        by_hand=one.by_hand and other.by_hand,
        by=(*one.by, *other.by),
    )
