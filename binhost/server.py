"""The HTTP server that blades fetch from: the index, packages, distfiles and images, read only.

A fixed number of threads accept from one socket, and each keeps its connection to the end; while
all are busy, further clients wait in the kernel's queue. What is served is in `routes`, how it is
opened in `beneath`, what is answered in `replies`, and a conversation in `handler`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from binhost.handler import Handler, Limits, Site
from binhost.routes import Roots
from headnode.errors import EnvironmentLacksError

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPT_PAUSE_S = 0.5


class Server:
    """Serves `roots` on `listener`, a listening socket, which is closed at the end.

    The caller makes the socket, so that several processes can each bring their own to one port.
    """

    def __init__(self, listener: socket.socket, roots: Roots, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits
        self._site = Site(roots=roots, limits=limits, lets_go=self._lets_go)
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.address: tuple[str, int] = listener.getsockname()[:2]

    @property
    def url(self) -> str:
        """The server's root as a client on the listening address writes it, without the slash."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Accept clients, in threads of our own. Once started, does nothing."""
        if self._threads:
            return
        self._threads = [
            threading.Thread(target=self._accept, name=f"http-{number}", daemon=True)
            for number in range(self._limits.connections)
        ]
        for thread in self._threads:
            thread.start()
        log.info("serving %s on %s", self._site.roots.state, self.url)

    def stop(self) -> None:
        """Take no more clients, finish the replies that are being sent, close.

        What is not sent within `Limits.stop_s` is cut off.
        """
        with self._guard:
            self._stopping.set()
            self._end_connections(socket.SHUT_RD)
        with suppress(OSError):  # shut already, by an earlier stop
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the threads in accept(2)
        self._join(self._limits.stop_s)
        with self._guard:
            self._end_connections(socket.SHUT_RDWR)
        self._join(1.0)
        self._listener.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _lets_go(self) -> bool:
        return self._stopping.is_set() or len(self._connections) >= self._limits.connections

    def _end_connections(self, how: int) -> None:
        """SHUT_RD: requests that have arrived are still answered, then there are no more."""
        for connection in self._connections:
            with suppress(OSError):  # the client was faster
                connection.shutdown(how)

    def _join(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if not self._stopping.is_set():
                    log.warning("cannot accept clients just now: %s", error)
                self._stopping.wait(ACCEPT_PAUSE_S)
                continue
            with connection:
                self._attend(connection, str(address[0]).removeprefix("::ffff:"))

    def _attend(self, connection: socket.socket, peer: str) -> None:
        with self._guard:
            if self._stopping.is_set():
                return
            self._connections.add(connection)
        try:
            Handler(connection, peer, self._site).converse()
        except (ConnectionError, BlockingIOError) as error:
            log.debug("%s went away: %s", peer, error)
        except Exception:
            log.exception("the conversation with %s failed", peer)
        finally:
            with self._guard:
                self._connections.discard(connection)


def serve(listen: str, port: int, state: Path, *, limits: Limits | None = None) -> Server:
    """Serve the state folder `state` on address `listen` and `port` (0: any free one).

    `listen` is an address or a host name; `::` means every address, IPv4 too.

    Raises:
        EnvironmentLacksError: the port is taken, not allowed, or the address not this machine's.
    """
    listener = open_listener(listen, port)
    server = Server(listener, Roots(state=state.absolute()), limits or Limits())
    server.start()
    return server


def open_listener(listen: str, port: int) -> socket.socket:
    """Bind and listen; see `serve`."""
    try:
        family = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(
            (listen, port), family=family, backlog=BACKLOG, dualstack_ipv6=listen == "::"
        )
    except socket.gaierror as error:
        raise _cannot_listen(listen, port, str(error.strerror)) from error
    except OSError as error:
        # By number: create_server() adds the address to the text of its error.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise _cannot_listen(listen, port, reason) from error


def _cannot_listen(listen: str, port: int, reason: str) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"The HTTP server cannot listen on {listen}, port {port}.",
        [reason],
        remedy="Stop what holds the port, or configure another address or port:",
    )
