"""Which packages the upstream has, read off its tree, and how their next versions are called.

Knows file names only. The version of a package is in its ebuild's name and nowhere else: ebuilds
and sources take it from there, so that a copy under another name is another version.
"""

from __future__ import annotations

import enum
from pathlib import Path

from headnode.errors import MirrorError

HERE = Path(__file__).parent
TREE = HERE / "tree"
SOURCES = HERE / "src"


class Step(enum.Enum):
    """How far a bump goes: 1.0 to 1.1, to 2.0 (the library's sub-slot moves), or to 1.0-r1."""

    MINOR = "minor"
    MAJOR = "major"
    REVISION = "revision"


def versions(tree: Path, package: str) -> list[str]:
    """The versions of `package` (`category/name`) in `tree`, oldest first.

    Raises:
        MirrorError: there is no ebuild of it.
    """
    name = package.partition("/")[2]
    found = [path.stem[len(name) + 1 :] for path in (tree / package).glob(f"{name}-*.ebuild")]
    if not found:
        raise MirrorError(
            f"The upstream in {tree} has no package {package!r}.",
            remedy="It has " + ", ".join(packages(tree)) + ".",
        )
    return sorted(found, key=_order)


def _order(version: str) -> tuple[list[int], int]:
    """Numbers and revision: all that the versions of this tree have (PMS 3.2 has more)."""
    plain, _, revision = version.partition("-r")
    return [int(number) for number in plain.split(".")], int(revision or 0)


def packages(tree: Path) -> list[str]:
    """Every `category/name` that has an ebuild in `tree`, sorted."""
    return sorted({str(ebuild.parent.relative_to(tree)) for ebuild in tree.glob("*/*/*.ebuild")})


def ebuild_path(tree: Path, package: str, version: str) -> Path:
    """Where the ebuild of a version is."""
    return tree / package / f"{package.partition('/')[2]}-{version}.ebuild"


def next_version(version: str, step: Step) -> str:
    """What comes after `version`: after 1.0 it is 1.1, 2.0 or 1.0-r1; after 0, it is 0.1 or 1.0."""
    plain, _, revision = version.partition("-r")
    if step is Step.REVISION:
        return f"{plain}-r{int(revision or 0) + 1}"
    major, _, minor = plain.partition(".")
    if step is Step.MAJOR:
        return f"{int(major) + 1}.0"
    return f"{major}.{int(minor or 0) + 1}"
