"""Answers that take longer: functions for URLs, and distfiles that are fetched when asked for."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from binhost.replies import Reply, data_reply, text_reply
from binhost.routes import Roots
from binhost.server import Server, open_listener
from binhost.site import Limits, Request, Route, Site
from headnode.files import write_atomic

PATIENCE_S = 20.0
URL = "/distfiles/a0/late.tar.xz"


def server(state: Path, limits: Limits | None = None, **parts: object) -> Server:
    roots = Roots(state=state)
    site = Site(roots=roots, limits=limits or Limits(), **parts)  # type: ignore[arg-type]
    return Server(open_listener("127.0.0.1", 0), site)


def ask(
    running: Server, path: str, method: str = "GET", body: bytes | None = None, **fields: str
) -> tuple[int, bytes]:
    client = http.client.HTTPConnection(*running.address, timeout=PATIENCE_S)
    client.request(method, path, body, {k.replace("_", "-"): v for k, v in fields.items()})
    response = client.getresponse()
    answer = response.status, response.read()
    client.close()
    return answer


def together(count: int, task: Callable[[], object]) -> list[object]:
    """What `task` returns in each of so many threads at once."""
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(task()), daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return results


# Distfiles that are not there yet


def test_a_missing_distfile_is_fetched_and_then_served(tmp_path: Path) -> None:
    asked: list[Path] = []

    def fetch(file: Path) -> bool:
        asked.append(file)
        write_atomic(file, b"from upstream")
        return True

    with server(tmp_path, fetch_missing=fetch) as running:
        assert ask(running, URL) == (200, b"from upstream")
        assert ask(running, URL) == (200, b"from upstream")
    assert asked == [tmp_path / "mirror/distfiles/a0/late.tar.xz"]


def test_conditions_and_ranges_hold_for_a_fetched_file_too(tmp_path: Path) -> None:
    def fetch(file: Path) -> bool:
        write_atomic(file, b"from upstream")
        return True

    with server(tmp_path, fetch_missing=fetch) as running:
        assert ask(running, URL, Range="bytes=5-") == (206, b"upstream")


def test_others_are_answered_while_a_distfile_is_fetched(tmp_path: Path) -> None:
    go_on = threading.Event()
    write_atomic(tmp_path / "mirror/distfiles/there", b"there")
    answers: list[tuple[int, bytes]] = []

    def fetch(file: Path) -> bool:
        assert go_on.wait(PATIENCE_S)
        write_atomic(file, b"late")
        return True

    with server(tmp_path, fetch_missing=fetch) as running:
        slow = threading.Thread(target=lambda: answers.append(ask(running, URL)))
        slow.start()
        for _ in range(20):
            assert ask(running, "/distfiles/there") == (200, b"there")
        assert answers == []
        go_on.set()
        slow.join(PATIENCE_S)
    assert answers == [(200, b"late")]


def test_58_blades_that_want_one_missing_file_cause_one_fetch(tmp_path: Path) -> None:
    asked: list[Path] = []
    go_on = threading.Event()
    runs: list[Server] = []

    def fetch(file: Path) -> bool:
        asked.append(file)
        assert go_on.wait(PATIENCE_S)
        write_atomic(file, b"late")
        return True

    with server(tmp_path, fetch_missing=fetch) as running:
        runs.append(running)
        threading.Timer(0.5, go_on.set).start()
        assert together(58, lambda: ask(running, URL)) == [(200, b"late")] * 58
    assert len(asked) == 1


@pytest.mark.parametrize("path", ["/distfiles/x", "/distfiles/a/b"])
def test_a_distfile_that_is_nowhere_is_a_404(tmp_path: Path, path: str) -> None:
    with server(tmp_path, fetch_missing=lambda file: False) as running:
        assert ask(running, path) == (404, b"404 Not Found\n")


def test_a_failed_fetch_is_a_502_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(file: Path) -> bool:
        raise OSError("upstream is down")

    with server(tmp_path, fetch_missing=fetch) as running:
        assert ask(running, URL) == (502, b"502 Bad Gateway\n")
    assert caplog.messages == [f"{URL} could not be fetched: upstream is down"]


def test_only_a_get_of_a_distfile_is_fetched(tmp_path: Path) -> None:
    def fetch(file: Path) -> bool:
        raise AssertionError(f"{file} was not to be fetched")

    with server(tmp_path, fetch_missing=fetch) as running:
        assert ask(running, URL, "HEAD") == (404, b"")
        for path in ("/binhost/blade/pool/x", "/distfiles/../x", "/distfiles/.x", "/distfiles/"):
            assert ask(running, path) == (404, b"404 Not Found\n")


def test_a_client_that_leaves_during_a_fetch_is_no_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def fetch(file: Path) -> bool:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        write_atomic(file, b"late")
        return True

    with server(tmp_path, fetch_missing=fetch) as running:
        with socket.create_connection(running.address) as client:
            client.sendall(f"GET {URL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert begun.wait(PATIENCE_S)
        go_on.set()
        assert ask(running, URL) == (200, b"late")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_more_slow_requests_than_may_wait_are_told_to_come_back(tmp_path: Path) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def fetch(file: Path) -> bool:
        begun.set()
        return not go_on.wait(PATIENCE_S)

    with server(tmp_path, Limits(threads=1, waiting=1), fetch_missing=fetch) as running:
        clients = [socket.create_connection(running.address) for _ in range(2)]
        for number, client in enumerate(clients):
            client.sendall(f"GET /distfiles/{number} HTTP/1.0\r\n\r\n".encode())
        assert begun.wait(PATIENCE_S)
        assert ask(running, "/healthz") == (200, b"ok\n")
        assert ask(running, "/distfiles/third") == (503, b"503 Service Unavailable\n")
        go_on.set()
        for client in clients:
            with client:
                assert client.recv(100).startswith(b"HTTP/1.1 404 ")


def test_distfiles_that_are_being_fetched_keep_out_nobody_else(tmp_path: Path) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def fetch(file: Path) -> bool:
        begun.set()
        return not go_on.wait(2 * PATIENCE_S)

    routes = {"/status": Route(answer=lambda request: text_reply(HTTPStatus.OK, "all is well\n"))}
    with (
        server(tmp_path, Limits(threads=1), fetch_missing=fetch, routes=routes) as running,
        socket.create_connection(running.address) as client,
    ):
        client.sendall(f"GET {URL} HTTP/1.0\r\n\r\n".encode())
        assert begun.wait(PATIENCE_S)
        assert ask(running, "/status") == (200, b"all is well\n")
        go_on.set()
        assert client.recv(100).startswith(b"HTTP/1.1 404 ")


# Functions that answer


def echo(request: Request) -> Reply:
    said = f"{request.method} {request.path} {request.parameters} {request.body!r}"
    return text_reply(HTTPStatus.OK, said)


def test_a_route_is_given_the_request_and_its_reply_is_sent(tmp_path: Path) -> None:
    routes = {
        "/api/v1/": Route(answer=echo),
        "/api/v1/json": Route(
            answer=lambda _: data_reply(HTTPStatus.OK, b"{}", "application/json")
        ),
    }
    with server(tmp_path, routes=routes) as running:
        assert ask(running, "/api/v1/a/b?c=d%20e") == (200, b"GET /api/v1/a/b {'c': 'd e'} b''")
        assert ask(running, "/api/v1/json") == (200, b"{}")
        assert ask(running, "/api/v1/json", "HEAD") == (200, b"")
        assert ask(running, "/api/v1") == (404, b"404 Not Found\n")
        assert ask(running, "/api/v1/a", "POST") == (405, b"405 Method Not Allowed\n")


@pytest.mark.parametrize("size", [0, 1, 20_000, 200_000])
def test_a_body_within_the_limit_is_whole_before_the_route_is_called(
    tmp_path: Path, size: int
) -> None:
    route = Route(
        answer=lambda request: data_reply(HTTPStatus.CREATED, request.body[::-1], "x/y"),
        methods=("POST",),
        body_bytes=200_000,
    )
    body = bytes(range(250)) * (size // 250) + b"1" * (size % 250)
    with server(tmp_path, routes={"/report": route}) as running:
        assert ask(running, "/report", "POST", body) == (201, body[::-1])


def test_a_client_that_waits_for_continue_is_told_to_go_on(tmp_path: Path) -> None:
    route = Route(answer=echo, methods=("POST",), body_bytes=100)
    head = b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with (
        server(tmp_path, routes={"/report": route}) as running,
        socket.create_connection(running.address, timeout=PATIENCE_S) as client,
    ):
        client.sendall(head)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert b"POST /report {} b'body'" in client.recv(1000)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Content-Length: 101", 413),
        ("Content-Length: -1", 400),
        ("Content-Length: " + "9" * 5000, 400),
        ("Content-Length: 1, 2", 400),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_a_body_that_may_not_be_is_refused_unread(tmp_path: Path, fields: str, status: int) -> None:
    route = Route(answer=echo, methods=("POST",), body_bytes=100)
    with (
        server(tmp_path, routes={"/report": route}) as running,
        socket.create_connection(running.address, timeout=PATIENCE_S) as client,
    ):
        client.sendall(f"POST /report HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\nrest".encode())
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1") == 1


def test_half_a_body_is_a_408(tmp_path: Path) -> None:
    route = Route(answer=echo, methods=("POST",), body_bytes=100)
    with (
        server(tmp_path, Limits(read_s=0.2), routes={"/report": route}) as running,
        socket.create_connection(running.address, timeout=PATIENCE_S) as client,
    ):
        client.sendall(b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.parametrize("limit", ["bodies_bytes", "peer_bytes"])
def test_bodies_that_never_come_cannot_fill_the_memory(tmp_path: Path, limit: str) -> None:
    route = Route(answer=echo, methods=("POST",), body_bytes=100)
    head = b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with server(tmp_path, Limits(**{limit: 150}), routes={"/report": route}) as running:
        with socket.create_connection(running.address, timeout=PATIENCE_S) as stranger:
            stranger.sendall(head + b"x" * 99)
            time.sleep(0.1)
            with socket.create_connection(running.address, timeout=PATIENCE_S) as other:
                other.sendall(head + b"x" * 100)
                said = b"".join(iter(lambda: other.recv(1000), b""))
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: " in said
            stranger.sendall(b"x")
            assert stranger.recv(1000).startswith(b"HTTP/1.1 200 ")
            stranger.sendall(head)
        deadline = time.monotonic() + PATIENCE_S
        while ask(running, "/report", "POST", b"y" * 100)[0] != 200:  # until it is seen to be gone
            assert time.monotonic() < deadline


def test_a_route_that_fails_is_a_500_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Request) -> Reply:
        raise KeyError("blade99")

    with server(tmp_path, routes={"/api": Route(answer=broken)}) as running:
        assert ask(running, "/api") == (500, b"500 Internal Server Error\n")
        assert ask(running, "/healthz") == (200, b"ok\n")
    assert caplog.messages == ["GET /api failed: KeyError('blade99')"]


def test_a_reply_that_cannot_be_decided_ends_that_conversation_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Reply:
        raise RuntimeError("a mistake of ours")

    with server(tmp_path, fetch_missing=lambda file: False) as running:
        with monkeypatch.context() as patched:
            patched.setattr("binhost.handler.Handler._fetched", broken)
            with pytest.raises(http.client.RemoteDisconnected):
                ask(running, URL)
        assert ask(running, URL) == (404, b"404 Not Found\n")
    assert caplog.messages == ["the conversation with 127.0.0.1 failed"]


def test_a_route_for_the_front_page_is_that_page_only(tmp_path: Path) -> None:
    front = Route(answer=lambda request: text_reply(HTTPStatus.OK, "front"))
    with server(tmp_path, routes={"/": front}) as running:
        assert ask(running, "/") == (200, b"front")
        assert ask(running, "/distfiles/none")[0] == 404
        assert ask(running, "//")[0] == 404
