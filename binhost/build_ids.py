"""Build ids that were given, also those of packages that are gone.

::

    pool/build-ids    a line a version: `<cat>/<pf> <highest build id>`

Portage numbers a build one higher than the highest that it sees, and so gives a number again once
the packages that had it are removed: under a name that blades and caches know for other content.
What stands here survives a clean-up, and only grows.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from binhost.entry import GPKG, XPAK, name_of
from headnode.errors import PublishError


def read(path: Path) -> dict[str, int]:
    """What is written down, by CPV; nothing if the pool is older than this file.

    Raises:
        PublishError: it is damaged.
    """
    try:
        words = path.read_text().split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise PublishError(
            f"{path} is damaged: a line is not a version and a number.",
            remedy="Put it back from a backup: without it, a build could get the name of another.",
        ) from error


def to_text(highest: Mapping[str, int]) -> str:
    """The file's text. Pure."""
    return "".join(f"{cpv} {number}\n" for cpv, number in sorted(highest.items()))


def with_names(highest: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """What is the highest when `names` (as in a pool) count as well. Pure."""
    found = dict(highest)
    for name in names:
        cpv, build_id = cpv_and_id(name)
        if build_id > found.get(cpv, 0):
            found[cpv] = build_id
    return found


def above(highest: Mapping[str, int], whole: Container[str]) -> dict[str, list[str]]:
    """The names, by CPV, that were given above the highest build that is `whole`. Pure."""
    found: dict[str, list[str]] = {}
    for cpv, build_id in highest.items():
        while build_id and (name := name_of(cpv, build_id)) not in whole:
            found.setdefault(cpv, []).append(name)
            build_id -= 1
    return found


def cpv_and_id(name: str) -> tuple[str, int]:
    """The version and the build id in a name in the pool; an id of 0 if it has none. Pure."""
    category, _, rest = name.partition("/")
    stem = rest.rpartition("/")[2].removesuffix(GPKG).removesuffix(XPAK)
    pf, _, number = stem.rpartition("-")
    return f"{category}/{pf}", int(number) if number.isdecimal() else 0
