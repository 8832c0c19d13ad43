"""Reading request heads from a connection, within a time and a size.

The whole head is in memory before it is parsed: a client that sends a byte now and then, or never
the empty line, costs a thread for a bounded time, and half a head is never taken for a request.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from http import HTTPStatus

END = re.compile(rb"\r?\n\r?\n")
CHUNK = 16384


class HeadError(Exception):
    """A head that is not going to be answered otherwise than with `status`."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def limit_waits(connection: socket.socket, *, read_s: float, send_s: float) -> None:
    """Let the kernel end a read or write that makes no progress for so long (0: never).

    Not `settimeout()`: it makes the socket non-blocking, and a blocking sendfile(2) impossible.
    """
    for option, limit_s in ((socket.SO_RCVTIMEO, read_s), (socket.SO_SNDTIMEO, send_s)):
        seconds, rest = divmod(limit_s, 1)
        timeval = struct.pack("@ll", int(seconds), int(rest * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, option, timeval)


class HeadReader:
    """The heads that arrive on `connection`, one after the other, also when sent in one go.

    `limit_s` bounds a head from its first byte (up to twice that, since the kernel's own limit on
    each read is what wakes us); `limit_bytes` its size.
    """

    def __init__(self, connection: socket.socket, *, limit_s: float, limit_bytes: int) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def next(self) -> bytes:
        """Wait for a head and return it with its empty line; b"" where the client is done.

        Raises:
            HeadError: it is too long, or began and did not end in time.
        """
        deadline: float | None = None
        while (end := self._end()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise HeadError(HTTPStatus.REQUEST_TIMEOUT)
            if not self._receive():
                return b""
            deadline = deadline or time.monotonic() + self._limit_s
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        return head

    def _end(self) -> int | None:
        """Where the head in the buffer ends; empty lines before it are dropped (RFC 9112, 2.2)."""
        while self._buffer.startswith((b"\r", b"\n")):
            del self._buffer[:1]
        match = END.search(self._buffer)
        if len(self._buffer[: match.end() if match else None]) <= self._limit_bytes:
            return match.end() if match else None
        if b"\n" in self._buffer[: self._limit_bytes]:
            raise HeadError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        raise HeadError(HTTPStatus.REQUEST_URI_TOO_LONG)

    def _receive(self) -> bool:
        """Read what is there; False where the client left, or sent nothing at all in time."""
        try:
            data = self._connection.recv(CHUNK)
        except BlockingIOError:
            if self._buffer:
                raise HeadError(HTTPStatus.REQUEST_TIMEOUT) from None
            return False
        self._buffer += data
        return bool(data)
