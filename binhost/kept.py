"""What published binaries still need of the mirror: their trees, and their sources."""

from __future__ import annotations

from pathlib import Path

from binhost.records import BuildResult, Deployment, Generation, read
from headnode.errors import PublishError


def used_snapshot_sets(state: Path) -> set[str]:
    """The snapshot sets that generations, deployments and last builds of any class name.

    `state` is the state folder.

    Raises:
        PublishError: a record is damaged.
    """
    records: list[Deployment | BuildResult | Generation] = [
        *(read(path, Generation) for path in _numbered(state, "*/generations/*/generation.json")),
        *(
            read(path, Deployment)
            for path in _numbered(state, "*/rings/*/deployments/*/deployment.json")
        ),
        *(read(path, BuildResult) for path in sorted(state.glob("build/*/result.json"))),
    ]
    return {each.snapshots for each in records}


def kept_packages(state: Path) -> set[tuple[str, str]]:
    """What every kept generation was built from: (snapshot set, CPV).

    Licences such as the GPL ask for the sources of what is given away: the distfiles of these
    stay as long as they do.

    Raises:
        PublishError: a record is damaged.
    """
    found = set()
    for path in _numbered(state, "*/generations/*/generation.json"):
        generation = read(path, Generation)
        found |= {(generation.snapshots, cpv_of_name(name)) for name in generation.packages}
    return found


def _numbered(state: Path, pattern: str) -> list[Path]:
    paths = sorted((state / "binhost").glob(pattern))
    return [path for path in paths if path.parent.name.isdigit()]


def cpv_of_name(name: str) -> str:
    """`cat/pn/pn-1.0-r1-3.gpkg.tar` -> `cat/pn-1.0-r1`. Pure.

    Raises:
        PublishError: it is no such name.
    """
    category, _, file = name.split("/", 2) if name.count("/") == 2 else ("", "", "")
    version, _, _ = file.rpartition("-")
    if not category or not version:
        raise PublishError(f"{name} is no name of a package in the pool.")
    return f"{category}/{version}"
