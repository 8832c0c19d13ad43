"""Ports for the servers of tests and benchmarks."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below those that Linux gives to clients' ends of connections (ip(7), ip_local_port_range): one of
# them may be taken between the moment when it was found free and the server's start.
FIRST, LAST = 20_000, 32_000


def free_port() -> int:
    """A TCP port that nobody listens on."""
    while True:
        port = random.randrange(FIRST, LAST)  # noqa: S311 (no secret)
        with suppress(OSError), socket.create_server(("", port)):
            return port
