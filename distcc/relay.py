"""The builder's way to its helpers, and to nothing else.

The builder is a node with a network of its own in which nothing is but the loopback. For each
helper an address of the loopback is listened on there; what connects is passed on to that helper's
distccd from outside, by this process. So packages under construction reach distccd on the helpers,
and neither the helpers' other ports nor anything else: there is no route, no address translation
and no firewall rule that could be wrong, and the headnode's own network stays as it is::

    builder                         headnode                        helper
    127.64.0.1:3632  <-- accept --  relay  -- connect -->  blade01:3632
    127.64.0.2:3632  <-- accept --  relay  -- connect -->  blade02:3632

A helper that cannot be reached is a connection that is reset: distcc then takes another helper.
Source: setns(2), network_namespaces(7): a socket stays in the network that it was made in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from headnode.errors import NodeError
from headnode.node.running import Node

FIRST = IPv4Address("127.64.0.1")
CLONE_NEWNET = 0x40000000
CONNECT_S = 4.0  # distcc's own limit for a helper
CHUNK = 1 << 18
BACKLOG = 128
START_S = 30.0
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SETTLE_S = 0.01
LINGER_NOT = struct.pack("ii", 1, 0)  # struct linger, socket(7)


def addresses(names: Sequence[str]) -> dict[str, IPv4Address]:
    """The address of each helper within the builder. Pure."""
    return {name: FIRST + number for number, name in enumerate(names)}


def hosts_text(known: Mapping[str, IPv4Address]) -> str:
    """The builder's /etc/hosts. Pure."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in known.items())]
    return "\n".join(lines) + "\n"


class Relay:
    """A relay that runs. `troubles` says of a helper why it could not be reached last."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.troubles: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._servers: list[asyncio.Server] = []

    def start(self, listeners: Mapping[str, socket.socket]) -> None:
        """Pass on what connects to each listener to the helper of that name."""
        self._thread.start()
        for name, listener in listeners.items():
            self._servers.append(self._do(self._serve(name, listener)))

    def stop(self) -> None:
        """Cut every connection and close all listeners."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    async def _serve(self, name: str, listener: socket.socket) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.CancelledError):  # Python 3.11 prints a traceback
                await self._pass_on(name, reader, writer)

        return await asyncio.start_server(accepted, sock=listener, backlog=BACKLOG, limit=CHUNK)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        # Again: a connection that was just accepted has its task only in the loop's next turn.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(SETTLE_S)  # what was cut is closed by the loop in its next turns

    async def _pass_on(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            there = await self._reach(name)
            if there is None:
                # Closed with a reset, as a port is where nobody listens.
                end = writer.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                return
            try:
                await _both_ways((reader, writer), there)
            finally:
                there[1].transport.abort()
        finally:
            writer.transport.abort()

    async def _reach(self, name: str) -> Stream | None:
        """A connection to a helper; None, with the reason among the troubles, if it has none."""
        try:
            # Not wait_for: in Python 3.11 it drops a cancellation that comes as the connection
            # is made (Python bug 42130), and `stop` waited in vain.
            async with asyncio.timeout(CONNECT_S):
                there = await asyncio.open_connection(name, self.port, limit=CHUNK)
        except OSError as error:  # a time-out is one, too
            self.troubles[name] = _why(error)
            return None
        self.troubles.pop(name, None)
        return there


async def _both_ways(here: Stream, there: Stream) -> None:
    """Pass on until the helper has said all; a client that goes away ends it, too."""
    request = asyncio.create_task(_copy(here[0], there[1]))
    try:
        await _copy(there[0], here[1])
        with contextlib.suppress(OSError):
            here[1].close()
            await here[1].wait_closed()
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(CHUNK):
            target.write(chunk)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def listeners_in(node: Node, at: Mapping[str, IPv4Address], port: int) -> dict[str, socket.socket]:
    """Sockets that listen in the network of a node, one for each name of `at`.

    A thread enters that network, makes them, and ends: no other thread changes its own.

    Raises:
        NodeError: the kernel refuses it.
    """
    made: dict[str, socket.socket] = {}
    errors: list[OSError] = []

    def make() -> None:
        try:
            _enter_network(node.pid)
            for name, address in at.items():
                made[name] = socket.create_server((str(address), port), backlog=BACKLOG)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=make, name="listeners")
    thread.start()
    thread.join()
    if errors:
        for each in made.values():
            each.close()
        raise NodeError(f"No way from {node.name} to the helpers: {errors[0].strerror}.")
    return made


def _enter_network(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as network:  # noqa: PTH123 (no file of a folder)
        if libc.setns(network.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def relayed(node: Node, names: Sequence[str], port: int) -> Iterator[Relay]:
    """A way from `node` to `port` of each of `names`, for the block; it knows them by name.

    Raises:
        NodeError: the kernel refuses it.
    """
    known = addresses(names)
    script = 'printf %s "$1" > /etc/hosts'
    node.run(["sh", "-c", script, "hosts", hosts_text(known)], timeout_s=START_S)
    relay = Relay(port)
    relay.start(listeners_in(node, known, port))
    try:
        yield relay
    finally:
        relay.stop()
