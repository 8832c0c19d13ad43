"""One request: read, and decided what it is answered with.

`http.server` parses (the ordinary heads are read by `heads`, all others by its own parser); what
is answered is decided in `replies`. A `Handler` touches no socket and waits for nothing: its
connection sends the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

from binhost.heads import Fields, joined, path_of, query_of, quick_head
from binhost.openfiles import OpenFiles
from binhost.replies import PAGES, Coding, Reply, Served, accepts_gzip, file_reply, text_reply
from binhost.routes import distfile, is_index
from binhost.site import Request, Route, Site

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD")
LONGEST_LENGTH = 18  # digits: an exabyte


class WaitsFor(Enum):
    """What a slow answer waits for: each has threads of its own."""

    US = "a function of ours"
    UPSTREAM = "a distfile to be fetched, which may take minutes"


@dataclass(frozen=True, slots=True)
class Slow:
    """An answer that takes a while: run `job` in a thread, and call `then` with its result.

    Requests whose `key` is the same share one run; an exception of the job is its result.
    """

    key: Hashable
    job: Callable[[], object]
    then: Callable[[Any], Reply]
    waits_for: WaitsFor = WaitsFor.US


@dataclass(frozen=True, slots=True)
class Upload:
    """A request with a body: read `length` bytes, and call `then` with them."""

    length: int
    then: Callable[[bytes], Slow]


Answer = Reply | Slow | Upload


class Handler(BaseHTTPRequestHandler):
    """Answers one request after its head; `close_connection` says whether it was the last.

    `has_unread_input`: bytes that we shall not read follow it, so that nothing after it is a head.
    """

    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, files: OpenFiles, peer: str) -> None:
        # The base class would hold a whole conversation in its constructor, on blocking files.
        self.site = site
        self.files = files
        self.peer = peer
        self.command, self.requestline, self.request_version = "", "", self.protocol_version
        self.close_connection = self.has_unread_input = False
        self.fields: Fields = {}

    def answer(self, head: bytes) -> Answer:
        """Read `head`, a whole one with its empty line, and decide."""
        self.raw_requestline = head
        self.refusal: Reply | None = None
        if not self.parse_request():
            return self.refusal or self.refuse(HTTPStatus.BAD_REQUEST)
        if self.request_version == "HTTP/0.9" or not self._names_one_host():
            return self.refuse(HTTPStatus.BAD_REQUEST)
        path = self.url_path
        if (route := self.site.route(path)) is not None:
            return self._answer_by_route(path, route)
        if self.fields.get("content-length", "0") != "0" or "transfer-encoding" in self.fields:
            self._leave_body()
        if self.command not in METHODS:
            return self._not_allowed(METHODS)
        if path in PAGES:
            return text_reply(HTTPStatus.OK, PAGES[path])
        return self._answer_by_file(path)

    def parse_request(self) -> bool:
        """Read the head in `raw_requestline`: quickly if it is ordinary, or as the base class does.

        The base class calls `send_error` for what it refuses, and returns False.
        """
        quick = quick_head(self.raw_requestline)
        if quick is None:
            return self._parse_as_base_class()
        self.requestline, self.command, self.path = quick.line, quick.command, quick.target
        self.request_version, self.fields, self.url_path = quick.version, quick.fields, quick.path
        self.close_connection = not quick.keeps
        return True

    def _parse_as_base_class(self) -> bool:
        self.rfile = BytesIO(self.raw_requestline)
        self.raw_requestline = self.rfile.readline()
        if not super().parse_request():
            return False
        self.fields = joined(self.headers.items())
        self.url_path = path_of(self.path)
        return True

    def handle_expect_100(self) -> bool:
        """Answer a client that waits for "100 Continue" at once, unless it is an Upload."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that could not be read; what the base class would send as HTML."""
        self.refusal = self.refuse(HTTPStatus(code))

    def refuse(self, status: HTTPStatus) -> Reply:
        """Refuse a request, in plain text, and end the conversation."""
        self._leave_body()
        return text_reply(status)

    def _leave_body(self) -> None:
        """There is a body that is not read, and so nothing after it either."""
        self.close_connection = self.has_unread_input = True

    def _names_one_host(self) -> bool:
        """RFC 9112, 3.2: a request of HTTP/1.1 without its Host is refused, or with several."""
        host = self.fields.get("host")
        return self.request_version == "HTTP/1.0" or (host is not None and "," not in host)

    def _not_allowed(self, methods: tuple[str, ...]) -> Reply:
        allowed = ("Allow", ", ".join(methods))
        return text_reply(HTTPStatus.METHOD_NOT_ALLOWED, "", allowed)

    def _answer_by_file(self, path: str) -> Reply | Slow:
        try:
            served = self._find(path)
        except OSError as error:
            log.error("%s cannot be served: %s", path, error)
            return text_reply(HTTPStatus.SERVICE_UNAVAILABLE)
        if served is not None:
            return file_reply(self.command, self.fields, served)
        fetch = self.site.fetch_missing
        file = distfile(path, self.site.roots) if fetch and self.command == "GET" else None
        if fetch is None or file is None:
            return text_reply(HTTPStatus.NOT_FOUND)
        return Slow(
            file,
            lambda: fetch(file),
            lambda result: self._fetched(path, result),
            WaitsFor.UPSTREAM,
        )

    def _find(self, path: str) -> Served | None:
        if is_index(path) and accepts_gzip(self.fields.get("accept-encoding")):
            packed = self.files.find(path, Coding.GZIP)
            if packed is not None:
                return packed
        return self.files.find(path)

    def _fetched(self, path: str, result: object) -> Reply:
        """Answer after `fetch_missing`, which said True or False, or raised `result`."""
        if isinstance(result, Exception):
            log.error("%s could not be fetched: %s", path, result)
            return text_reply(HTTPStatus.BAD_GATEWAY)
        try:
            served = self.files.find(path) if result else None
        except OSError as error:
            log.error("%s cannot be served: %s", path, error)
            return text_reply(HTTPStatus.SERVICE_UNAVAILABLE)
        if served is None:
            return text_reply(HTTPStatus.NOT_FOUND)
        return file_reply(self.command, self.fields, served)

    def _answer_by_route(self, path: str, route: Route) -> Answer:
        if self.command not in route.methods:
            self._leave_body()
            return self._not_allowed(route.methods)
        if "transfer-encoding" in self.fields:
            return self.refuse(HTTPStatus.LENGTH_REQUIRED)
        length = self.fields.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) <= LONGEST_LENGTH):
            return self.refuse(HTTPStatus.BAD_REQUEST)
        if int(length) > route.body_bytes:
            return self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if int(length):
            return Upload(int(length), lambda body: self._by_route(path, route, body))
        return self._by_route(path, route, b"")

    def _by_route(self, path: str, route: Route, body: bytes) -> Slow:
        request = Request(
            method=self.command,
            path=path,
            query=query_of(self.path),
            fields=dict(self.fields),  # ours are remembered with the head
            body=body,
            peer=self.peer,
        )
        return Slow(object(), lambda: route.answer(request), lambda result: self._routed(result))

    def _routed(self, result: object) -> Reply:
        if isinstance(result, Reply):
            return result
        error = result if isinstance(result, Exception) else None
        log.error("%s %s failed: %r", self.command, self.path, result, exc_info=error)
        return text_reply(HTTPStatus.INTERNAL_SERVER_ERROR)
