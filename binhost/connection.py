"""One client's connection as the event loop drives it: read a head, answer, send, and again.

At any time it waits for one thing: bytes of the client, room to send, or a thread. While it sends
it does not read, so that a client cannot pile up requests; each wait but the last has a deadline.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import select
import socket
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from enum import Enum
from http import HTTPStatus
from typing import Any, Protocol

from binhost.access import AccessLog, access_line
from binhost.aside import Aside
from binhost.handler import Answer, Handler, Upload, WaitsFor
from binhost.heads import HeadBuffer, HeadError
from binhost.openfiles import OpenFiles
from binhost.replies import Reply, text_reply
from binhost.sending import Progress, Transfer
from binhost.site import Site

log = logging.getLogger(__name__)

CHUNK = 16_384
LINGER_S = 1.0
RETRY_S = "5"
READ = select.EPOLLIN
WRITE = select.EPOLLOUT
NOTHING = 0
# Of a client, or the way to it. sendfile(2) has the errors of the file that it reads as well.
LEFT = frozenset(
    {
        *(errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ENOTCONN),
        *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN),
    }
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wait(Enum):
    """What a connection waits for."""

    HEAD = "a request"
    BODY = "the rest of a request"
    ROOM = "the client to take what is sent"
    THREAD = "a thread to have an answer, or the disk"
    END = "the client to close"
    GONE = "nothing: it is closed"


class Owner(Protocol):
    """What a connection needs of the loop that it is in.

    `now_s` (monotonic) and `date`, the fields that every reply has, are of this round of the loop.
    `lets_go`: connections are closed after their reply, although the client would keep them.
    `coming`: the bytes of all bodies that are waited for, by client address, so that strangers
    cannot fill the memory, nor one of them keep all others out.
    """

    site: Site
    files: OpenFiles
    slow: Aside
    fetching: Aside
    disk: Aside
    access: AccessLog | None
    now_s: float
    date: bytes
    lets_go: bool
    coming: Counter[str]

    def watch(self, connection: Connection, events: int) -> None:
        """Call the connection on these events of its socket, and on no others (0: none)."""

    def forget(self, connection: Connection) -> None:
        """The connection is about to be closed."""


class Connection:
    """A client. `deadline_s` is when its patience, or ours, is at an end (monotonic)."""

    __slots__ = (
        "_buffer",
        "_handler",
        "_head_bytes",
        "_owner",
        "_reply",
        "_transfer",
        "_untaken_bytes",
        "_upload",
        "deadline_s",
        "peer",
        "socket",
        "wait",
        "watched",
    )

    def __init__(self, connection: socket.socket, peer: str, owner: Owner) -> None:
        self.socket = connection
        self.peer = peer
        self.wait = Wait.HEAD
        self.watched = NOTHING
        self.deadline_s = owner.now_s + owner.site.limits.read_s
        self._owner = owner
        self._buffer = HeadBuffer(owner.site.limits.head_bytes)
        self._handler: Handler | None = None
        self._reply: Reply | None = None
        self._transfer: Transfer | None = None
        self._upload: Upload | None = None
        self._head_bytes = 0
        self._untaken_bytes = 0

    # What the loop calls

    def happened(self) -> None:
        """Go on after an event of the socket: it is what was waited for, or the client is gone."""
        if self.wait is Wait.ROOM:
            self._push()
            if self.wait is Wait.ROOM:
                return  # as it is watched already
            self.advance()
        elif self.wait is not Wait.THREAD:
            self.read()
        self.settle()

    def read(self) -> None:
        """Take what the client has sent, and answer it if it is a whole request."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._vanished(error)
            return
        if not data:
            self.close()
        elif self.wait is not Wait.END:
            if not self._buffer.data and self.wait is Wait.HEAD:
                self.deadline_s = self._owner.now_s + self._owner.site.limits.read_s
            self._buffer.feed(data)
            self.advance()

    def settle(self) -> None:
        """Be watched for what is waited for."""
        wait = self.wait
        if wait is Wait.GONE:
            return
        events = WRITE if wait is Wait.ROOM else NOTHING if wait is Wait.THREAD else READ
        if events != self.watched:
            self._owner.watch(self, events)

    def expire(self) -> None:
        """Its deadline has passed; who has taken something since then is only slow."""
        if self.wait is Wait.ROOM and self._has_taken():
            self.deadline_s = self._owner.now_s + self._owner.site.limits.send_s
            return
        if self.wait is Wait.BODY or (self.wait is Wait.HEAD and self._buffer.data):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.close()
        self.settle()

    def close(self) -> None:
        """Close it; a reply that was being sent is cut off, and logged as such."""
        if self.wait is Wait.GONE:
            return
        self._log_reply()
        self.wait = Wait.GONE
        self._end_upload()
        self._transfer = self._reply = self._handler = None
        self._owner.forget(self)
        self.socket.close()

    # A request

    def advance(self) -> None:
        """Answer the requests that have arrived, until one has to be waited for."""
        while self._buffer.data and (self.wait is Wait.HEAD or self.wait is Wait.BODY):
            if self.wait is Wait.BODY:
                if not self._take_body():
                    return
                continue
            try:
                head = self._buffer.next()
            except HeadError as error:
                self._refuse(error.status)
                return
            if head is None:
                return
            handler = self._handler = Handler(self._owner.site, self._owner.files, self.peer)
            self._deal(handler.answer(head))

    def _refuse(self, status: HTTPStatus) -> None:
        handler = self._handler = Handler(self._owner.site, self._owner.files, self.peer)
        self._send(handler.refuse(status))

    def _deal(self, answer: Answer) -> None:
        if isinstance(answer, Reply):
            self._send(answer)
            return
        if isinstance(answer, Upload):
            self._await_body(answer)
            return
        owner = self._owner
        aside = owner.fetching if answer.waits_for is WaitsFor.UPSTREAM else owner.slow
        if not self._run(aside, answer.key, answer.job, lambda r: self._send(answer.then(r))):
            self._send(text_reply(HTTPStatus.SERVICE_UNAVAILABLE, "", ("Retry-After", RETRY_S)))

    def _await_body(self, upload: Upload) -> None:
        assert self._handler is not None  # noqa: S101
        limits, coming = self._owner.site.limits, self._owner.coming
        own = coming.get(self.peer, 0) + upload.length
        if own > limits.peer_bytes or coming.total() + upload.length > limits.bodies_bytes:
            self._handler.close_connection = self._handler.has_unread_input = True
            self._send(text_reply(HTTPStatus.SERVICE_UNAVAILABLE, "", ("Retry-After", RETRY_S)))
            return
        coming[self.peer] = own
        self._upload = upload
        self.wait = Wait.BODY
        self.deadline_s = self._owner.now_s + self._owner.site.limits.read_s
        if "expect" in self._handler.fields and not self._buffer.data:
            with suppress(OSError):  # a client that is gone is noticed by the next read
                self.socket.send(CONTINUE)

    def _end_upload(self) -> None:
        """No body is waited for any more."""
        if self._upload is not None:
            self._owner.coming[self.peer] -= self._upload.length
            self._owner.coming += Counter()  # which drops those that are at 0
            self._upload = None

    def _take_body(self) -> bool:
        upload = self._upload
        if upload is None or len(self._buffer.data) < upload.length:
            return False
        self._end_upload()
        self._deal(upload.then(self._buffer.take(upload.length)))
        return True

    def _run(
        self, aside: Aside, key: Hashable, job: Callable[[], object], then: Callable[[Any], None]
    ) -> bool:
        """Have a thread do `job`, then go on with `then`; False: too many wait for that already."""

        def go_on(result: object) -> None:
            if self.wait is not Wait.THREAD:
                return  # it was closed meanwhile
            try:
                then(result)
                self.advance()
                self.settle()
            except Exception:
                log.exception("the conversation with %s failed", self.peer)
                self.close()

        if not aside.submit(key, job, go_on):
            return False
        self.wait = Wait.THREAD
        return True

    # A reply

    def _send(self, reply: Reply) -> None:
        """Begin a reply; a small one is one write with its header."""
        handler, owner = self._handler, self._owner
        assert handler is not None  # noqa: S101 (a reply is to a request)
        if owner.lets_go:
            handler.close_connection = True
        block = reply.head + owner.date + self._kept(handler)
        self._reply, self._head_bytes = reply, len(block)
        body = () if handler.command == "HEAD" else reply.body
        if len(body) == 1 and isinstance(body[0], bytes):
            block, body = block + body[0], ()
        self._transfer = Transfer((block, *body), reply.file)
        self.wait = Wait.ROOM
        self.deadline_s = owner.now_s + owner.site.limits.send_s
        self._push()

    def _kept(self, handler: Handler) -> bytes:
        if handler.close_connection:
            return b"Connection: close\r\n\r\n"
        if handler.request_version == "HTTP/1.0":
            return b"Connection: keep-alive\r\n\r\n"
        return b"\r\n"

    def _push(self) -> None:
        """Send what goes at once; when all is sent, wait for the next request or close."""
        transfer = self._transfer
        assert transfer is not None  # noqa: S101
        before = transfer.sent_bytes
        try:
            progress = transfer.push(self.socket)
        except OSError as error:
            if error.errno in LEFT:
                self._vanished(error)
            else:
                self._break_off(error)
            return
        if transfer.sent_bytes > before:
            self.deadline_s = self._owner.now_s + self._owner.site.limits.send_s
        match progress:
            case Progress.FULL:
                self._has_taken()
            case Progress.DONE:
                self._finish()
            case Progress.BROKEN:
                log.error("%s shrank while it was sent", self._handler and self._handler.path)
                self.close()
            case Progress.COLD:
                if not self._run(self._owner.disk, self, transfer.fetch_window, self._read_on):
                    self.close()  # the disk hangs, and half a reply cannot become another

    def _has_taken(self) -> bool:
        """Look whether the client has taken anything of what the kernel holds, since the last look.

        The poll says so when a third of that has gone, which of 4 MiB takes 70 s at 20 kB/s.
        """
        before = self._untaken_bytes
        held = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, tcp(7)
        self._untaken_bytes = int.from_bytes(held, sys.byteorder)
        return self._untaken_bytes < before

    def _read_on(self, result: object) -> None:
        """Go on with a file after the disk was read."""
        if isinstance(result, Exception):
            self._break_off(result)
            return
        self.wait = Wait.ROOM
        self._push()

    def _break_off(self, error: Exception) -> None:
        """End a reply of which the rest cannot be had: the disk, not the client, is at fault."""
        path = self._handler and self._handler.url_path
        log.error("%s cannot be read any further: %s", path, error)
        self.close()

    def _finish(self) -> None:
        handler = self._handler
        assert handler is not None  # noqa: S101
        self._log_reply()
        self._transfer = self._reply = self._handler = None
        if not handler.close_connection:
            self.wait = Wait.HEAD
            self.deadline_s = self._owner.now_s + self._owner.site.limits.read_s
        elif handler.has_unread_input:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        """Take what the client still sends, for a moment.

        To close with unread input is to send a reset, which can overtake the reply.
        """
        self.wait = Wait.END
        self.deadline_s = self._owner.now_s + LINGER_S
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._vanished(error)

    def _vanished(self, error: OSError) -> None:
        log.debug("%s went away: %s", self.peer, error)
        self.close()

    def _log_reply(self) -> None:
        if (access := self._owner.access) is None:
            return
        handler, reply, transfer = self._handler, self._reply, self._transfer
        if handler is None or reply is None or transfer is None:
            return
        access.add(
            access_line(
                peer=self.peer,
                epoch_s=time.time(),
                request=handler.requestline,
                status=reply.status.value,
                sent_bytes=max(0, transfer.sent_bytes - self._head_bytes),
                referer=handler.fields.get("referer", "-"),
                agent=handler.fields.get("user-agent", "-"),
            )
        )
