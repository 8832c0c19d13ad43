"""Sending a reply on a socket that never blocks: the header in one write, files by sendfile(2).

A file on a slow disk would block sendfile all the same, and with it every other client of the
event loop: a blocking read cannot be polled. So before a window of a file is begun, a byte in every
2 MiB of it and its last one are asked for with RWF_NOWAIT (preadv2(2)), which fails where they are
not in memory; `fetch_window` then has a thread read all of the window. A file system that does not
know RWF_NOWAIT (tmpfs) is taken to be in memory: a window then blocks as long as its disk needs, as
it does with nginx as it is usually set up.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from enum import Enum

from binhost.beneath import Opened
from binhost.ranges import Span
from binhost.replies import Piece

log = logging.getLogger(__name__)

WINDOW_BYTES = 8 << 20  # what a client who takes all of it holds up others: 2 ms at 4 GB/s
ASKED_BYTES = 2 << 20
READ_BYTES = 256 << 10
_PROBE = [bytearray(1)]  # nobody reads it


class Progress(Enum):
    """How far a transfer came."""

    DONE = "all is sent"
    FULL = "the client has to take something first"
    COLD = "the disk has to be read first"
    BROKEN = "the file has fewer bytes than it had"


class Transfer:
    """What of a reply is still to be sent. `sent_bytes` counts all, also of the header."""

    __slots__ = ("_at", "_file", "_pieces", "_ready_until", "_turn", "sent_bytes")

    def __init__(self, pieces: tuple[Piece, ...], file: Opened | None) -> None:
        self._pieces = pieces
        self._file = file
        self._turn = 0  # the piece that is being sent
        self._at = 0  # how much of it is sent
        self._ready_until = 0  # how much of it is known to be in memory
        self.sent_bytes = 0

    def push(self, connection: socket.socket) -> Progress:
        """Send what goes at once, a window of a file at most.

        Raises:
            OSError: the client is gone.
        """
        while self._turn < len(self._pieces):
            piece = self._pieces[self._turn]
            if isinstance(piece, Span):
                progress = self._push_span(connection, piece)
            else:
                progress = self._push_bytes(connection, piece)
            if progress is not Progress.DONE:
                return progress
            self._turn += 1
            self._at = self._ready_until = 0
        return Progress.DONE

    def _push_bytes(self, connection: socket.socket, piece: bytes) -> Progress:
        last = self._turn == len(self._pieces) - 1
        try:
            rest = piece[self._at :] if self._at else piece
            count = connection.send(rest, 0 if last else socket.MSG_MORE)
        except BlockingIOError:
            return Progress.FULL
        self._at += count
        self.sent_bytes += count
        return Progress.DONE if self._at == len(piece) else Progress.FULL

    def _push_span(self, connection: socket.socket, span: Span) -> Progress:
        """One sendfile(2): a socket that took all of a window will be polled as ready again."""
        assert self._file is not None  # noqa: S101 (spans come with their file)
        at, handle = self._at, self._file.handle
        if at >= self._ready_until and not self._begin_window(span):
            return Progress.COLD
        try:
            count = os.sendfile(
                connection.fileno(), handle, span.start + at, self._ready_until - at
            )
        except BlockingIOError:
            return Progress.FULL
        self._at = at + count
        self.sent_bytes += count
        if at + count == span.length:
            return Progress.DONE
        return Progress.FULL if count else Progress.BROKEN

    def _begin_window(self, span: Span) -> bool:
        """Go on to the next window of the file, if that is in memory."""
        assert self._file is not None  # noqa: S101
        end = min(self._at + WINDOW_BYTES, span.length)
        for at in (*range(self._at, end, ASKED_BYTES), end - 1):
            if end > self._at and not is_in_memory(self._file.handle, span.start + at):
                return False
        self._ready_until = end
        return True

    def fetch_window(self) -> None:
        """Have the disk read the next window. A thread's work.

        To announce it (POSIX_FADV_WILLNEED) would have the kernel fetch no more than a device's
        read-ahead, 128 KiB as a rule.
        """
        span = self._pieces[self._turn]
        assert isinstance(span, Span) and self._file is not None  # noqa: S101
        end = min(self._at + WINDOW_BYTES, span.length)
        for at in range(self._at, end, READ_BYTES):
            os.pread(self._file.handle, min(READ_BYTES, end - at), span.start + at)
        self._ready_until = end


def is_in_memory(handle: int, offset: int) -> bool:
    """Whether the byte at `offset` can be read without a disk (or is behind the end)."""
    try:
        os.preadv(handle, _PROBE, offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    return True
