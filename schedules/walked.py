"""Which ways between generations a lab blade went, and what came of it: one file a way.

A way that was gone well is not gone again: a ring that is to take the step that another took, or to
go back where a publish tried the way back, needs no lab. A bad result is not kept.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from binhost.records import GateReport, read, save
from headnode.errors import PublishError

KEEP = 500


def way(**parts: object) -> str:
    """The name of a way: a digest of everything that its result depends on. Pure."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def remembered(folder: Path, name: str) -> GateReport | None:
    """What came of a way that was gone well; None if it was not."""
    try:
        return read(folder / f"{name}.json", GateReport)
    except PublishError:
        return None


def remember(folder: Path, name: str, report: GateReport) -> None:
    """Keep a good result, and drop the oldest where there are many."""
    save(folder / f"{name}.json", report)
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-KEEP]:
        path.unlink()
