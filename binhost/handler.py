"""One client's connection: reads requests, answers each, writes the access log.

`http.server` parses; we read the head (`heads`), decide (`replies`) and send: the header block in
one write, the file by sendfile(2), which releases the GIL. A `Handler` is given its connection and
does nothing until `converse()`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from io import BytesIO

from binhost.access import log_access
from binhost.beneath import Opened, open_beneath
from binhost.heads import HeadError, HeadReader, limit_waits
from binhost.ranges import Span
from binhost.replies import PAGES, Header, Reply, file_reply, text_reply
from binhost.routes import Roots, path_of, resolve

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD")
LINGER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may take. Seconds and bytes; no value may be 0."""

    read_s: float = 15.0  # for a request to come, and again for it to be complete
    send_s: float = 60.0  # for the client to take anything of what is sent
    head_bytes: int = 16_384  # request line and fields; nginx and Apache allow a similar size
    connections: int = 128  # each has a thread; more wait in the kernel until one is free
    stop_s: float = 10.0  # for running transfers when the server stops


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every connection shares: what is served, within what, and whether to let clients go.

    `lets_go` says after each reply whether the connection is closed although the client would
    keep it: the server stops, or others wait for a thread.
    """

    roots: Roots
    limits: Limits
    lets_go: Callable[[], bool]


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection; the connection stays the caller's to close."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, peer: str, site: Site) -> None:
        # The base class would hold the whole conversation in its constructor, on buffered files.
        self.connection = connection
        self.peer = peer
        self.site = site
        self.sent_bytes = 0
        self.has_unread_input = False
        limits = site.limits
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_waits(connection, read_s=limits.read_s, send_s=limits.send_s)
        self.heads = HeadReader(connection, limit_s=limits.read_s, limit_bytes=limits.head_bytes)

    def converse(self) -> None:
        """Answer requests until the client or we have enough.

        Raises:
            OSError: the client vanished, or took nothing for too long.
        """
        self.handle()
        if self.has_unread_input:
            self._linger()

    def handle_one_request(self) -> None:
        """Read a request and answer it; `close_connection` says whether it was the last."""
        self.command, self.requestline, self.headers = "", "", HTTPMessage()
        try:
            head = self.heads.next()
        except HeadError as error:
            self.send_error(error.status)
            return
        if not head:
            self.close_connection = True
            return
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if self.parse_request():
            self._answer()

    def handle_expect_100(self) -> bool:
        """Let a client that waits for "100 Continue" have the final reply at once."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that could not be read, in plain text, and end the conversation."""
        self.close_connection = self.has_unread_input = True
        self._send(text_reply(HTTPStatus(code)))

    def _answer(self) -> None:
        if self.request_version == "HTTP/0.9" or not self._names_one_host():
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            # A body, which no request here has: it is not read, and so nothing after it either.
            self.close_connection = self.has_unread_input = True
        path = path_of(self.path)
        if self.command not in METHODS:
            allowed = ("Allow", ", ".join(METHODS))
            self._send(text_reply(HTTPStatus.METHOD_NOT_ALLOWED, "", allowed))
        elif path in PAGES:
            self._send(text_reply(HTTPStatus.OK, PAGES[path]))
        else:
            self._answer_with_file(path)

    def _names_one_host(self) -> bool:
        """RFC 9112, 3.2: a request of HTTP/1.1 without its Host is refused."""
        return self.request_version == "HTTP/1.0" or len(self.headers.get_all("Host", ())) == 1

    def _answer_with_file(self, path: str) -> None:
        file = resolve(path, self.site.roots)
        try:
            opened = open_beneath(self.site.roots.state, file) if file else None
        except OSError as error:
            log.error("%s cannot be served: %s", file, error)
            self._send(text_reply(HTTPStatus.SERVICE_UNAVAILABLE))
            return
        if file is None or opened is None:
            self._send(text_reply(HTTPStatus.NOT_FOUND))
            return
        try:
            fields: Callable[[str], str | None] = self.headers.get
            reply = file_reply(self.command, fields, file, opened.facts, self.site.roots)
            self._send(reply, opened)
        finally:
            os.close(opened.handle)

    def _send(self, reply: Reply, opened: Opened | None = None) -> None:
        self.close_connection = self.close_connection or self.site.lets_go()
        self.sent_bytes = 0
        block = self._block(reply)
        try:
            if self.command == "HEAD" or not (reply.text or reply.span):
                self.connection.sendall(block)
            elif reply.span and opened:
                self.connection.sendall(block, socket.MSG_MORE if reply.span.length else 0)
                self._send_file(opened.handle, reply.span)
            else:
                self.connection.sendall(block + reply.text)
                self.sent_bytes = len(reply.text)
        finally:
            log_access(self, self.peer, reply.status, self.sent_bytes)

    def _block(self, reply: Reply) -> bytes:
        """The status line and all fields with their empty line, to be sent in one write."""
        fields: list[Header] = [("Server", "headnode"), ("Date", self.date_time_string())]
        fields += reply.headers
        if self.close_connection:
            fields.append(("Connection", "close"))
        elif self.request_version == "HTTP/1.0":
            fields.append(("Connection", "keep-alive"))
        status = f"{self.protocol_version} {reply.status.value} {reply.status.phrase}\r\n"
        lines = (f"{name}: {value}\r\n" for name, value in fields)
        return f"{status}{''.join(lines)}\r\n".encode("latin-1")

    def _send_file(self, handle: int, span: Span) -> None:
        while self.sent_bytes < span.length:
            offset, rest = span.start + self.sent_bytes, span.length - self.sent_bytes
            count = os.sendfile(self.connection.fileno(), handle, offset, rest)
            if not count:
                log.error("%s shrank while it was sent", self.path)
                self.close_connection = True
                return
            self.sent_bytes += count

    def _linger(self) -> None:
        """Take what the client still sends, for a moment.

        To close with unread input is to send a reset, which can overtake the reply.
        """
        deadline = time.monotonic() + LINGER_S
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            limit_waits(self.connection, read_s=LINGER_S, send_s=LINGER_S)
            while time.monotonic() < deadline and self.connection.recv(65_536):
                pass
