"""How a blade fetches an image, and what starts it at boot. Mounts: tests/test_tree_image.py."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

from blades import image, tree
from blades.boot import TREE_PATH, boot_files
from blades.image import Image, TreeError, fetch
from blades.setup import program_files
from blades.tree import point
from mirror import rsyncd
from tests.ports import free_port

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Far(BaseHTTPRequestHandler):
    """Serves `server.content`, with ranges unless told not to, cut after `server.cut` bytes."""

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)  # type: ignore[attr-defined]
        ranges = asked and server.ranges  # type: ignore[attr-defined]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if ranges else 0  # type: ignore[union-attr]
        body = server.content[start:]  # type: ignore[attr-defined]
        self.send_response(206 if ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])  # type: ignore[attr-defined]

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def far() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Far) as server:
        vars(server).update(content=CONTENT, cut=None, ranges=True, asked=[])
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/images/x.squashfs"


def get(server: ThreadingHTTPServer, folder: Path) -> Path:
    return fetch(Image(url(server), DIGEST, len(CONTENT)), folder)


@pytest.fixture
def near(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real rsyncd: the address of a file, and where that file lies."""
    served = tmp_path / "served"
    served.mkdir()
    port = free_port()
    conf = tmp_path / "rsyncd.conf"
    files = {f"{name}_file": tmp_path / f"rsyncd.{name}" for name in ("log", "pid", "lock")}
    module = rsyncd.Module(name="images", path=served, comment="images")
    options: dict[str, Any] = {"listen": "127.0.0.1", "port": port, "max_connections": 9}
    conf.write_text(rsyncd.render([module], **options, **files, chroot=False))
    with subprocess.Popen(rsyncd.argv(conf)) as server:
        address = f"rsync://127.0.0.1:{port}/"
        while subprocess.run(["rsync", address], capture_output=True, check=False).returncode:
            time.sleep(0.05)
        yield f"{address}images/x.squashfs", served / "x.squashfs"
        server.terminate()


def old_image(folder: Path) -> Path:
    """An image that is here already: the wanted one, but for a few bytes."""
    folder.mkdir()
    path = folder / "old.squashfs"
    path.write_bytes(CONTENT[:1000] + b"another" + CONTENT[1100:])
    return path


def test_what_differs_from_the_old_image_comes_by_rsync_and_nothing_by_http(
    far: ThreadingHTTPServer, near: tuple[str, Path], tmp_path: Path
) -> None:
    address, file = near
    file.write_bytes(CONTENT)
    old = old_image(tmp_path / "here")
    before = old.read_bytes()
    wanted = Image(url(far), DIGEST, len(CONTENT), address)
    assert fetch(wanted, old.parent, old).read_bytes() == CONTENT
    assert far.asked == []  # type: ignore[attr-defined]
    assert old.read_bytes() == before
    assert {path.name for path in old.parent.iterdir()} == {old.name, f"{DIGEST}.squashfs"}
    sent = re.search(r"sent (\d+) bytes", (tmp_path / "rsyncd.log").read_text())
    assert sent
    assert int(sent[1]) < len(CONTENT) / 20


