"""What Portage knows about data, as a library: Manifests, SRC_URI, mirrors. The one door to it.

Portage's resolver and merges are never called from here, only by running `emerge`. Portage is
imported when it is first needed: that takes 0.2 s, which `headnode --help` shall not wait for.
Nothing here reads Portage's configuration, so it works in a bare virtual environment.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import MirrorError

CACHE_REMEDY = "Sync again; if it stays, run `egencache --update --repo NAME` upstream."


@dataclass(frozen=True, slots=True, kw_only=True)
class Dist:
    """A DIST line of a Manifest: the size, and hex digests by Manifest name (BLAKE2B, SHA512)."""

    size_bytes: int
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of SRC_URI and where it may be had.

    `uris` are the ebuild's own addresses, mirror:// expanded. `mirrored` is whether distfiles
    mirrors may have it (no RESTRICT=mirror), `by_hand` whether only a person may fetch it
    (RESTRICT=fetch).
    """

    filename: str
    uris: tuple[str, ...]
    mirrored: bool
    by_hand: bool


def manifest_digests(repo: Path, cp: str) -> dict[str, Dist]:
    """Give the distfiles that the Manifest of the package `cp` in `repo` names, by file name.

    Empty if there is no Manifest. Source: GLEP 74.
    """
    from portage.manifest import Manifest

    found = Manifest(str(repo / cp)).getTypeDigests("DIST")
    return {
        name: Dist(
            size_bytes=int(hashes["size"]),
            digests={kind: str(value) for kind, value in hashes.items() if kind != "size"},
        )
        for name, hashes in found.items()
    }


def split_cpv(cpv: str) -> tuple[str, str]:
    """Split `app-misc/hello-1.0-r1` into the package `app-misc/hello` and the version `1.0-r1`.

    Raises:
        MirrorError: it is not a category, a name and a version.
    """
    from portage.versions import catpkgsplit

    parts = catpkgsplit(cpv)
    if not parts or parts[0] == "null":
        raise MirrorError(f"{cpv!r} is not category/name-version.")
    category, name, version, revision = parts
    return f"{category}/{name}", version if revision == "r0" else f"{version}-{revision}"


def cached_metadata(repo: Path, cpv: str) -> dict[str, str]:
    """Read what metadata/md5-cache of `repo` says about an ebuild, by variable.

    Raises:
        MirrorError: there is no entry, no ebuild, or the entry is of another ebuild.

    Source: PMS, "Metadata cache"; the md5-dict format.
    """
    path = repo / "metadata" / "md5-cache" / cpv
    cp, _ = split_cpv(cpv)
    ebuild = repo / cp / f"{cpv.partition('/')[2]}.ebuild"
    for needed in (ebuild, path):
        if not needed.is_file():
            raise MirrorError(f"{needed} is not there.", remedy=CACHE_REMEDY)
    lines = path.read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    digest = hashlib.md5(ebuild.read_bytes(), usedforsecurity=False).hexdigest()
    if said.get("_md5_") != digest:
        raise MirrorError(f"{path} is not of {ebuild}: its _md5_ differs.", remedy=CACHE_REMEDY)
    return said


