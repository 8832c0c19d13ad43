"""Real rsync servers for the mirror's tests, each on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror import rsyncd


@dataclass
class Daemon:
    """A running rsyncd; `port` on 127.0.0.1, all its processes in one group."""

    process: subprocess.Popen[bytes]
    port: int

    def url(self, module: str) -> str:
        return f"rsync://127.0.0.1:{self.port}/{module}"

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


Start = Callable[..., Daemon]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as client:
        return client.recv(8) == b"@RSYNCD:"
    return False


@pytest.fixture
def start_rsyncd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Serve folders by our own rendered rsyncd.conf: `start_rsyncd(module=path, …)`."""
    running: list[Daemon] = []

    def start(*options: str, max_connections: int = 10, **folders: Path) -> Daemon:
        own = tmp_path_factory.mktemp("rsyncd")
        port = free_port()
        conf = own / "rsyncd.conf"
        conf.write_text(
            rsyncd.render(
                [
                    rsyncd.Module(name=name, path=path, comment=name)
                    for name, path in folders.items()
                ],
                listen="127.0.0.1",
                port=port,
                max_connections=max_connections,
                log_file=own / "log",
                pid_file=own / "pid",
                lock_file=own / "lock",
                chroot=os.geteuid() == 0,
            )
        )
        process = subprocess.Popen([*rsyncd.argv(conf), *options], start_new_session=True)
        daemon = Daemon(process, port)
        running.append(daemon)
        deadline = time.monotonic() + 10
        while not answers(port):
            assert process.poll() is None, (own / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return daemon

    yield start
    for daemon in running:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                daemon.signal(number)
        daemon.process.wait()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The host:port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    """A host:port on which nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root only")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
