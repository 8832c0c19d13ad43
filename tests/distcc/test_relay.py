"""The builder's way to its helpers, with a real node and real sockets."""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distcc.relay import Relay, Stream, _why, addresses, hosts_text, relayed
from headnode.node.running import Node, start
from headnode.node.spec import NodeSpec
from tests.ports import free_port

pytestmark = pytest.mark.lab

LARGE = 3_000_000
# A client within the node: what it says and hears goes over the helper's name.
ASK = """
import socket, sys
name, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    with socket.create_connection((name, port), 10) as there:
        there.settimeout(20)
        there.sendall(b"x" * size)
        heard = 0
        while chunk := there.recv(65536):
            heard += len(chunk)
    print("heard", heard)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    store = tmp_path_factory.mktemp("node")
    up = start(NodeSpec(name="builder", store=store, lower=Path("/"), throwaway=True))
    yield up
    up.stop()


@pytest.fixture
def echo() -> Iterator[int]:
    """A server of this machine that says back what it hears; its port, on 127.0.0.1."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with client:
            left = LARGE
            while left and (chunk := client.recv(65536)):
                client.sendall(chunk)
                left -= len(chunk)

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def ask(node: Node, name: str, port: int, size: int) -> str:
    argv = ["/usr/bin/python3", "-c", ASK, name, str(port), str(size)]
    return node.run(argv, timeout_s=60).output.strip()


def test_each_helper_has_an_address_of_the_loopback() -> None:
    known = addresses(["blade01", "blade02"])
    assert hosts_text(known) == ("127.0.0.1 localhost\n127.64.0.1 blade01\n127.64.0.2 blade02\n")


def test_what_is_said_to_a_helper_reaches_it_whole_and_so_does_the_answer(
    node: Node, echo: int
) -> None:
    with relayed(node, ["127.0.0.1"], echo) as relay:
        assert ask(node, "127.64.0.1", echo, LARGE) == f"heard {LARGE}"
        assert relay.troubles == {}


def test_a_helper_that_is_down_is_a_reset_connection_and_the_reason_is_kept(node: Node) -> None:
    port = free_port()
    with relayed(node, ["127.0.0.1"], port) as relay:
        assert ask(node, "127.64.0.1", port, 9) == "ConnectionResetError"
        assert relay.troubles == {"127.0.0.1": "connection refused"}


def test_a_name_that_nobody_knows_and_a_silent_machine_are_said_as_such() -> None:
    assert _why(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) == (
        "its name is not known"
    )
    assert _why(TimeoutError()) == "no connection within 4 s"


def test_a_silent_machine_is_waited_for_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distcc.relay.CONNECT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0), backlog=0)
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Relay(silent.getsockname()[1])
    with silent, socket.create_connection(silent.getsockname(), 10):  # its queue is full now
        relay.start({"127.0.0.1": listener})
        with socket.create_connection(listener.getsockname(), 10) as client:
            client.settimeout(20)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        relay.stop()
    assert relay.troubles == {"127.0.0.1": "no connection within 0.3 s"}


def test_the_builder_reaches_nothing_but_the_helpers_port(node: Node, echo: int) -> None:
    with relayed(node, ["127.0.0.1"], echo):
        assert ask(node, "127.64.0.1", echo + 1, 9) == "ConnectionRefusedError"
        assert ask(node, "10.1.2.3", echo, 9) == "OSError"  # no route
        links = node.run(["ip", "-o", "link"], timeout_s=10).output.splitlines()
        assert [line.split(": ")[1] for line in links] == ["lo"]


def test_after_the_block_the_way_is_closed_and_connections_are_cut(
    node: Node, echo: int, caplog: pytest.LogCaptureFixture
) -> None:
    with relayed(node, ["127.0.0.1"], echo):
        script = f"exec 3<>/dev/tcp/127.64.0.1/{echo}; echo open; cat <&3; echo cut"
        waiting = subprocess.Popen(
            node.argv(["bash", "-c", script]), stdout=subprocess.PIPE, text=True
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "open\n"
    assert "cut" in waiting.communicate(timeout=30)[0]
    assert caplog.records == []  # asyncio's, of a task that was cancelled
    assert ask(node, "127.64.0.1", echo, 9) == "ConnectionRefusedError"


def test_it_stops_at_once_when_a_helper_answers_that_very_moment(
    echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = threading.Event()
    connect = asyncio.open_connection

    async def slowly(*args: Any, **options: Any) -> Stream:
        there = await connect(*args, **options)
        reached.set()
        time.sleep(0.3)
        return there

    monkeypatch.setattr("asyncio.open_connection", slowly)
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Relay(echo)
    relay.start({"127.0.0.1": listener})
    with socket.create_connection(listener.getsockname(), 10) as client:
        client.settimeout(20)
        assert reached.wait(20)
        relay.stop()
        assert client.recv(1) == b""


class SlowListener(socket.socket):
    """One that `stands` a moment with the first connection that it has accepted."""

    stands: threading.Event

    def accept(self) -> tuple[socket.socket, Any]:
        accepted = super().accept()
        self.stands.set()
        time.sleep(0.3)
        return accepted


def test_a_connection_that_is_accepted_as_it_stops_is_cut_on_both_sides() -> None:
    helper = socket.create_server(("127.0.0.1", 0))  # says nothing, and does not hang up
    listener = SlowListener()
    listener.stands = threading.Event()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    files = len(list(Path("/proc/self/fd").iterdir()))
    relay = Relay(helper.getsockname()[1])
    relay.start({"127.0.0.1": listener})
    with helper, socket.create_connection(listener.getsockname(), 10) as client:
        client.settimeout(20)
        assert listener.stands.wait(20)
        relay.stop()
        assert client.recv(1) == b""
    assert len(list(Path("/proc/self/fd").iterdir())) == files - 2  # helper's and listener's


def test_this_process_stays_in_its_own_network(node: Node, echo: int) -> None:
    before = Path("/proc/self/ns/net").readlink()
    with relayed(node, ["127.0.0.1"], echo):
        assert Path("/proc/self/ns/net").readlink() == before
        assert {link.readlink() for link in Path("/proc/self/task").glob("*/ns/net")} == {before}