@pytest.mark.parametrize("served", [None, b"x" * 9, CONTENT[::-1], CONTENT * 20])
def test_where_rsync_does_not_bring_it_the_image_comes_whole(
    far: ThreadingHTTPServer, near: tuple[str, Path], tmp_path: Path, served: bytes | None
) -> None:
    address, file = near
    if served is not None:
        file.write_bytes(served)
    old = old_image(tmp_path / "here")
    wanted = Image(url(far), DIGEST, len(CONTENT), address)
    assert fetch(wanted, old.parent, old).read_bytes() == CONTENT
    assert far.asked == [None]  # type: ignore[attr-defined]
    assert {path.name for path in old.parent.iterdir()} == {old.name, f"{DIGEST}.squashfs"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_is_carried_on_with_or_started_anew(
    far: ThreadingHTTPServer, tmp_path: Path, ranges: bool
) -> None:
    vars(far).update(cut=100_000, ranges=ranges)
    with pytest.raises(TreeError) as caught:
        get(far, tmp_path)
    assert str(caught.value) == f"{url(far)} was cut after 100000 of 300000 bytes"
    vars(far).update(cut=None)
    assert get(far, tmp_path).read_bytes() == CONTENT
    assert far.asked == [None, "bytes=100000-"]  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == [f"{DIGEST}.squashfs"]  # noqa: PTH208
    get(far, tmp_path)
    assert len(far.asked) == 2  # type: ignore[attr-defined]


def test_a_half_that_was_damaged_here_is_fetched_once_more(
    far: ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / f"{DIGEST}.part").write_bytes(b"x" * 1000)
    assert get(far, tmp_path).read_bytes() == CONTENT
    assert far.asked == ["bytes=1000-", None]  # type: ignore[attr-defined]


def test_another_content_is_refused_and_not_kept(far: ThreadingHTTPServer, tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    vars(far).update(content=wrong)
    with pytest.raises(TreeError) as caught:
        get(far, tmp_path)
    found = hashlib.sha256(wrong).hexdigest()
    assert str(caught.value) == f"{url(far)} is not what it must be: its SHA-256 is {found}"
    assert not list(tmp_path.iterdir())


def test_no_more_is_taken_than_the_image_has(far: ThreadingHTTPServer, tmp_path: Path) -> None:
    vars(far).update(content=CONTENT * 50)
    with pytest.raises(TreeError) as caught:
        get(far, tmp_path)
    assert str(caught.value) == f"{url(far)} has more than the 300000 bytes that it must have"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(CONTENT)


def test_a_damaged_image_on_disk_is_fetched_again(far: ThreadingHTTPServer, tmp_path: Path) -> None:
    get(far, tmp_path).write_bytes(b"x")
    assert get(far, tmp_path).read_bytes() == CONTENT


def test_a_headnode_that_is_off_is_said(tmp_path: Path) -> None:
    with pytest.raises(TreeError) as caught:
        fetch(Image("http://127.0.0.1:1/x", DIGEST, 1), tmp_path)
    assert str(caught.value) == (
        "the headnode does not answer at http://127.0.0.1:1/x: [Errno 111] Connection refused"
    )


def test_a_full_disk_leaves_no_half(far: ThreadingHTTPServer, small_disk: Path) -> None:
    (small_disk / "rest").write_bytes(b"x" * (2 << 20))
    with pytest.raises(TreeError, match=r"the disk of .* is"):
        get(far, small_disk)
    assert [path.name for path in small_disk.iterdir() if path.stat().st_size] == ["rest"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 2 MiB (and as many bytes as a file there may be)."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = "size=2052k,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_link_takes_the_place_of_a_folder_and_of_another_link(tmp_path: Path) -> None:
    (tmp_path / "link/inner").mkdir(parents=True)
    for target in ("one", "two", "two"):
        point(tmp_path / "link", target)
        assert os.readlink(tmp_path / "link") == target  # noqa: PTH115
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_half_of_a_tree_that_was_being_removed_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "HOME", tmp_path)
    (tree.place("a") / "gentoo/profiles").mkdir(parents=True)
    tree.point(tmp_path / "trees/a.image", f"../images/{DIGEST}.squashfs")
    assert (tree.held("a"), tree.is_there("a")) == (DIGEST, True)
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tree.drop("a")
    assert (tree.held("a"), tree.is_there("a")) == ("", True)


def test_a_blade_that_can_neither_mount_nor_unpack_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "HOME", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TreeError) as caught:
        tree.attach("a", tmp_path / "images/x.squashfs")
    assert str(caught.value) == (
        "there is no mount; it cannot be unpacked either: there is no unsquashfs. Give the kernel "
        "CONFIG_SQUASHFS, CONFIG_SQUASHFS_ZSTD and CONFIG_BLK_DEV_LOOP; or install unsquashfs "
        '(sys-fs/squashfs-tools[zstd]); or set tree = "rsync" for its class in the headnode\'s '
        "cluster.toml, and give the blade its files again (headnode blades config)"
    )


WRONG_USAGE = (
    (),
    ("use", "http://x"),
    ("use", "http://x", "0" * 63, "1", "gentoo"),
    ("use", "http://x", "0" * 64, "many", "gentoo"),
    ("use", "http://x", "0" * 64, "1"),
    ("use", "http://x", "0" * 64, "1", "../gentoo"),
    ("use", "--delta", "rsync://x"),
    ("restore", "all"),
)


@pytest.mark.parametrize("words", WRONG_USAGE)
def test_a_usage_error_prints_the_manual(
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tree, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(sys, "argv", ["headnode-tree", *words])
    assert tree.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip() == (tree.__doc__ or "").strip()


@pytest.mark.parametrize("module", [image, tree])
def test_the_program_needs_only_the_standard_library(module: ModuleType) -> None:
    found = ast.walk(ast.parse(Path(str(module.__file__)).read_text()))
    names = {
        name.partition(".")[0]
        for node in found
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
        )
    }
    assert names - {"blades"} <= set(sys.stdlib_module_names)


def test_systemd_and_openrc_each_start_it_at_boot() -> None:
    given = boot_files()
    assert "from blades.tree import main" in program_files()[TREE_PATH]
    assert (
        f"ExecStart={TREE_PATH} restore\n"
        in given.files["/etc/systemd/system/headnode-tree.service"]
    )
    assert f"exec {TREE_PATH} restore\n" in given.files["/etc/local.d/headnode-tree.start"]
    assert given.links == {
        "/etc/systemd/system/multi-user.target.wants/headnode-tree.service": (
            "../headnode-tree.service"
        )
    }
