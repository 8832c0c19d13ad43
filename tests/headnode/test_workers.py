"""The HTTP server's processes: real ones, killed, replaced and reloaded under running clients."""

from __future__ import annotations

import hashlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from binhost.server import open_listener
from headnode.errors import HeadnodeError
from headnode.process import environment
from headnode.worker import Settings, limits_within
from headnode.workers import Workers, next_pause_s
from tests.ports import free_port

PATIENCE_S = 60.0
CONTENT = os.urandom(1 << 20) * 64


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("state")
    distfiles = state / "mirror/distfiles"
    distfiles.mkdir(parents=True)
    (distfiles / "small").write_bytes(b"small")
    (distfiles / "large").write_bytes(CONTENT)
    return state


@contextmanager
def running(state: Path, count: int, access_log: Path | None = None) -> Iterator[Workers]:
    with open_listener("127.0.0.1", 0) as listener:
        log = str(access_log) if access_log else None
        workers = Workers(listener, Settings(listener=-1, state=str(state), access_log=log))
        try:
            workers.start(count)
            yield workers
        finally:
            workers.stop()


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


def get(port: int, path: str = "/distfiles/small") -> bytes:
    """A file, by a connection of its own."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        client.request("GET", path)
        response = client.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        client.close()


def port_of(workers: Workers) -> int:
    return int(workers.listener.getsockname()[1])


def pids(workers: Workers) -> list[int]:
    return [slot.worker.process.pid for slot in workers.slots if slot.worker]


class SlowDownload:
    """A client that takes a large file slowly, until it is told to hurry."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._socket.sendall(b"GET /distfiles/large HTTP/1.1\r\nHost: x\r\n\r\n")
        self._begun = self._socket.recv(1000)

    def finish(self) -> bytes:
        """The body; the connection has to be closed by the server, or be read to its length."""
        head, _, body = self._begun.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        parts, size = [body], len(body)
        while size < len(CONTENT) and (data := self._socket.recv(1 << 20)):
            parts.append(data)
            size += len(data)
        self._socket.close()
        return b"".join(parts)


def same(content: bytes) -> bool:
    return hashlib.sha256(content).digest() == hashlib.sha256(CONTENT).digest()


class Visitor:
    """A client that comes again and again, and notes what went wrong."""

    def __init__(self, port: int) -> None:
        self.wrong: list[object] = []
        self.visits = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def _visit(self) -> None:
        while not self._stop.is_set():
            try:
                assert get(self._port) == b"small"
                self.visits += 1
            except Exception as error:
                self.wrong.append(error)


def test_several_processes_answer_on_one_port_and_the_last_answers_alone(state: Path) -> None:
    with running(state, 3) as workers:
        assert len(set(pids(workers))) == 3
        for pid in pids(workers)[:2]:
            assert get(port_of(workers)) == b"small"
            os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            assert get(port_of(workers)) == b"small"


