"""The event loop of one server process: every connection of it, in one thread.

Bounded in all it holds: connections (when there are too many, the idle ones are let go, and new
ones wait in the kernel for room, or for another process), the size of a head, and the time of each
wait. Several processes accept from one listening socket.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections import Counter
from email.utils import formatdate
from enum import Enum

from binhost.access import AccessLog
from binhost.aside import Aside, Wake
from binhost.connection import NOTHING, Connection, Wait
from binhost.openfiles import OpenFiles
from binhost.site import Site

log = logging.getLogger(__name__)

MOST_EVENTS = 256
ACCEPT_PAUSE_S = 0.5
TICK_S = 1.0
IDLE_FILES_S = 10.0
DISK_THREADS = 4
# A client that has been silent for so long may be let go when there is no room for others.
IDLE_S = 1.0
# New clients in a round: one, so that processes share them, and one more for so many events, so
# that they do not wait long where each round sends a lot.
ACCEPT_SHARE = 8
EXPIRED = 0  # no event of the poll: a deadline has passed


class Ending(Enum):
    """Whether and how a loop ends."""

    NOT = "it goes on"
    DRAIN = "others take new clients; every client here still gets its next answer"
    STOP = "running transfers are finished, idle clients let go"
    CUT = "at once"


class Loop:
    """Serves `site` to the clients of `listener`, a listening socket, until it is told to end."""

    def __init__(self, listener: socket.socket, site: Site) -> None:
        limits = site.limits
        self.site = site
        self.files = OpenFiles(site.roots)
        self.access = AccessLog(site.access_log) if site.access_log else None
        self.now_s = time.monotonic()
        self._wake = Wake()
        self.slow = Aside(
            self._wake, threads=limits.threads, waiting=limits.waiting, name="http-slow"
        )
        self.fetching = Aside(
            self._wake, threads=limits.threads, waiting=limits.waiting, name="http-fetching"
        )
        self.disk = Aside(
            self._wake, threads=DISK_THREADS, waiting=limits.connections, name="http-disk"
        )
        self._listener = listener
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._accepting = False
        self._paused_until_s = 0.0
        self._tick_s = min(TICK_S, limits.read_s / 4, limits.send_s / 4)
        self._swept_s = self._dropped_s = self.now_s
        self._date_s = 0
        self.date = b""
        self.lets_go = False
        self.coming: Counter[str] = Counter()
        self._ending = Ending.NOT
        self._end_s = float("inf")
        self._reopen = False
        self._guard = threading.Lock()

    # From other threads

    def end(self, how: Ending, within_s: float = float("inf")) -> None:
        """Take no more clients, and return from `run` when `how` allows; cut after `within_s`."""
        with self._guard:
            self._ending = how
            self._end_s = time.monotonic() + within_s
        self._wake.now()

    def reopen_log(self) -> None:
        """Go on in a new access log, after the old one was renamed."""
        self._reopen = True
        self._wake.now()

    # What a connection needs (connection.Owner)

    def watch(self, connection: Connection, events: int) -> None:
        """Register for `events`; a socket that waits for nothing is taken out.

        Left in, it would report a client that hung up again and again.
        """
        handle = connection.socket.fileno()
        if events == NOTHING:
            self._poll.unregister(handle)
        elif connection.watched == NOTHING:
            self._poll.register(handle, events)
        else:
            self._poll.modify(handle, events)
        connection.watched = events

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is being closed, which also takes it out of the poll."""
        self._connections.pop(connection.socket.fileno(), None)

    # The loop

    def run(self) -> None:
        """Serve until `end`."""
        self._poll.register(self._wake.handle, select.EPOLLIN)
        try:
            while not self._has_ended():
                self._round()
        finally:
            self._close()

    def _round(self) -> None:
        self._set_accepting()
        events = self._poll.poll(self._tick_s, MOST_EVENTS)
        self._look_around()
        for handle, what in events:
            if (connection := self._connections.get(handle)) is not None:
                self._attend(connection, what)
            elif handle == self._wake.handle:
                self._woken()
            elif handle == self._listener.fileno():
                self._accept(1 + len(events) // ACCEPT_SHARE)
        if self.now_s - self._swept_s >= self._tick_s:
            self._sweep()
        if self.access is not None:
            self.access.flush()

    def _look_around(self) -> None:
        """Note what counts for all connections in this round."""
        self.now_s = time.monotonic()
        self.lets_go = self._ending is not Ending.NOT or self._is_full()
        now = int(time.time())
        if now != self._date_s:
            self._date_s = now
            date = formatdate(now, usegmt=True)
            self.date = f"Server: headnode\r\nDate: {date}\r\n".encode()

    def _attend(self, connection: Connection, events: int) -> None:
        try:
            if events == EXPIRED:
                connection.expire()
            else:
                connection.happened()
        except Exception:
            log.exception("the conversation with %s failed", connection.peer)
            connection.close()
        if self._ending is Ending.STOP and connection.wait is Wait.HEAD:
            connection.close()

    def _woken(self) -> None:
        self._wake.clear()
        self.slow.deliver()
        self.fetching.deliver()
        self.disk.deliver()
        if self._reopen and self.access is not None:
            self._reopen = False
            self.access.reopen()
        if self._ending is Ending.STOP:
            self._let_idle_go()

    def _has_ended(self) -> bool:
        if self._ending is Ending.NOT:
            return False
        return (
            self._ending is Ending.CUT or not self._connections or time.monotonic() >= self._end_s
        )

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()
        self.slow.close()
        self.fetching.close()
        self.disk.close()
        self._poll.close()
        self._wake.close()
        self._listener.close()
        if self.access is not None:
            self.access.close()

    # Clients that come and go

    def _is_full(self) -> bool:
        return len(self._connections) >= self.site.limits.connections

    def _set_accepting(self) -> None:
        """Listen, or do not: while ending, when full of busy clients, or short of file handles."""
        wanted = (
            self._ending is Ending.NOT
            and not self._is_full()
            and self.now_s >= self._paused_until_s
        )
        if wanted and not self._accepting:
            self._poll.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        elif self._accepting and not wanted:
            self._poll.unregister(self._listener)
        self._accepting = wanted

    def _accept(self, most: int) -> None:
        """Take so many new clients, if there are any and there is room."""
        for _ in range(most):
            if self._is_full():
                return
            try:
                client, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return  # another process was faster, or the client has gone
            except OSError as error:
                log.warning("cannot accept clients just now: %s", error)
                self._paused_until_s = self.now_s + ACCEPT_PAUSE_S
                return
            self._begin(client, str(address[0]).removeprefix("::ffff:"))

    def _begin(self, client: socket.socket, peer: str) -> None:
        client.setblocking(False)
        connection = Connection(client, peer, self)
        self._connections[client.fileno()] = connection
        self.lets_go = self.lets_go or self._is_full()
        self._attend(connection, select.EPOLLIN)  # its request is often there already

    def _make_room(self) -> None:
        """Let the clients go that have sent nothing for a while."""
        since = self.now_s + self.site.limits.read_s - IDLE_S
        for connection in list(self._connections.values()):
            if connection.wait is Wait.HEAD and connection.deadline_s <= since:
                connection.close()

    def _let_idle_go(self) -> None:
        """Close what waits for a request, once what has already arrived is answered."""
        for connection in list(self._connections.values()):
            if connection.wait is Wait.HEAD:
                self._attend(connection, select.EPOLLIN)

    def _sweep(self) -> None:
        self._swept_s = now = self.now_s
        for connection in list(self._connections.values()):
            if now >= connection.deadline_s and connection.wait is not Wait.THREAD:
                self._attend(connection, EXPIRED)
        if self._is_full():
            self._make_room()
        if self._accepting:
            # The kernel wakes one process for a new client; one that is killed just then, or stops
            # accepting, leaves it to nobody until the next client comes.
            self._accept(1)
        if now - self._dropped_s >= IDLE_FILES_S:
            self._dropped_s = now
            self.files.drop_idle()
