"""What a blade keeps of its last two deployments: the way back without the headnode. Part of it.

/var/lib/headnode/now/      the files of the deployment that was applied whole, by name
/var/lib/headnode/before/   those of the one before it
/var/lib/headnode/packages/ packages of that, by the names that its index has for them
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blades import places
from blades.places import read_state, write

# deployment.json is written last: with it, the others are there.
FILES = ("deployment.json", "generation.json", "Packages", "blade.json")


def same_state(before: Mapping[str, Any], says: Mapping[str, Any]) -> bool:
    """Whether two deployments come to the same on a blade: one may be the other's renewal."""
    keys = ("class_name", "ring", "generation", "snapshots", "image", "atoms")
    return all(before.get(key) == says.get(key) for key in keys) and all(
        before["sha256"].get(name) == says["sha256"].get(name)
        for name in ("generation.json", "blade.json")
    )


def keep(texts: Mapping[str, str], before: Mapping[str, Any]) -> None:
    """Keep the files of a deployment (`texts`), and those of `before`, if they are still here.

    One that comes to the same as the last, which puts an edit right, say, leaves the way back as it
    is. Packages fetched for neither go.
    """
    now, old = places.STATE / "now", places.STATE / "before"
    last = places.read_object(now / "deployment.json")
    says = json.loads(texts["deployment.json"])
    if last and before and same_state(last, before) and not same_state(last, says):
        shutil.rmtree(old, ignore_errors=True)
        now.rename(old)
    shutil.rmtree(now, ignore_errors=True)
    for name in reversed(FILES):
        if name in texts:
            write(now / name, texts[name])
    _clean_fetched()


def _clean_fetched() -> None:
    named: set[str] = set()
    for folder in ("now", "before"):
        named |= set(read_state(f"{folder}/generation.json").get("packages", {}))
    for name, path in _fetched().items():
        if name not in named:
            path.unlink()


def _fetched() -> dict[str, Path]:
    """The package files that earlier pulls left, by their names in the pool."""
    return {pool_name(path): path for path in places.FETCHED.rglob("*.gpkg.tar")}


def pool_name(path: Path) -> str:
    """The name in the pool, `cat/pn/file`, of a file that Portage fetched. Pure.

    The file's name alone is not enough: acct-user/munge and acct-group/munge have the same.

    Source: portage 3.0.83, bintree.getname_build_id: `location`, and the PATH of the index.
    """
    return str(path.relative_to(places.FETCHED))


def texts_of(name: str) -> dict[str, str]:
    """The files of the deployment that is kept as `now` or `before`."""
    folder = places.STATE / name
    return {each: (folder / each).read_text() for each in FILES if (folder / each).exists()}


def gone_back() -> None:
    """What was before is now."""
    now = places.STATE / "now"
    shutil.rmtree(now, ignore_errors=True)
    (places.STATE / "before").rename(now)


def _link(new: Path, there: Path) -> None:
    try:
        new.hardlink_to(there)
    except OSError:  # on another file system
        shutil.copy2(there, new)


def from_here(index: str, stamp: int) -> str:
    """An index, stamped anew, whose packages are fetched from where earlier pulls left them."""
    head, *blocks = index.split("\n\n")
    here = _fetched()
    kept = places.STATE / "packages"
    shutil.rmtree(kept, ignore_errors=True)
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        name = fields.get("PATH", "")
        if path := here.get(name):
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            _link(kept / name, path)
    lines = [
        f"URI: file://{kept}"
        if line.startswith("URI: ")
        else f"TIMESTAMP: {stamp}"
        if line.startswith("TIMESTAMP: ")
        else line
        for line in head.splitlines()
    ]
    return "\n\n".join(["\n".join(lines), *blocks])
