"""The URLs of the status: what `headnode serve` answers beside files.

All that it takes to make a page is imported with the first request for one: most server processes
never see any, and shall be small.

::

    /                                 the status page
    /status/blades/<name>             a blade
    /status/generations/<class>/<n>   a generation, with what it changed
    /status/generations.atom          a feed of generations
    /status/events                    server-sent events: whether a page is still current
    /status/assets/…                  style sheet and script
    /metrics                          Prometheus
    /api/v1/…                         JSON; /api/v1/openapi.json describes it

Only GET and HEAD, no cookies, no parameters: nothing can be changed here, by nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from binhost.replies import Reply
from binhost.site import Request, Route

if TYPE_CHECKING:
    from headnode.status.views import Views

PATHS = ("/", "/status/", "/metrics", "/api/v1/")


def status_routes(cluster: str) -> Mapping[str, Route]:
    """The routes of a cluster, given as JSON since it goes to another process.

    They may be called from several threads.
    """
    guard = threading.Lock()
    made: list[Views] = []

    def answer(request: Request) -> Reply:
        with guard:
            if not made:
                made.append(_views(cluster))
        return made[0].answer(request.path, request.fields)

    return dict.fromkeys(PATHS, Route(answer=answer))


def _views(cluster: str) -> Views:
    from config.model import Cluster
    from headnode.status.views import Views
    from schedules.site import Site

    return Views(Site(cluster=Cluster.model_validate_json(cluster)))
