"""Real rsync servers for the mirror's tests, each on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.model import Repo
from headnode.errors import HeadnodeError
from mirror import rsyncd
from mirror.tree import Snapshot, sync_repo

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