def third_party_mirrors(repos: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Read what `mirror://NAME/` stands for, from profiles/thirdpartymirrors of each of `repos`."""
    from portage.util import grabdict

    mirrors: dict[str, tuple[str, ...]] = {}
    for repo in repos:
        for name, bases in grabdict(str(repo / "profiles" / "thirdpartymirrors")).items():
            mirrors[name] = (*mirrors.get(name, ()), *bases)
    return mirrors


def source_uris(repo: Path, cpv: str, mirrors: Mapping[str, tuple[str, ...]]) -> dict[str, Source]:
    """Give every file that an ebuild may need, whatever the USE flags, by file name.

    A conditional RESTRICT is for the one who builds, and does not count, as in emirrordist.

    Raises:
        MirrorError: the metadata cache has no good entry for it.

    Source: PMS, "SRC_URI" and "RESTRICT"; portage._emirrordist.FetchIterator.
    """
    from portage.dep import use_reduce
    from portage.exception import PortageException

    said = cached_metadata(repo, cpv)
    eapi = said.get("EAPI", "0")
    try:
        words = use_reduce(
            said.get("SRC_URI", ""), matchall=True, is_src_uri=True, eapi=eapi, flat=True
        )
        restrict = use_reduce(said.get("RESTRICT", ""), matchnone=True, eapi=eapi, flat=True)
    except PortageException as error:
        raise MirrorError(
            f"{cpv}: its metadata cannot be read: {str(error).rstrip('.')}.",
            remedy="Sync again; if it stays, it has to be put right upstream.",
        ) from error
    return _sources(words, frozenset(restrict), mirrors)


def mirror_path(layout_conf: str, filename: str, digests: Mapping[str, str]) -> str:
    """Give the place of `filename` on a mirror with this layout.conf (empty: none, so flat).

    A layout.conf that cannot be read counts as none, as for Portage.

    Source: GLEP 75; portage.package.ebuild.fetch.MirrorLayoutConfig.
    """
    from portage.package.ebuild.fetch import DistfileName, MirrorLayoutConfig
    from portage.util.configparser import ConfigParserError

    layout = MirrorLayoutConfig()
    name = DistfileName(filename, digests=dict(digests))
    try:
        layout.read_from_file(io.StringIO(layout_conf))
        return str(layout.get_best_supported_layout(filename=name).get_path(name))
    except (ConfigParserError, IndexError):
        return filename


def _sources(
    words: list[str], restrict: frozenset[str], mirrors: Mapping[str, tuple[str, ...]]
) -> dict[str, Source]:
    named: dict[str, list[str]] = {}
    for uri, filename in _pairs(words):
        named.setdefault(filename, []).append(uri)
    return {
        filename: _source(filename, uris, restrict, mirrors) for filename, uris in named.items()
    }


def _pairs(words: list[str]) -> Iterable[tuple[str, str]]:
    """Pair each address with its file name, which `->` may give."""
    rest = iter([*words, ""])
    word = next(rest)
    while word:
        following = next(rest)
        if following == "->":
            yield word, next(rest)
            following = next(rest)
        else:
            yield word, word.rpartition("/")[2]
        word = following


def _source(
    filename: str,
    uris: list[str],
    restrict: frozenset[str],
    mirrors: Mapping[str, tuple[str, ...]],
) -> Source:
    """Apply RESTRICT; EAPI 8's `fetch+` and `mirror+` lift it for one address."""
    lifted = [uri for uri in uris if uri.startswith(("fetch+", "mirror+"))]
    free = lifted if "fetch" in restrict else uris
    plain = [uri.partition("+")[2] if uri in lifted else uri for uri in free]
    return Source(
        filename=filename,
        uris=tuple(dict.fromkeys(each for uri in plain for each in _expand(uri, mirrors))),
        mirrored=not restrict & {"fetch", "mirror"}
        or any(uri.startswith("mirror+") for uri in lifted),
        by_hand="fetch" in restrict and not lifted,
    )


def _expand(uri: str, mirrors: Mapping[str, tuple[str, ...]]) -> Iterable[str]:
    """Give the addresses that `uri` stands for: none for a bare name or an unknown mirror."""
    scheme, apart, rest = uri.partition("://")
    if scheme == "mirror":
        name, _, path = rest.partition("/")
        for base in mirrors.get(name, ()):
            yield f"{base.rstrip('/')}/{path}"
    elif apart:
        yield uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What Portage reads of a repository.

    `profiles` are the stable ones of profiles.desc. Of those and what they inherit, `unknown_eapis`
    has the folders whose eapi file names one that this Portage does not know, and `lost_parents`
    the parent files with a path that is not there.
    """

    name: str
    portage: str
    masters: tuple[str, ...]
    profiles: tuple[str, ...]
    unknown_eapis: Mapping[str, str]
    lost_parents: tuple[str, ...]


def read_repo(path: Path, name: str) -> Repository:
    """Read the repository in `path` with Portage's own reader; all paths come relative to it.

    Source: PMS, "Profiles"; portage.repository.config.RepoConfig.
    """
    import portage
    from portage.repository.config import RepoConfig

    path = path.resolve()
    found = RepoConfig(name, {"location": str(path)})
    profiles = path / "profiles"
    stable = tuple(_stable(profiles / "profiles.desc"))
    folders = _with_parents(profiles, stable)
    eapis = {each: _lines(each / "eapi") for each in folders}
    return Repository(
        name=str(found.name),
        portage=str(portage.VERSION),
        masters=tuple(str(each) for each in found.masters or ()),
        profiles=stable,
        unknown_eapis={
            str(each.relative_to(path)): said[0]
            for each, said in eapis.items()
            if said and not portage.eapi_is_supported(said[0])
        },
        lost_parents=tuple(
            str((each / "parent").relative_to(path))
            for each in folders
            if not all(parent.is_dir() for parent in _parents(each))
        ),
    )


def _stable(desc: Path) -> Iterable[str]:
    """The stable profiles that profiles.desc names: `arch path status`."""
    for line in _lines(desc):
        words = line.split()
        if len(words) > 2 and words[2] == "stable":
            yield words[1]


def _with_parents(profiles: Path, named: Iterable[str]) -> list[Path]:
    """The folder profiles/ itself, and those named in it with all that they inherit, sorted."""
    found: set[Path] = set()
    ahead = [profiles.resolve(), *((profiles / each).resolve() for each in named)]
    while ahead:
        folder = ahead.pop()
        if folder not in found and folder.is_dir():
            found.add(folder)
            ahead += _parents(folder)
    return sorted(found)


def _parents(profile: Path) -> list[Path]:
    """The folders that a profile inherits from, but for those of other repositories (`repo:`)."""
    return [(profile / line).resolve() for line in _lines(profile / "parent") if ":" not in line]


def categories(trees: Iterable[Path]) -> set[str]:
    """The categories that profiles/categories of each of `trees` names. Source: PMS."""
    return {line for tree in trees for line in _lines(tree / "profiles" / "categories")}


def knows_eapi(ebuild: Path) -> bool:
    """Whether this Portage knows the EAPI that an ebuild says it is of. Source: PMS, "EAPI"."""
    import portage

    with ebuild.open(errors="replace") as file:
        eapi, _ = portage._parse_eapi_ebuild_head(file)
    return bool(portage.eapi_is_supported(eapi or "0"))


def _lines(path: Path) -> list[str]:
    """The lines of a configuration file, without comments."""
    if not path.is_file():
        return []
    lines = (
        line.partition("#")[0].strip() for line in path.read_text(errors="replace").splitlines()
    )
    return [line for line in lines if line]
