"""Clients and disks that are slow, silent or many: they cost what they cost, and others nothing."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from binhost import sending
from binhost.beneath import open_beneath
from binhost.ranges import Span
from binhost.routes import Roots
from binhost.sending import Progress, Transfer, is_in_memory
from binhost.server import Server, open_listener
from binhost.site import Limits, Site

PATIENCE_S = 30.0
LARGE = os.urandom(1 << 20) * 48


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror/distfiles"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(LARGE)
    return tmp_path


def server(state: Path, **limits: float) -> Server:
    site = Site(roots=Roots(state=state), limits=Limits(**limits))  # type: ignore[arg-type]
    return Server(open_listener("127.0.0.1", 0), site)


def get(running: Server, name: str) -> bytes:
    client = http.client.HTTPConnection(*running.address, timeout=PATIENCE_S)
    try:
        client.request("GET", f"/distfiles/{name}")
        return client.getresponse().read()
    finally:
        client.close()


def connect(running: Server, data: bytes, buffer_bytes: int = 65_536) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.settimeout(PATIENCE_S)
    client.connect(running.address)
    client.sendall(data)
    return client


def until_closed(client: socket.socket) -> bytes:
    with client:
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_clients_that_do_not_read_hold_up_nobody(state: Path) -> None:
    with server(state) as running:
        request = b"GET /distfiles/large HTTP/1.1\r\nHost: x\r\n\r\n"
        stalled = [connect(running, request, 4096) for _ in range(50)]
        for _ in range(3):
            assert hashlib.sha256(get(running, "large")).digest() == hashlib.sha256(LARGE).digest()
            assert get(running, "small") == b"small"
        for client in stalled:
            client.close()


def test_half_requests_hold_up_nobody(state: Path) -> None:
    with server(state) as running:
        halves = [connect(running, b"GET /distfiles/small HT") for _ in range(500)]
        for _ in range(100):
            assert get(running, "small") == b"small"
        halves[0].sendall(b"TP/1.0\r\n\r\n")
        assert until_closed(halves[0]).endswith(b"\r\n\r\nsmall")
        for client in halves:
            client.close()


def test_a_client_may_be_slow_as_long_as_it_takes_something(state: Path) -> None:
    """So slow that the kernel reports no room within the time: it does that by the third."""
    with server(state, send_s=2.0) as running:
        request = b"GET /distfiles/large HTTP/1.0\r\n\r\n"
        client = connect(running, request)
        started, got = time.monotonic(), [client.recv(1 << 18)]
        while time.monotonic() - started < 7.0:
            got.append(client.recv(1 << 13))
            time.sleep(0.1)
        body = (b"".join(got) + until_closed(client)).partition(b"\r\n\r\n")[2]
    assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


def test_when_there_is_no_more_room_the_idle_make_way(state: Path) -> None:
    with server(state, connections=20) as running:
        idle = [connect(running, b"") for _ in range(40)]
        for _ in range(40):
            assert get(running, "small") == b"small"
        for client in idle:
            client.close()


def test_a_running_download_never_makes_way(state: Path) -> None:
    with server(state, connections=20) as running:
        download = connect(running, b"GET /distfiles/large HTTP/1.0\r\n\r\n")
        begun = download.recv(1000)
        idle = [connect(running, b"") for _ in range(30)]
        assert get(running, "small") == b"small"
        body = (begun + until_closed(download)).partition(b"\r\n\r\n")[2]
        for client in idle:
            client.close()
    assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


def test_a_pipelining_client_that_does_not_read_is_not_read_either(state: Path) -> None:
    with server(state, send_s=1.0) as running:
        client = connect(running, b"", 4096)
        client.settimeout(0.5)
        request, sent = b"GET /distfiles/large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 0
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(10_000):
                sent += client.send(request)
        assert sent < 64 << 20  # what the kernel holds; the server has taken a few KiB
        assert get(running, "small") == b"small"
        client.close()


# Disks


def evict(path: Path) -> None:
    """Have the kernel forget the content of a file, as if it had not been read for long."""
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def test_a_file_that_is_not_in_memory_arrives_whole(state: Path) -> None:
    with server(state) as running:
        for _ in range(3):
            evict(state / "mirror/distfiles/large")
            body = get(running, "large")
            assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


@contextmanager
def transferring(
    state: Path, span: Span
) -> Iterator[tuple[Transfer, socket.socket, socket.socket]]:
    """A transfer of a part of the large file, and the two ends of a connection for it."""
    opened = open_beneath(state, state / "mirror/distfiles/large")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield Transfer((span,), opened), ours, theirs


def test_what_is_not_in_memory_is_read_whole_before_it_is_sent(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[int] = set()

    def pread(handle: int, count: int, offset: int) -> bytes:
        read.update(range(offset, offset + count, 4096), [offset + count - 1])
        return b""

    monkeypatch.setattr(sending, "is_in_memory", lambda handle, offset: offset in read)
    monkeypatch.setattr(os, "pread", pread)
    with transferring(state, Span(100, 5 << 20)) as (transfer, ours, theirs):
        assert transfer.push(ours) is Progress.COLD
        assert transfer.sent_bytes == 0
        transfer.fetch_window()
        assert read >= set(range(100, 100 + (5 << 20), 4096))
        assert max(read) == 100 + (5 << 20) - 1
        assert transfer.push(ours) is Progress.FULL
        assert theirs.recv(1 << 20) == LARGE[100 : 100 + transfer.sent_bytes]


def test_a_window_that_was_fetched_is_in_memory_to_its_last_page(state: Path) -> None:
    large = state / "mirror/distfiles/large"
    evict(large)
    opened = open_beneath(state, large)
    Transfer((Span(0, len(LARGE)),), opened).fetch_window()
    pages = range(0, sending.WINDOW_BYTES, 4096)
    assert [at for at in pages if not is_in_memory(opened.handle, at)] == []


@pytest.mark.parametrize("absent", [0, 2 << 20, 4 << 20, (5 << 20) - 1])
def test_a_window_with_a_gap_is_not_in_memory(
    state: Path, monkeypatch: pytest.MonkeyPatch, absent: int
) -> None:
    monkeypatch.setattr(sending, "is_in_memory", lambda handle, offset: offset != absent)
    with transferring(state, Span(0, 5 << 20)) as (transfer, ours, _):
        assert transfer.push(ours) is Progress.COLD
        transfer.fetch_window()
        assert transfer.push(ours) is Progress.FULL


def test_a_disk_that_hangs_holds_up_only_who_waits_for_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, asked = threading.Event(), threading.Event()
    fetch = Transfer.fetch_window

    def hang(transfer: Transfer) -> None:
        asked.set()
        assert disk.wait(PATIENCE_S)
        fetch(transfer)

    monkeypatch.setattr(Transfer, "fetch_window", hang)
    monkeypatch.setattr(sending, "is_in_memory", lambda handle, offset: disk.is_set())
    with server(state) as running:
        client = connect(running, b"GET /distfiles/large HTTP/1.0\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        for _ in range(50):
            assert get(running, "small") == b"small"
        disk.set()
        body = until_closed(client).partition(b"\r\n\r\n")[2]
    assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


def test_a_disk_that_fails_ends_that_download_and_is_logged(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(transfer: Transfer) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Transfer, "fetch_window", fail)
    monkeypatch.setattr(sending, "is_in_memory", lambda handle, offset: False)
    with server(state) as running:
        client = connect(running, b"GET /distfiles/large HTTP/1.0\r\n\r\n")
        assert len(until_closed(client).partition(b"\r\n\r\n")[2]) == 0
        assert get(running, "small") == b"small"
    assert caplog.messages == [
        "/distfiles/large cannot be read any further: [Errno 5] Input/output error"
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_in_the_midst_of_a_file_is_logged_with_its_path(
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def fail(*words: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", fail)
    with server(state) as running:
        client = connect(running, b"GET /distfiles/large HTTP/1.0\r\n\r\n")
        assert until_closed(client).partition(b"\r\n\r\n")[2] == b""
    assert caplog.messages == [
        f"/distfiles/large cannot be read any further: [Errno {number}] {os.strerror(number)}"
    ]


def test_a_client_that_leaves_in_the_midst_of_a_file_is_no_error(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with server(state) as running:
        client = connect(running, b"GET /distfiles/large HTTP/1.0\r\n\r\n", 4096)
        client.recv(100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset
        assert get(running, "small") == b"small"
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


def test_what_was_just_written_is_in_memory(state: Path) -> None:
    with (state / "mirror/distfiles/large").open("rb") as file:
        assert is_in_memory(file.fileno(), 0)
        assert is_in_memory(
            file.fileno(), len(LARGE) + 1
        )  # behind the end there is nothing to read
