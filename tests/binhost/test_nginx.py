"""The configuration for nginx, tried with nginx: it answers what our own server does."""

from __future__ import annotations

import gzip
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from binhost.nginx import Front, render
from binhost.routes import Roots
from binhost.server import Server, open_listener
from binhost.site import Limits, Site
from headnode.files import point_symlink, write_atomic
from headnode.process import environment
from tests.ports import free_port

STAMP = 1_700_000_000
INDEX = b"VERSION: 0\nTIMESTAMP: 1700000000\nPACKAGES: 0\n\n"
PACKAGE = bytes(range(256)) * 400
DIGEST = "cd" * 32
RING = "/binhost/blade/fleet"
PATIENCE_S = 30.0

Answer = tuple[int, dict[str, str], bytes]


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (STAMP, STAMP))


def fill(state: Path) -> None:
    ring = state / "binhost/blade/rings/fleet"
    for number, index in ((1, INDEX), (2, INDEX + b"\n")):
        folder = ring / "deployments" / str(number)
        put(folder / "Packages", index)
        put(folder / "Packages.gz", gzip.compress(index, mtime=0))
        for name in ("deployment.json", "deployment.json.asc", "generation.json", "kernel.tar"):
            put(folder / name, f"{name} {number}\n".encode())
        put(folder / "kernel.tar.gz", b"not for who asks for kernel.tar")
    point_symlink(ring / "current", "deployments/1")
    for name, content in {
        "binhost/blade/pool/a/b-1-1.gpkg.tar": PACKAGE,
        "binhost/blade/pool/.hidden/x": b"no",
        "binhost/blade/generations/1/Packages": b"no",
        "mirror/distfiles/layout.conf": b"[structure]\n",
        "mirror/distfiles/a0/gtk+~1.tar.xz": b"distfile",
        f"mirror/images/{DIGEST}.squashfs": b"image",
        "mirror/repos/x": b"no",
        "keys/private": b"no",
    }.items():
        put(state / name, content)
    (state / "binhost/blade/pool/link").symlink_to(state / "keys/private")
    (state / "binhost/blade/pool/up").symlink_to("../../..")


