"""What an HTTP server serves: the state folder, its limits, and what is answered by a function.

Most answers are files. Two kinds take longer, and run in a thread beside the event loop, so that a
slow one holds up nobody else: a `Route`, and `Site.fetch_missing`, which may get a distfile that is
not there yet. Neither needs to know of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from binhost.heads import Fields
from binhost.replies import Reply
from binhost.routes import Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take of one server process. Seconds and bytes; no value may be 0."""

    read_s: float = 15.0  # for a request to come, and again for it to be complete
    send_s: float = 60.0  # for the client to take anything of what is sent
    head_bytes: int = 16_384  # request line and fields; nginx and Apache allow a similar size
    connections: int = 4096  # at once; the longest idle ones make room, then others wait outside
    threads: int = 8  # for slow answers, and as many to fetch; more of them wait for a thread
    waiting: int = 256  # slow answers that may wait; further ones are told to come back (503)
    bodies_bytes: int = 16 << 20  # of requests that are still coming, all together; else 503
    peer_bytes: int = 4 << 20  # of these, from one address (a proxy's, maybe)
    stop_s: float = 10.0  # for running transfers when the server stops
    drain_s: float = 4 * 3600.0  # for running transfers when others have taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to a `Route`: `path` still percent-encoded, `fields` by lower-case name."""

    method: str
    path: str
    query: str
    fields: Fields
    body: bytes
    peer: str

    @property
    def parameters(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A function that answers requests, in a thread: `text_reply` and `data_reply` make replies.

    An exception is logged and answered with 500. `body_bytes` is how much a request may bring with
    it (0: nothing); a body is whole before the function is called.
    """

    answer: Callable[[Request], Reply]
    methods: tuple[str, ...] = ("GET", "HEAD")
    body_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is served, within what.

    `routes`: by path, or by a beginning of it that ends with a slash (`/api/v1/`); the longest
    counts. `/` is that path only. They come before the files.

    `fetch_missing` is called with the absolute path of a distfile (below
    `<state>/mirror/distfiles/`) that a GET names and that is not there. It tries to put it there,
    in one rename, and says whether it did: True is answered with the file, False with 404, an
    exception (logged) with 502. Requests for one path in one process share a call; processes do
    not.
    """

    roots: Roots
    limits: Limits = Limits()
    routes: Mapping[str, Route] = field(default_factory=dict)
    fetch_missing: Callable[[Path], bool] | None = None
    access_log: Path | None = None

    def route(self, path: str) -> Route | None:
        """The route of a percent-encoded path without query."""
        if not self.routes:
            return None
        if path in self.routes:
            return self.routes[path]
        ends = [at + 1 for at, letter in enumerate(path) if letter == "/" and at]
        return next(
            (self.routes[path[:e]] for e in reversed(ends) if path[:e] in self.routes), None
        )
