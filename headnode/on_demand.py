"""What the HTTP server is given for distfiles that are not there: `fetcher`.

All that fetching takes (Portage, for one) is imported with the first such request: most servers
never see one, and shall be small.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schedules.distfiles import OnDemand


def fetcher(cluster: str) -> Callable[[Path], bool]:
    """Give a function that has a distfile, by its absolute path, fetched if blades may have it.

    It says whether the file is there now, and may be called from several threads, but only after
    the process has forked. `cluster` is the `Cluster` as JSON, since it goes to another process.
    """
    guard = threading.Lock()
    made: list[OnDemand] = []

    def fetch_missing(path: Path) -> bool:
        with guard:
            if not made:
                made.append(_on_demand(cluster))
        return made[0].fetch_missing(path)

    return fetch_missing


def _on_demand(cluster: str) -> OnDemand:
    from config.model import Cluster
    from schedules.distfiles import OnDemand
    from schedules.site import Site

    return OnDemand(Site(cluster=Cluster.model_validate_json(cluster)))
