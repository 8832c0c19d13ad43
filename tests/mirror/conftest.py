"""Real rsync and HTTP servers for the mirror's tests, each on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from config.model import Repo
from headnode.errors import HeadnodeError
from mirror import rsyncd
from mirror.tree import Snapshot, sync_repo
from tests.ports import free_port

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


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


def listing(path: Path) -> dict[str, bytes | Path]:
    """Every file below `path`, by name; a symlink's target."""
    return {
        str(each.relative_to(path)): str(each.readlink())
        if each.is_symlink()
        else each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_symlink() or each.is_file()
    }


@dataclass
class Mirrored:
    """A repository `lab` upstream in `tree`, at `url`, and its mirror below `state`."""

    state: Path
    tree: Path
    url: str
    daemon: Daemon
    now: datetime = NOON
    pauses: list[float] = field(default_factory=list)

    def put(self, name: str, content: str, *, tree: Path | None = None) -> Path:
        path = (tree or self.tree) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def ebuild(self, package: str, version: str, text: str = "EAPI=8\n") -> None:
        """An ebuild with its metadata."""
        category, name = package.split("/")
        self.put(f"{package}/{name}-{version}.ebuild", text)
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        self.put(f"metadata/md5-cache/{category}/{name}-{version}", f"EAPI=8\n_md5_={digest}\n")

    def stamp(self, when: datetime) -> None:
        self.put("metadata/timestamp.chk", f"{when:%a, %d %b %Y %H:%M:%S} +0000\n")

    def manifests(self) -> None:
        """Write the Manifests that the tree has now, stamped."""
        for old in [*self.tree.rglob("Manifest"), *self.tree.rglob("Manifest.gz")]:
            old.unlink()
        gemato = [sys.executable, "-m", "gemato", "create", "--profile", "ebuild", "--timestamp"]
        subprocess.run([*gemato, self.tree], check=True, capture_output=True)

    def sync(self, *upstreams: str, **options: Any) -> Snapshot:
        """Sync an hour later than the last time; what is no option of a repository is sync's."""
        self.now += timedelta(hours=1)
        ours = {name: options.pop(name) for name in ("waived", "uniform") if name in options}
        origin = {} if "path" in options else {"upstreams": upstreams or (self.url,)}
        repo = Repo(**{"stall_s": 10, "timeout_s": 60, **origin, **options})
        return sync_repo(self.state, "lab", repo, now=self.now, sleep=self.pauses.append, **ours)

    def served(self) -> dict[str, bytes | Path]:
        """Byte for byte what is served: the snapshots and the link to the newest."""
        folder = self.state / "mirror/repos/lab"
        return {
            "current": (folder / "current").readlink(),
            **listing(folder / "snapshots"),
        }

    def refused(self, *upstreams: str, **options: Any) -> str:
        """What a sync that must fail says; what is served must be as it was, byte for byte."""
        before = self.served()
        with pytest.raises(HeadnodeError) as caught:
            self.sync(*upstreams, **options)
        assert self.served() == before
        return str(caught.value)

    def said(self, why: str, url: str = "") -> str:
        """The whole message of a sync whose one upstream failed for `why`."""
        newest = (self.state / "mirror/repos/lab/current").readlink().name
        return (
            f"No upstream of lab could be synced; the tree of {newest} is still served.\n"
            f"  {url or self.url}: {why}\n"
            " Try again later, or name another upstream in cluster.toml ([mirror.repos])."
        )


@pytest.fixture
def mirrored(tmp_path: Path, start_rsyncd: Start) -> Mirrored:
    """A repository with two packages, stamped at noon, and nothing synced yet."""
    tree = tmp_path / "upstream"
    tree.mkdir()
    daemon = start_rsyncd(lab=tree)
    lab = Mirrored(tmp_path / "state", tree, daemon.url("lab"), daemon)
    lab.put("profiles/repo_name", "lab\n")
    lab.put("profiles/categories", "app-misc\n")
    lab.put("metadata/layout.conf", "masters =\ncache-formats = md5-dict\n")
    lab.ebuild("app-misc/hello", "1")
    lab.ebuild("app-misc/pwgen", "1")
    lab.stamp(NOON)
    return lab


@dataclass
class Signer:
    """Somebody with an OpenPGP key, whose public part is in the file `key`."""

    home: Path
    key: Path

    def gpg(self, *words: str | Path) -> None:
        argv = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--passphrase", "", *words]
        subprocess.run(argv, check=True, capture_output=True)

    def sign(self, manifest: Path) -> None:
        """Sign a Manifest in clear text, as Gentoo does."""
        signed = manifest.with_name("signed")
        self.gpg("--clearsign", "--output", signed, manifest)
        signed.replace(manifest)


@pytest.fixture(scope="session")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Signer, Signer]]:
    """The one whom the administrator trusts, and a stranger."""
    made = []
    for name in ("upstream", "stranger"):
        home = tmp_path_factory.mktemp("gpg")
        home.chmod(0o700)
        signer = Signer(home, home / "key.asc")
        signer.gpg("--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "sign", "never")
        signer.gpg("--armor", "--output", signer.key, "--export")
        made.append(signer)
    yield made[0], made[1]
    for signer in made:
        subprocess.run(["gpgconf", "--homedir", signer.home, "--kill", "all"], check=True)
