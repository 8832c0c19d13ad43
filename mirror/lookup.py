"""What the trees say of a file that somebody names: its digests, and where it may be had.

The trees are asked in the order given, the newest first: where two of them want different files of
one name, the newest has its way, since a mirror has room for one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from headnode import gentoo
from headnode.errors import MirrorError
from headnode.gentoo import Dist
from mirror.catalogue import Catalogue, TreeSet
from mirror.layout import is_file_name
from mirror.wanted import STRONG, Wanted, merge

log = logging.getLogger(__name__)


def find(state: Path, trees: Sequence[TreeSet], filename: str) -> Wanted | None:
    """Give the file of that name as the first of `trees` that names it wants it, or None.

    What is not the name of a file is nothing.

    Raises:
        OSError: a catalogue cannot be written.
    """
    for tree in trees if is_file_name(filename) else ():
        found: Wanted | None = None
        for each in _in_tree(state, tree, filename):
            try:
                found = merge(found, each) if found else each
            except MirrorError as error:
                log.warning("%s", error)
        if found:
            return found
    return None


def _in_tree(state: Path, tree: TreeSet, filename: str) -> Iterator[Wanted]:
    mirrors = None
    for repo, snapshot in tree.items():
        for package in Catalogue.of(state, repo, snapshot).packages([filename]).get(filename, ()):
            dist = gentoo.manifest_digests(snapshot, package).get(filename)
            if dist is None or not (digests := strong(dist)):
                continue
            mirrors = mirrors or gentoo.third_party_mirrors(tree.values())
            sources = list(_sources(snapshot, package, filename, mirrors))
            yield Wanted(
                filename=filename,
                size_bytes=dist.size_bytes,
                digests=digests,
                uris=tuple(dict.fromkeys(uri for each in sources for uri in each.uris)),
                # Where no ebuild says anything of it any more, a mirror may still have it.
                mirrored=any(each.mirrored for each in sources) or not sources,
                by_hand=bool(sources) and all(each.by_hand for each in sources),
                by=(package,),
            )


def _sources(
    snapshot: Path, package: str, filename: str, mirrors: dict[str, tuple[str, ...]]
) -> Iterator[gentoo.Source]:
    for ebuild in sorted((snapshot / package).glob("*.ebuild")):
        cpv = f"{package.partition('/')[0]}/{ebuild.stem}"
        try:
            found = gentoo.source_uris(snapshot, cpv, mirrors).get(filename)
        except MirrorError as error:
            log.warning("%s", error)
            continue
        if found:
            yield found


def strong(dist: Dist) -> dict[str, str]:
    """The digests of a DIST line that are good enough to trust a file by. Pure."""
    return {kind: dist.digests[kind] for kind in STRONG if kind in dist.digests}


def expected(
    state: Path, trees: Iterable[TreeSet], filenames: Collection[str]
) -> dict[str, list[Dist]]:
    """Give what each of `filenames` may be, by all of `trees`, the first one's first.

    A name that no tree knows is left out.

    Raises:
        OSError: a catalogue cannot be written.
    """
    found: dict[str, list[Dist]] = {}
    seen: set[Path] = set()
    manifests: dict[tuple[int, int, int], dict[str, Dist]] = {}
    for tree in trees:
        for repo, snapshot in tree.items():
            if snapshot in seen:
                continue
            seen.add(snapshot)
            known_by = Catalogue.of(state, repo, snapshot).packages(filenames)
            for filename, packages in known_by.items():
                for package in packages:
                    dist = _manifest(snapshot, package, manifests).get(filename)
                    known = found.setdefault(filename, [])
                    if dist and strong(dist) and dist not in known:
                        known.append(dist)
    return {filename: dists for filename, dists in found.items() if dists}


def _manifest(
    snapshot: Path, package: str, read: dict[tuple[int, int, int], dict[str, Dist]]
) -> dict[str, Dist]:
    """Read a Manifest, once for all snapshots in which it is one file (a hard link)."""
    about = (snapshot / package / "Manifest").stat()
    key = (about.st_dev, about.st_ino, about.st_mtime_ns)
    if key not in read:
        read[key] = gentoo.manifest_digests(snapshot, package)
    return read[key]


def named(state: Path, trees: Iterable[TreeSet], filenames: Collection[str]) -> set[str]:
    """Give those of `filenames` that any of `trees` names.

    Raises:
        OSError: a catalogue cannot be written.
    """
    snapshots = {(repo, snapshot) for tree in trees for repo, snapshot in tree.items()}
    found: set[str] = set()
    for repo, snapshot in snapshots:
        found |= Catalogue.of(state, repo, snapshot).packages(filenames).keys()
    return found
