"""What a pull really brought: which packages it merged, whose files they were, what it fetched.

Nothing here goes by how emerge was called. Portage numbers each merge (COUNTER), and writes down
which package file it came from, by its MD5 (BINPKGMD5). What it compiles has none of that, or with
FEATURES=buildpkg one that no index has; so a merge counts as built here unless the deployment's own
index names that file. Part of the pull on a blade.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from blades import kept, places

Merged = dict[str, str]
Files = dict[Path, tuple[int, int, int]]


def fields_of(index: str) -> Iterator[dict[str, str]]:
    """The fields of each package that an index names."""
    for block in index.split("\n\n")[1:]:
        yield dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)


def merged() -> Merged:
    """Every installed package (category/name-version), and the number of its merge."""
    found = {}
    for contents in places.VDB.glob("*/*/CONTENTS"):
        folder = contents.parent
        if not folder.name.startswith("-MERGING-"):
            found[f"{folder.parent.name}/{folder.name}"] = _said(folder / "COUNTER")
    return found


def files() -> Files:
    """The package files that are here, whole or in part: inode, time and size."""
    found = {}
    for path in places.FETCHED.rglob("*.gpkg.tar*"):
        with contextlib.suppress(FileNotFoundError):  # cleaned up just now
            is_at = path.stat()
            found[path] = (is_at.st_ino, is_at.st_mtime_ns, is_at.st_size)
    return found


def built_here(came: Sequence[str], index: str) -> list[str]:
    """Those of the installed packages `came` that are no file of the index."""
    known = {(each.get("CPV"), each.get("MD5")) for each in fields_of(index)}
    return [name for name in came if (name, _said(places.VDB / name / "BINPKGMD5")) not in known]


def fetched_bytes(came: Collection[str], before: Files, now: Files, index: str) -> int:
    """The bytes of package files that were fetched. Pure.

    Those that are here and were not, or not so; and of packages that `came` from a file which was
    not here and is not any more (something cleans up), what the index says of their size.
    """
    new = sum(has[2] for path, has in now.items() if before.get(path) != has)
    names = {kept.pool_name(path) for path in (*before, *now)}
    gone = (
        int(each.get("SIZE", 0))
        for each in fields_of(index)
        if each.get("CPV") in came and each.get("PATH", "") not in names
    )
    return new + sum(gone)


def tell(report: dict[str, Any], before: tuple[Merged, Files], index: str) -> None:
    """Put `source_builds` and `fetched_bytes` into a pull's report; `before` is from its start."""
    there, had = before
    came = [name for name, number in sorted(merged().items()) if there.get(name) != number]
    own = built_here(came, index)
    report["source_builds"] = len(own)
    report["fetched_bytes"] = fetched_bytes(set(came).difference(own), had, files(), index)
    if own:
        report["warnings"].append(
            f"merged, and no package of this deployment (compiled here?): {', '.join(own)}"
        )


def _said(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
