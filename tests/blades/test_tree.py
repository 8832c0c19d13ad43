"""How a blade fetches an image, and what starts it at boot. Mounts: tests/test_tree_image.py."""

import ast
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from blades import tree
from blades.boot import TREE_PATH, boot_files
from blades.setup import program_files
from blades.tree import TreeError, fetch, point

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
    return fetch(url(server), DIGEST, len(CONTENT), folder)


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
        fetch("http://127.0.0.1:1/x", DIGEST, 1, tmp_path)
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


def test_a_usage_error_prints_the_manual() -> None:
    argv = [sys.executable, "-I", tree.__file__, "use", "http://x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == (tree.__doc__ or "").strip()


def test_the_program_needs_only_the_standard_library() -> None:
    found = ast.walk(ast.parse(Path(tree.__file__).read_text()))
    names = {
        name.partition(".")[0]
        for node in found
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
        )
    }
    assert names <= set(sys.stdlib_module_names)


def test_systemd_and_openrc_each_start_it_at_boot() -> None:
    given = boot_files()
    assert program_files()[TREE_PATH] == Path(tree.__file__).read_text()
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
