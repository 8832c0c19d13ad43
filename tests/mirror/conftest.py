"""Real rsync and HTTP servers for the mirror's tests, each on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each path as the test says; everything else is a 404."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        self.close_connection = True
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        else:
            answer(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Site(ThreadingHTTPServer):
    """A server on a free port; `asked` has each request's path and Range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @staticmethod
    def serves(content: bytes, *, ranges: bool = True) -> Answer:
        def answer(handler: Handler) -> None:
            asked = handler.headers.get("Range")
            if not asked or not ranges:
                handler.head(200, Content_Length=len(content))
                handler.wfile.write(content)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
                return
            rest = content[start:]
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.head(206, Content_Length=len(rest), Content_Range=place)
            handler.wfile.write(rest)

        return answer

    @staticmethod
    def status(code: int) -> Answer:
        return lambda handler: handler.send_error(code)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients of these tests hang up


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def make_tree() -> Callable[..., dict[str, Path]]:
    """Add an ebuild with its files to a snapshot; give the snapshot set.

    `make_tree(state, {"x.tgz": b"…"}, uri="http://…/{}", stamp=…, cpv=…, **variables)`: `uri` is
    where each file is, `variables` go into the metadata cache.
    """

    def make(
        state: Path,
        files: dict[str, bytes],
        *,
        uri: str = "https://nowhere.example/{}",
        stamp: str = "20260101T000000Z",
        cpv: str = "app-misc/hello-1",
        **variables: str,
    ) -> dict[str, Path]:
        tree = state / "mirror/repos/gentoo/snapshots" / stamp
        category, name = cpv.split("/")
        package = tree / category / name.rpartition("-")[0]
        cache = tree / "metadata/md5-cache" / category / name
        for folder in (package, cache.parent, tree / "profiles"):
            folder.mkdir(parents=True, exist_ok=True)
        (tree / "profiles/repo_name").write_text("gentoo\n")
        (tree / "metadata/layout.conf").write_text("masters =\nthin-manifests = true\n")
        (tree / "profiles/categories").write_text(f"{category}\n")
        (tree / "profiles/eapi").write_text("8\n")
        said = {
            "EAPI": "8",
            "SLOT": "0",
            "KEYWORDS": "amd64",
            "DESCRIPTION": "A test",
            "SRC_URI": " ".join(uri.format(each) for each in files),
            **variables,
        }
        text = "".join(f'{key}="{value}"\n' for key, value in said.items())
        (package / f"{name}.ebuild").write_text(text)
        md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        lines = {**said, "DEFINED_PHASES": "-", "_md5_": md5}
        cache.write_text("".join(f"{key}={value}\n" for key, value in sorted(lines.items())))
        with (package / "Manifest").open("a") as manifest:
            for each, content in files.items():
                strong = hashlib.blake2b(content).hexdigest(), hashlib.sha512(content).hexdigest()
                manifest.write(
                    f"DIST {each} {len(content)} BLAKE2B {strong[0]} SHA512 {strong[1]}\n"
                )
        return {"gentoo": tree}

    return make
