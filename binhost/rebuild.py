"""Packages that must be built again although nothing about them changed: a library moved beneath.

A sub-slot moves its dependants by itself: emerge then finds no binary that fits. Where a library
has a new soname without one, or a package forgot its `:=`, emerge is content, and the builder keeps
the old library for the old programs (FEATURES=preserve-libs). A blade would not have it. So the
index says who was left behind (`binhost.soname`), and `@preserved-rebuild` what else the builder
itself keeps a library for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath

from binhost import soname
from binhost.builder import Workshop
from binhost.emerge import Step, parse_plan, preserved_argv
from binhost.entry import cpv_of
from binhost.gpkg import read_metadata
from binhost.pool import package_names
from headnode.node.running import Node

KEYS = ("SLOT", "BUILD_TIME", "PROVIDES", "REQUIRES")
PLAN_S = 900.0
REGISTRY = "var/lib/portage/preserved_libs_registry"


def left_behind(shop: Workshop, chosen: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The packages (CPV) of a closure that link to a library's earlier build, and its sonames.

    `chosen` are the pool names of the closure.
    """
    known = dict(shop.pool.entries())
    known |= {name: _entry(shop, name) for name in package_names(shop.staging) - known.keys()}
    return soname.left_behind([known[name] for name in chosen], known.values())


def _entry(shop: Workshop, name: str) -> str:
    """What matters here of the index entry that a staged package will have."""
    path = shop.staging / name
    if not path.stat().st_size:  # a name that the builder reserved
        return ""
    metadata = read_metadata(path)
    said = {key: " ".join(metadata.get(key, "").split()) for key in KEYS}
    said["CPV"] = cpv_of(metadata, PurePosixPath(name))
    return "".join(f"{key}: {value}\n" for key, value in said.items() if value)


def preserved(shop: Workshop, node: Node) -> list[Step]:
    """What the builder itself keeps old libraries for; nothing where emerge finds no plan."""
    registry = shop.folder / "upper" / REGISTRY
    if not registry.is_file() or not json.loads(registry.read_text() or "{}"):
        return []
    done = node.run(preserved_argv(), timeout_s=PLAN_S, check=False)
    return [] if done.code else parse_plan(done.output)
