"""What a tree has to be before it is served: the right repository, whole, and readable by Portage.

Checked in this order, cheapest first: names, configuration, profiles, one ebuild at least; every
file against the Manifests (`manifests`); the metadata cache (`md5cache`). A check says which file
is not as it must be.
"""

from __future__ import annotations

from pathlib import Path

from headnode import gentoo
from mirror.guard import TreeError


def check_repo(path: Path, name: str) -> None:
    """Check that `path` holds the Gentoo repository `name`, and not half of it.

    Raises:
        TreeError: saying which file is not as it must be.
    """
    named = path / "profiles" / "repo_name"
    if not (path / "profiles").is_dir():
        raise TreeError("it has no profiles/")
    if not named.is_file():
        raise TreeError("it has no profiles/repo_name")
    found = named.read_text(errors="replace").strip()
    if found != name:
        raise TreeError(f"its profiles/repo_name says {found!r}, not {name!r}")
    if not (path / "metadata" / "layout.conf").is_file():
        raise TreeError("it has no metadata/layout.conf")
    if next(path.glob("*/*/*.ebuild"), None) is None:
        raise TreeError("it has not one ebuild")
    check_readable(path, name)


def check_readable(path: Path, name: str) -> None:
    """Check that the environment's Portage can use the repository and each of its profiles.

    Raises:
        TreeError: an EAPI that it does not know, a name or a configuration that it refuses, a
            profile that profiles.desc names and that is not there, or a parent that is not.
    """
    found = gentoo.read_repo(path, name)
    if found.name != name:
        raise TreeError(f"Portage reads its name as {found.name!r}, not {name!r}")
    for profile in found.profiles:
        if not (path / "profiles" / profile).is_dir():
            raise TreeError(f"profiles/profiles.desc names {profile}, and that is not there")
    for folder, eapi in found.unknown_eapis.items():
        raise TreeError(
            f"{folder}/eapi says {eapi!r}, which Portage {found.portage} does not know; "
            "install a newer one (`pip install --upgrade portage`)"
        )
    for parent in found.lost_parents:
        raise TreeError(f"{parent} names a profile that is not there")