def test_a_dead_worker_is_replaced(
    state: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headnode.workers.SETTLE_S", 600.0)  # it dies young, however slow we are
    with running(state, 2) as workers:
        first, second = pids(workers)
        os.kill(first, signal.SIGKILL)

        def is_replaced() -> bool:
            workers.watch()
            return len(pids(workers)) == 2 and first not in pids(workers)

        until(is_replaced, "another worker in the dead one's place")
        assert second in pids(workers)
        assert get(port_of(workers)) == b"small"
    assert caplog.messages == [
        f"HTTP worker {first} ended with exit code -9, starting another in 1 s"
    ]


@pytest.mark.parametrize(
    ("pause", "lived", "then"),
    [(0, 0, 1), (1, 0, 2), (2, 4.9, 4), (16, 0, 30), (30, 0, 30), (30, 5, 0)],
)
def test_a_worker_that_dies_again_and_again_is_started_ever_less_often(
    pause: float, lived: float, then: float
) -> None:
    assert next_pause_s(pause, lived) == then


def test_a_reload_refuses_nobody_and_running_downloads_finish(state: Path) -> None:
    with running(state, 2) as workers:
        before = pids(workers)
        download = SlowDownload(port_of(workers))
        with Visitor(port_of(workers)) as visitor:
            for _ in range(3):
                seen = visitor.visits
                workers.start(2)
                until(lambda seen=seen: visitor.visits > seen + 20, "visits after a reload")  # type: ignore[misc]
        assert visitor.wrong == []
        assert not set(before) & set(pids(workers))
        assert [worker.process.pid for worker in workers.leaving if worker.process.poll() is None]
        assert same(download.finish())

        def is_alone() -> bool:
            workers.watch()
            return not workers.leaving

        until(is_alone, "the old workers to have left")


def test_a_kept_connection_gets_its_next_answer_from_the_worker_that_leaves(state: Path) -> None:
    with running(state, 1) as workers:
        client = http.client.HTTPConnection("127.0.0.1", port_of(workers), timeout=PATIENCE_S)
        client.auto_open = 0  # never by another connection
        client.connect()

        def last() -> bool:
            client.request("GET", "/distfiles/small")
            response = client.getresponse()
            said = response.getheader("Connection")
            assert (response.read(), said in (None, "close")) == (b"small", True)
            return said == "close"

        assert not last()
        workers.start(1)
        until(last, "the last answer, once the order has arrived")
        client.close()


def test_workers_that_do_not_come_up_leave_the_old_ones_serving(
    state: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(state, 1) as workers:
        before = pids(workers)
        good = workers.settings
        workers.settings = Settings(
            listener=-1, state=str(state), access_log=str(tmp_path / "absent/access.log")
        )
        with pytest.raises(HeadnodeError) as caught:
            workers.start(1)
        workers.settings = good
        assert pids(workers) == before
        assert get(port_of(workers)) == b"small"
    assert str(caught.value) == (
        "An HTTP worker did not start: it ended with exit code 1. What it said stands above."
    )
    assert "No such file or directory" in capfd.readouterr().err


def test_a_stopped_server_finishes_a_running_download(state: Path) -> None:
    with running(state, 1) as workers:
        download = SlowDownload(port_of(workers))
        stopper = threading.Thread(target=workers.stop)
        stopper.start()
        assert same(download.finish())
        stopper.join(PATIENCE_S)
        assert not stopper.is_alive()


def test_a_renamed_access_log_is_begun_anew(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with running(state, 2, path) as workers:
        get(port_of(workers))
        until(lambda: path.read_text() != "", "the first line")
        path.rename(tmp_path / "access.log.1")
        workers.reopen_logs()
        until(path.exists, "a new log")
        until(lambda: get(port_of(workers)) == b"small" and path.read_text() != "", "a line")
    assert len((tmp_path / "access.log.1").read_text().splitlines()) >= 1


def test_connections_are_limited_by_the_files_that_may_be_open() -> None:
    assert limits_within(1 << 20).connections == 4096
    assert limits_within(1024).connections == 192
    assert limits_within(256).connections == 16


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allows this process to have 10,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_10000_idle_clients_hurt_nobody_and_workers_stay_small(state: Path) -> None:
    with running(state, 2) as workers:
        port = port_of(workers)
        idle = [connect(port) for _ in range(10_000)]
        for _ in range(58):
            assert get(port) == b"small"
        for client in idle[-1000:]:
            client.sendall(b"GET /distfiles/small HTTP/1.1\r\nHost: x\r\n\r\n")
        assert same(get(port, "/distfiles/large"))
        assert max(resident_kib(pid) for pid in pids(workers)) < 64 * 1024
        for client in idle:
            client.close()


# The whole daemon


@contextmanager
def daemon(state: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """`headnode serve` on free ports: its process, HTTP port and configuration."""
    port = free_port()
    config = folder / "cluster.toml"
    config.write_text(
        f"[state]\npath = '{state}'\n[serve]\nlisten = '127.0.0.1'\nhttp_port = {port}\n"
        f"rsync_port = {free_port()}\nworkers = 2\naccess_log = 'access.log'\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "headnode", "--config", config, "serve"],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("Serving http://headnode:"), (folder / "stderr").read_text()
        yield process, port, config
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):  # also: reaped between open and read
        return ""


def workers_of(pid: int) -> list[int]:
    return [each for each in children(pid) if "headnode.worker" in command(each)]


def test_workers_and_rsyncd_end_with_a_daemon_that_is_killed(state: Path, tmp_path: Path) -> None:
    with daemon(state, tmp_path) as (process, port, _):
        assert get(port) == b"small"
        assert len(workers_of(process.pid)) == 2
        started = children(process.pid)
        # A program that was just started has no command line for a moment (execve(2)).
        until(lambda: any(command(each).startswith("rsync --daemon") for each in started), "rsyncd")
        process.kill()
        until(lambda: not any(command(each) for each in started), "their end")


def test_sigterm_ends_the_daemon_and_all_it_started(state: Path, tmp_path: Path) -> None:
    with daemon(state, tmp_path) as (process, port, _):
        started = children(process.pid)
        assert len(started) == 3
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert [each for each in started if command(each)] == []
        with pytest.raises(ConnectionRefusedError):
            get(port)
    assert (tmp_path / "stderr").read_text() == ""


def test_sighup_takes_the_new_configuration_and_refuses_a_broken_one(
    state: Path, tmp_path: Path
) -> None:
    with daemon(state, tmp_path) as (process, port, config), Visitor(port) as visitor:
        good, before = config.read_text(), workers_of(process.pid)
        said = tmp_path / "stderr"
        for text, error in (
            (
                good.replace("workers = 2", "workers = 'x'"),
                "serve.workers: expected a whole number",
            ),
            (
                good.replace("127.0.0.1", "0.0.0.0"),
                "serve.listen has another value than at the start",
            ),
        ):
            config.write_text(text)
            process.send_signal(signal.SIGHUP)
            until(lambda error=error: error in said.read_text(), error)  # type: ignore[misc]
            assert workers_of(process.pid) == before
        config.write_text(good.replace("workers = 2", "workers = 3"))
        process.send_signal(signal.SIGHUP)
        until(lambda: len(set(workers_of(process.pid)) - set(before)) == 3, "3 new workers")
        until(lambda: not set(workers_of(process.pid)) & set(before), "the old ones to leave")
        seen = visitor.visits
        until(lambda: visitor.visits > seen, "a visit after the reload")
    assert visitor.wrong == []


def test_sigusr1_begins_a_new_access_log(state: Path, tmp_path: Path) -> None:
    with daemon(state, tmp_path) as (process, port, _):
        path = tmp_path / "access.log"
        get(port)
        until(lambda: path.read_text() != "", "a line")
        path.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGUSR1)
        until(path.exists, "a new log")