@contextmanager
def nginx(state: Path, backend_port: int = 0) -> Iterator[int]:
    """A running nginx with our configuration: its port."""
    port, config = free_port(), state.parent / "nginx.conf"
    front = Front(
        state=state,
        listen="127.0.0.1",
        port=port,
        backend_port=backend_port,
        access_log=None,
        privileged=False,
    )
    config.write_text(render(front, Limits()))
    argv = ["nginx", "-c", str(config), "-e", "stderr", "-g", "daemon off;"]
    process = subprocess.Popen(argv, env=environment())
    try:
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that nginx's own user may read; pytest's are for its own user alone."""
    with tempfile.TemporaryDirectory(prefix="headnode-nginx-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def state(folder: Path) -> Path:
    fill(folder / "state")
    return folder / "state"


@pytest.fixture(scope="module")
def ports(state: Path) -> Iterator[dict[str, int]]:
    """The port of each server, both on the same folder."""
    site = Site(roots=Roots(state=state))
    with nginx(state) as port, Server(open_listener("127.0.0.1", 0), site) as ours:
        yield {"headnode": ours.address[1], "nginx": port}


@pytest.fixture(params=["headnode", "nginx"])
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


def ask(port: int, path: str, method: str = "GET", **fields: str) -> Answer:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        client.request(method, path, headers={k.replace("_", "-"): v for k, v in fields.items()})
        response = client.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        client.close()


TEXT, OCTETS, JSON = "text/plain; charset=utf-8", "application/octet-stream", "application/json"
KEPT = "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("path", "body", "kind", "age"),
    [
        (f"{RING}/Packages", INDEX, TEXT, "no-cache"),
        (f"{RING}/Packages.gz", gzip.compress(INDEX, mtime=0), "application/gzip", "no-cache"),
        (f"{RING}/deployment.json", b"deployment.json 1\n", JSON, "no-cache"),
        (
            f"{RING}/deployment.json.asc",
            b"deployment.json.asc 1\n",
            "application/pgp-signature",
            "no-cache",
        ),
        (f"{RING}/generation.json", b"generation.json 1\n", JSON, "no-cache"),
        (f"{RING}/deployments/2/Packages", INDEX + b"\n", TEXT, None),
        (f"{RING}/deployments/2/kernel.tar", b"kernel.tar 2\n", OCTETS, None),
        ("/binhost/blade/pool/a/b-1-1.gpkg.tar", PACKAGE, OCTETS, KEPT),
        ("/distfiles/layout.conf", b"[structure]\n", TEXT, None),
        ("/distfiles/a0/gtk%2b~1.tar.xz", b"distfile", OCTETS, None),
        (f"/images/{DIGEST}.squashfs", b"image", OCTETS, KEPT),
    ],
)
def test_both_serve_a_file_with_the_same_fields(
    port: int, path: str, body: bytes, kind: str, age: str | None
) -> None:
    status, fields, got = ask(port, path, Accept_Encoding="identity")
    assert (status, got) == (200, body)
    assert (fields["Content-Type"], fields.get("Cache-Control")) == (kind, age)
    assert fields["Last-Modified"] == formatdate(STAMP, usegmt=True)
    assert fields["Content-Length"] == str(len(body))
    assert fields["ETag"].startswith('"')
    assert fields["Accept-Ranges"] == "bytes"
    assert "Content-Encoding" not in fields


def test_both_answer_the_root_and_the_health_page(port: int) -> None:
    assert ask(port, "/")[::2] == (200, b"headnode: see /binhost, /distfiles and /images.\n")
    assert ask(port, "/healthz")[::2] == (200, b"ok\n")


@pytest.mark.parametrize("path", [f"{RING}/Packages", f"{RING}/deployments/1/Packages"])
def test_both_send_the_plain_index_compressed_to_whom_asks(port: int, path: str) -> None:
    status, fields, body = ask(port, path, Accept_Encoding="gzip")
    assert (status, gzip.decompress(body), fields["Content-Type"]) == (200, INDEX, TEXT)
    assert (fields["Content-Encoding"], fields["Vary"]) == ("gzip", "Accept-Encoding")


@pytest.mark.parametrize("path", [f"{RING}/Packages.gz", f"{RING}/deployments/2/kernel.tar"])
def test_neither_encodes_anything_else(port: int, path: str) -> None:
    status, fields, _ = ask(port, path, Accept_Encoding="gzip")
    assert (status, fields.get("Content-Encoding")) == (200, None)


@pytest.mark.parametrize(("seconds", "status"), [(-1, 200), (0, 304), (5, 304), (1_000_000, 304)])
def test_both_answer_portage_with_304_unless_the_file_is_newer(
    port: int, seconds: int, status: int
) -> None:
    since = formatdate(STAMP + seconds, usegmt=True)
    for path in (f"{RING}/Packages.gz", "/binhost/blade/pool/a/b-1-1.gpkg.tar"):
        assert ask(port, path, If_Modified_Since=since)[0] == status


def test_both_answer_one_range_and_several(port: int) -> None:
    path = "/binhost/blade/pool/a/b-1-1.gpkg.tar"
    assert ask(port, path, Range="bytes=5-9")[::2] == (206, PACKAGE[5:10])
    status, fields, body = ask(port, path, Range="bytes=5-9,50000-50009")
    assert status == 206
    assert fields["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert body.count(PACKAGE[5:10]) == 1
    assert body.count(PACKAGE[50000:50010]) == 1
    assert len(body) == int(fields["Content-Length"]) < 600
    assert ask(port, path, Range="bytes=200000-")[0] == 416


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_both_refuse_another_method(port: int, method: str) -> None:
    assert ask(port, "/distfiles/layout.conf", method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/binhost",
        "/binhost/",
        "/binhost/blade",
        RING,
        f"{RING}/",
        f"{RING}/Packages/",
        f"{RING}/kernel.tar",
        f"{RING}/current/Packages",
        f"{RING}/deployments/1",
        f"{RING}/deployments/1/",
        f"{RING}/deployments/x/Packages",
        "/binhost/blade/rings/fleet/current/Packages",
        "/binhost/blade/generations/1/Packages",
        "/binhost/blade/pool",
        "/binhost/blade/pool/",
        "/binhost/blade/pool/a",
        "/binhost/blade/pool/a/",
        "/binhost/blade/pool/missing",
        "/binhost/blade/pool/link",
        "/binhost/blade/pool/up/keys/private",
        "/binhost/blade/pool/.hidden/x",
        "/binhost/blade/pool/%2ehidden/x",
        "/distfiles",
        "/distfiles/",
        "/distfiles/a0",
        "/distfiles/missing",
        "/images/x.squashfs",
        "/images/",
        "/keys/private",
        "/mirror/repos/x",
        "/state/keys/private",
        "/etc/passwd",
    ],
)
def test_both_know_no_other_file(port: int, path: str) -> None:
    status, _, body = ask(port, path)
    assert status == 404
    assert body != b"no"


def test_both_see_a_ring_move_at_once(port: int, state: Path) -> None:
    ring = state / "binhost/blade/rings/fleet"
    for number, index in ((2, INDEX + b"\n"), (1, INDEX), (2, INDEX + b"\n"), (1, INDEX)):
        point_symlink(ring / "current", f"deployments/{number}")
        assert ask(port, f"{RING}/Packages")[2] == index
        assert gzip.decompress(ask(port, f"{RING}/Packages.gz")[2]) == index


def test_nginx_passes_on_what_is_no_file_and_missing_distfiles(state: Path) -> None:
    def fetch(file: Path) -> bool:
        if file.name != "late":
            return False
        write_atomic(file, b"late")
        return True

    site = Site(roots=Roots(state=state), fetch_missing=fetch)
    with Server(open_listener("127.0.0.1", 0), site) as ours, nginx(state, ours.address[1]) as port:
        assert ask(port, "/healthz")[::2] == (200, b"ok\n")
        assert ask(port, "/distfiles/late")[::2] == (200, b"late")
        assert ask(port, "/distfiles/never")[0] == 404
        assert ask(port, "/nothing")[::2] == (404, b"404 Not Found\n")
        assert ask(port, f"{RING}/Packages")[::2] == (200, INDEX)
        assert ask(port, "/distfiles/.hidden")[0] == 404


def test_a_configuration_for_root_uses_the_folders_nginx_was_built_for(tmp_path: Path) -> None:
    front = Front(
        state=tmp_path,
        listen="::",
        port=8080,
        backend_port=0,
        access_log=tmp_path / "log",
        privileged=True,
    )
    text = render(front, Limits())
    assert "temp_path" not in text
    assert "listen [::]:8080 backlog=4096 ipv6only=off;" in text
    assert f'access_log "{tmp_path}/log" combined;' in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_nginx_takes_it_as_another_user_than_root(folder: Path, state: Path) -> None:
    home = folder / "unprivileged"
    shutil.copytree(state, home / "state", symlinks=True)
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    front = Front(
        state=home / "state",
        listen="127.0.0.1",
        port=free_port(),
        backend_port=0,
        access_log=None,
        privileged=False,
    )
    (home / "nginx.conf").write_text(render(front, Limits()))
    argv = ["nginx", "-t", "-c", str(home / "nginx.conf"), "-e", "stderr"]
    done = subprocess.run(
        argv, user=65534, group=65534, env=environment(), capture_output=True, text=True
    )
    assert "test is successful" in done.stderr
    assert done.returncode == 0
