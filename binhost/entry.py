"""A package's entry in the index, as Portage writes it: made once, from the package file alone.

Which keys there are, how values are folded and how dependencies are reduced to the package's own
USE flags is Portage's to say (`portage.dbapi.bintree`, `portage.getbinpkg.PackageIndex`). The lists
of keys are stated here all the same, since importing Portage's bintree takes as long as all the
rest of a publish; a test holds each against Portage's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from binhost.index import cp_of
from headnode.errors import PublishError
from headnode.files import digests

GPKG, XPAK = ".gpkg.tar", ".xpak"
SUFFIXES = (GPKG, XPAK)

# What is taken over from a package's metadata (bindbapi._aux_cache_keys, less what is worked out):
METADATA_KEYS = frozenset(
    {
        *("BDEPEND", "BUILD_ID", "BUILD_TIME", "CHOST", "DEFINED_PHASES", "DEPEND", "EAPI"),
        *("IDEPEND", "IUSE", "KEYWORDS", "LICENSE", "PDEPEND", "PROPERTIES", "PROVIDES"),
        *("RDEPEND", "REQUIRES", "RESTRICT", "SLOT", "USE", "USER_PATCHES", "repository"),
    }
)
# What is reduced to the package's own USE flags (bintree._pkgindex_use_evaluated_keys):
DEPENDENCIES = ("BDEPEND", "DEPEND", "IDEPEND", "PDEPEND", "RDEPEND")
CONDITIONAL = (*DEPENDENCIES, "LICENSE", "PROPERTIES", "RESTRICT")
# What a reader takes for granted (bintree._pkgindex_default_pkg_data; the others are empty):
DEFAULTS = {"EAPI": "0", "SLOT": "0"}
# What is written under another name (bintree._pkgindex_translated_keys):
TRANSLATED = {"_mtime_": "MTIME", "repository": "REPO"}


def make_entry(path: Path, pool_path: PurePosixPath) -> tuple[str, str]:
    """The index entry of the package file `path` under its name in the pool, and its SHA-256.

    Raises:
        PublishError: it is no whole package, or its name is not its content's.

    Source: portage.dbapi.bintree, `_populate_local`, `_pkgindex_entry`; getbinpkg.PackageIndex.
    """
    metadata = _metadata(path)
    stat = path.stat()
    entry = {key: value for key, value in metadata.items() if key in METADATA_KEYS}
    hashes = digests(path, "md5", "sha1", "sha256")
    entry |= reduced(path, entry) | {
        "CPV": cpv_of(metadata, pool_path),
        "PATH": str(pool_path),
        "SIZE": str(stat.st_size),
        "MD5": hashes["md5"],
        "SHA1": hashes["sha1"],
        "_mtime_": str(int(stat.st_mtime)),
    }
    return _written(entry), hashes["sha256"]


def _metadata(path: Path) -> dict[str, str]:
    """What a package says of itself, each value in one line as in an index.

    Raises:
        PublishError: it is no whole package, or of no slot: Portage takes neither.
    """
    # Imported here, as Portage is below: a publish that finds nothing new reads no package.
    if path.name.endswith(XPAK):
        from binhost.xpak import read_xpak as read
    else:
        from binhost.gpkg import read_metadata as read
    metadata = {key: " ".join(value.split()) for key, value in read(path).items()}
    if not metadata.get("SLOT"):
        raise PublishError(
            f"{path} has no SLOT in its metadata.", remedy="Remove it and build the package again."
        )
    return metadata


def reduced(path: Path, entry: Mapping[str, str]) -> dict[str, str]:
    """Dependencies and the like of the package `path` without USE conditionals.

    Raises:
        PublishError: Portage cannot read them.

    Source: bintree._eval_use_flags.
    """
    from portage.dep import Atom, paren_enclose, use_reduce
    from portage.exception import InvalidDependString

    use = frozenset(entry.get("USE", "").split())
    try:
        return {
            key: paren_enclose(
                use_reduce(
                    entry[key], uselist=use, token_class=Atom if key in DEPENDENCIES else None
                )
            )
            for key in CONDITIONAL
            if key in entry
        }
    except InvalidDependString as error:
        raise PublishError(
            f"{path} has dependencies that Portage cannot read: {error}.",
            remedy="Correct its ebuild, remove the file and build the package again.",
        ) from error


def _written(entry: Mapping[str, str]) -> str:
    """An entry's lines: in the order of Portage's own names, without what goes without saying."""
    return "".join(
        f"{TRANSLATED.get(key, key)}: {value}\n"
        for key, value in sorted(entry.items())
        if value and value != DEFAULTS.get(key)
    )


def cpv_of(metadata: Mapping[str, str], pool_path: PurePosixPath) -> str:
    """The package that metadata and name agree on.

    Raises:
        PublishError: they do not.
    """
    category, pf, build_id = (
        metadata.get(key, "").strip() for key in ("CATEGORY", "PF", "BUILD_ID")
    )
    cpv = f"{category}/{pf}"
    suffix = XPAK if pool_path.name.endswith(XPAK) else GPKG
    expected = name_of(cpv, build_id, suffix)
    if str(pool_path) != expected:
        raise PublishError(
            f"{pool_path} says of itself that it is {expected}.",
            remedy="Remove it from the staging folder and build the package again.",
        )
    return cpv


def name_of(cpv: str, build_id: int | str, suffix: str = GPKG) -> str:
    """The name in the pool (and below PKGDIR) of a build of a package. Pure.

    Source: portage.dbapi.bintree, `_allocate_filename_multi`.
    """
    return f"{cp_of(cpv)}/{PurePosixPath(cpv).name}-{build_id}{suffix}"
