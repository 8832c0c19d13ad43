"""The HTTP server that blades fetch from, in a thread of this process: index, packages, distfiles.

The event loop is in `loop`, a connection in `connection`; what is served is in `routes` and `site`,
how it is opened in `beneath` and `openfiles`, a request in `handler`, what is answered in
`replies`, and how that is sent in `sending`. `headnode.workers` runs several processes of it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from binhost.loop import Ending, Loop
from binhost.routes import Roots
from binhost.site import Limits, Site
from headnode.errors import EnvironmentLacksError

log = logging.getLogger(__name__)

BACKLOG = 4096


class Server:
    """Serves `site` on `listener` (see `open_listener`), which is closed at the end."""

    def __init__(self, listener: socket.socket, site: Site) -> None:
        self._site = site
        self._loop = Loop(listener, site)
        self._thread = threading.Thread(target=self._loop.run, name="http-loop", daemon=True)
        self.address: tuple[str, int] = listener.getsockname()[:2]

    @property
    def url(self) -> str:
        """The server's root as a client on the listening address writes it, without the slash."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Accept clients, in a thread of our own. Once started, does nothing."""
        if self._thread.ident is not None:
            return
        self._thread.start()
        log.info("serving %s on %s", self._site.roots.state, self.url)

    def stop(self) -> None:
        """Take no more clients, finish the replies that are being sent, close.

        What is not sent within `Limits.stop_s` is cut off.
        """
        if self._thread.ident is not None:
            self._loop.end(Ending.STOP, self._site.limits.stop_s)
            self._thread.join()

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


def serve(listen: str, port: int, state: Path, *, limits: Limits | None = None) -> Server:
    """Serve the state folder `state` on address `listen` and `port` (0: any free one).

    `listen` is an address or a host name; `::` means every address, IPv4 too.

    Raises:
        EnvironmentLacksError: the port is taken, not allowed, or the address not this machine's.
    """
    site = Site(roots=Roots(state=state.absolute()), limits=limits or Limits())
    server = Server(open_listener(listen, port), site)
    server.start()
    return server


def open_listener(listen: str, port: int) -> socket.socket:
    """Bind and listen, for any number of loops; see `serve`.

    TCP_NODELAY is inherited by every connection. Without it a small file waits 40 ms for the
    client's delayed acknowledgement.
    """
    try:
        family = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server(
            (listen, port), family=family, backlog=BACKLOG, dualstack_ipv6=listen == "::"
        )
    except socket.gaierror as error:
        raise _cannot_listen(listen, port, str(error.strerror)) from error
    except OSError as error:
        # By number: create_server() adds the address to the text of its error.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise _cannot_listen(listen, port, reason) from error
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _cannot_listen(listen: str, port: int, reason: str) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"The HTTP server cannot listen on {listen}, port {port}.",
        [reason],
        remedy="Stop what holds the port, or configure another address or port:",
    )
