"""The HTTP server over real sockets: raw requests, http.client, curl, wget, Portage's own code."""

from __future__ import annotations

import email
import gzip
import hashlib
import http.client
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError

import pytest

from binhost.access import AccessLog, stamp
from binhost.heads import path_of
from binhost.openfiles import KEPT_FILES, OpenFiles
from binhost.ranges import Span, UnsatisfiableError, parse_range
from binhost.routes import Roots, resolve
from binhost.server import Server, open_listener, serve
from binhost.site import Limits, Site
from headnode.errors import EnvironmentLacksError, ExitCode
from headnode.files import point_symlink, write_atomic
from headnode.process import run

STAMP = 1_700_000_000
INDEX = f"VERSION: 0\nTIMESTAMP: {STAMP}\nPACKAGES: 0\n\n".encode()
PACKAGE = bytes(range(256)) * 40
HELLO = "/binhost/blade/pool/app-misc/hello/hello-1.0-1.gpkg.tar"
INDEX_URL = "/binhost/blade/fleet/Packages"
DIGEST = "ab" * 32
USUAL = Limits(stop_s=2.0, connections=64)
# For clients that are to lose patience with: any other might be slow because the machine is.
QUICK = Limits(read_s=0.4, send_s=0.5, stop_s=2.0, connections=64)


def put(path: Path, content: bytes, mtime: int = STAMP) -> None:
    """Make a file; without the fsync of `write_atomic`, which would be most of the tests' time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))


def deploy(state: Path, number: int, index: bytes, mtime: int) -> None:
    """Put `index` in front of the ring `fleet`, as a publish does: a folder, then one rename."""
    ring = state / "binhost/blade/rings/fleet"
    folder = ring / "deployments" / str(number)
    put(folder / "Packages", index, mtime)
    put(folder / "Packages.gz", gzip.compress(index, mtime=0), mtime)
    for name in ("deployment.json", "deployment.json.asc", "generation.json"):
        put(folder / name, f"{name} {number}\n".encode(), mtime)
    point_symlink(ring / "current", f"deployments/{number}")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    deploy(state, 1, INDEX, STAMP)
    files = {
        "binhost/blade/pool/app-misc/hello/hello-1.0-1.gpkg.tar": PACKAGE,
        "binhost/blade/pool/.hidden": b"hidden",
        "binhost/blade/pool/.staging/half.gpkg.tar": b"hidden",
        "binhost/blade/pool/empty": b"",
        "binhost/blade/generations/1/generation.json": b"not for blades",
        "mirror/distfiles/layout.conf": b"[structure]\n0=filename-hash BLAKE2B 8\n",
        "mirror/distfiles/a0/gtk+~1 é.tar.xz": b"distfile",
        f"mirror/images/{DIGEST}.squashfs": b"image",
        "mirror/repos/gentoo/current/secret": b"not over HTTP",
        "headnode.sqlite": b"not over HTTP",
        "keys/private": b"not over HTTP",
    }
    for name, content in files.items():
        put(state / name, content)
    return state


@pytest.fixture
def server(state: Path) -> Iterator[Server]:
    with serve("127.0.0.1", 0, state, limits=USUAL) as server:
        yield server


@pytest.fixture
def quick(state: Path) -> Iterator[Server]:
    with serve("127.0.0.1", 0, state, limits=QUICK) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    yield connection
    connection.close()


Answer = tuple[int, dict[str, str], bytes]


def ask(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **fields: str
) -> Answer:
    """Status, header fields and body; the underscores of a keyword are the hyphens of a field."""
    client.request(method, path, headers={k.replace("_", "-"): v for k, v in fields.items()})
    response = client.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def raw(server: Server, data: bytes) -> bytes:
    """Send `data` as it is, and return all that comes until the server closes."""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(data)
        return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


# Where a URL leads


@pytest.mark.parametrize(
    ("url_path", "file"),
    [
        ("/binhost/blade/fleet/Packages", "binhost/blade/rings/fleet/current/Packages"),
        ("/binhost/blade/fleet/Packages.gz", "binhost/blade/rings/fleet/current/Packages.gz"),
        (
            "/binhost/blade/fleet/deployment.json",
            "binhost/blade/rings/fleet/current/deployment.json",
        ),
        (
            "/binhost/blade/fleet/deployment.json.asc",
            "binhost/blade/rings/fleet/current/deployment.json.asc",
        ),
        (
            "/binhost/blade/fleet/generation.json",
            "binhost/blade/rings/fleet/current/generation.json",
        ),
        (
            "/binhost/blade/fleet/deployments/12/kernel.tar",
            "binhost/blade/rings/fleet/deployments/12/kernel.tar",
        ),
        ("/binhost/blade/pool/a/b/c.gpkg.tar", "binhost/blade/pool/a/b/c.gpkg.tar"),
        ("/distfiles/a0/gtk%2b~1.tar.xz", "mirror/distfiles/a0/gtk+~1.tar.xz"),
        (f"/images/{DIGEST}.squashfs", f"mirror/images/{DIGEST}.squashfs"),
    ],
)
def test_a_url_of_the_contract_names_its_file(url_path: str, file: str) -> None:
    assert resolve(url_path, Roots(state=Path("/state"))) == Path("/state") / file


NOT_NAMED = [
    "",
    "/",
    "Packages",
    "/binhost",
    "/binhost/",
    "/binhost/blade",
    "/binhost/blade/fleet",
    "/binhost/blade/fleet/",
    "/binhost/blade/fleet/Packages/",
    "/binhost/blade/fleet/Packages.bz2",
    "/binhost/blade/fleet/current/Packages",
    "/binhost/blade/rings/fleet/current/Packages",
    "/binhost/blade/fleet/deployments/1",
    "/binhost/blade/fleet/deployments/1/",
    "/binhost/blade/fleet/deployments/x/Packages",
    "/binhost/blade/fleet/deployments/-1/Packages",
    "/binhost/blade/fleet/deployments/%C2%B2/Packages",
    "/binhost/blade/fleet/deployments/1/sub/Packages",
    "/binhost/blade/pool",
    "/binhost/blade/pool/",
    "/binhost/blade/pool/Packages/",
    "/binhost/blade/generations/Packages",
    "/binhost/blade/generations/1/generation.json",
    "/binhost/blade/generations/deployments/1/Packages",
    "/binhost/blade/pool/.hidden",
    "/binhost/blade/pool/.staging/half.gpkg.tar",
    "/binhost/blade/pool/%2ehidden",
    "/binhost/.blade/pool/x",
    "/distfiles",
    "/distfiles/",
    "/distfiles/../../headnode.sqlite",
    "/distfiles/%2e%2e/%2e%2e/headnode.sqlite",
    "/distfiles/.%2e/.%2E/headnode.sqlite",
    "/distfiles/..%2f..%2fheadnode.sqlite",
    "/distfiles/..%5c..%5cheadnode.sqlite",
    "/distfiles/..\\..\\headnode.sqlite",
    "/distfiles/%252e%252e/%252e%252e/headnode.sqlite/",
    "/distfiles//layout.conf",
    "/distfiles/%2flayout.conf",
    "/distfiles/./layout.conf",
    "/distfiles/layout.conf%00",
    "/distfiles/layout.conf%00.html",
    "/distfiles/layout.conf%0a",
    "/distfiles/%ff",
    "/distfiles/%c0%ae%c0%ae/x",
    "/distfiles/é",
    "/images/",
    "/images/x.squashfs",
    f"/images/{DIGEST.upper()}.squashfs",
    f"/images/{DIGEST}.squashfs%0a",
    f"/images/{DIGEST}.squashfs/x",
    "/mirror/distfiles/layout.conf",
    "/headnode.sqlite",
    "/keys/private",
    "/repos/gentoo/current/secret",
    "/etc/passwd",
    "/../../../../etc/passwd",
]


@pytest.mark.parametrize("url_path", NOT_NAMED)
def test_any_other_url_names_nothing(url_path: str) -> None:
    assert resolve(url_path, Roots(state=Path("/state"))) is None


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b?c=/d", "/a/b"),
        ("/a#b", "/a"),
        ("http://headnode:8080/a/b?c", "/a/b"),
        ("HTTP://headnode", "/"),
        ("*", "*"),
    ],
)
def test_a_request_target_is_read_in_either_form(target: str, path: str) -> None:
    assert path_of(target) == path


NASTY = [
    *(path for path in NOT_NAMED if path not in ("", "/") and path.isascii()),
    "//etc/passwd",
    "///../../etc/passwd",
    "/distfiles/../../../../../../../../etc/passwd",
    "http://headnode/../etc/passwd",
    "/distfiles/" + "%2e%2e/" * 40 + "etc/passwd",
    "/distfiles/" + "a/" * 3000 + "b",
    "/distfiles/" + "a" * 300,
    "/distfiles/layout.conf/x",
    "*",
]


@pytest.mark.parametrize("target", NASTY)
def test_a_nasty_path_is_a_plain_404(server: Server, target: str) -> None:
    answer = raw(server, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 404 Not Found"
    assert b"Content-Type: text/plain; charset=utf-8" in head
    assert body == b"404 Not Found\n"


def test_a_url_in_raw_bytes_is_a_404(server: Server) -> None:
    answer = raw(server, b"GET /distfiles/\xc3\xa9 HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_a_symlink_out_of_the_root_is_a_404(
    state: Path, client: http.client.HTTPConnection
) -> None:
    pool = state / "binhost/blade/pool"
    (pool / "file").symlink_to(state / "keys/private")
    (pool / "folder").symlink_to(state / "keys")
    (pool / "up").symlink_to("../../..")
    (pool / "inside").symlink_to("app-misc/hello/hello-1.0-1.gpkg.tar")
    (pool / "current").symlink_to("app-misc")
    for name in ("file", "folder/private", "up/keys/private", "inside", "current/hello"):
        assert ask(client, f"/binhost/blade/pool/{name}")[0] == 404


@pytest.mark.parametrize(
    "target",
    ["../../../../keys", "/etc", "deployments/../deployments/1", "deployments/x", "deployments/9"],
)
def test_a_ring_link_that_leads_elsewhere_is_a_404(
    state: Path, client: http.client.HTTPConnection, target: str
) -> None:
    ring = state / "binhost/blade/rings/fleet"
    put(state / "keys/Packages", b"no")
    (ring / "deployments/x").symlink_to("1")
    point_symlink(ring / "current", target)
    assert ask(client, "/binhost/blade/fleet/Packages")[0] == 404


def test_a_folder_in_place_of_the_ring_link_is_a_404(
    state: Path, client: http.client.HTTPConnection
) -> None:
    put(state / "binhost/blade/rings/odd/current/Packages", b"no")
    assert ask(client, "/binhost/blade/odd/Packages")[0] == 404


def test_folders_fifos_and_missing_files_are_404s(
    state: Path, client: http.client.HTTPConnection
) -> None:
    os.mkfifo(state / "mirror/distfiles/fifo")
    for path in ("fifo", "a0", "missing"):
        assert ask(client, f"/distfiles/{path}")[::2] == (404, b"404 Not Found\n")


def test_a_state_folder_that_is_itself_a_link_is_served(state: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(state)
    with serve("127.0.0.1", 0, tmp_path / "link") as server:
        assert raw(server, f"GET {HELLO} HTTP/1.0\r\n\r\n".encode()).endswith(PACKAGE)


# What is answered


def test_a_package_carries_all_that_caches_need(client: http.client.HTTPConnection) -> None:
    status, fields, body = ask(client, HELLO)
    assert (status, body) == (200, PACKAGE)
    etag, date = fields.pop("ETag"), fields.pop("Date")
    assert etag.startswith('"')
    assert date.endswith(" GMT")
    assert fields == {
        "Server": "headnode",
        "Content-Type": "application/octet-stream",
        "Content-Length": "10240",
        "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=31536000, immutable",
    }


@pytest.mark.parametrize(
    ("path", "kind", "kept"),
    [
        ("/binhost/blade/fleet/Packages.gz", "application/gzip", "no-cache"),
        ("/binhost/blade/fleet/deployment.json", "application/json", "no-cache"),
        ("/binhost/blade/fleet/deployment.json.asc", "application/pgp-signature", "no-cache"),
        ("/binhost/blade/fleet/generation.json", "application/json", "no-cache"),
        ("/binhost/blade/fleet/deployments/1/Packages.gz", "application/gzip", None),
        ("/distfiles/layout.conf", "text/plain; charset=utf-8", None),
        ("/distfiles/a0/gtk+~1%20%c3%a9.tar.xz", "application/octet-stream", None),
        (
            f"/images/{DIGEST}.squashfs",
            "application/octet-stream",
            "public, max-age=31536000, immutable",
        ),
    ],
)
def test_every_kind_of_file_is_served_unencoded_with_its_type(
    client: http.client.HTTPConnection, path: str, kind: str, kept: str | None
) -> None:
    status, fields, body = ask(client, path, Accept_Encoding="gzip")
    assert (status, fields["Content-Type"], fields.get("Cache-Control")) == (200, kind, kept)
    assert "Content-Encoding" not in fields
    assert len(body) == int(fields["Content-Length"]) > 0


@pytest.mark.parametrize("accepted", ["gzip", "br, GZIP;q=0.5", "*", "deflate, x-gzip"])
def test_the_plain_index_is_compressed_for_who_asks(
    client: http.client.HTTPConnection, accepted: str
) -> None:
    status, fields, body = ask(client, INDEX_URL, Accept_Encoding=accepted)
    assert (status, gzip.decompress(body)) == (200, INDEX)
    assert body == ask(client, f"{INDEX_URL}.gz")[2]
    assert fields["Content-Encoding"] == "gzip"
    assert fields["Content-Type"] == "text/plain; charset=utf-8"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Vary"] == "Accept-Encoding"
    assert fields["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "*;q=0.0", "gzip; q=0, *"])
def test_the_plain_index_is_plain_for_who_does_not_ask(
    client: http.client.HTTPConnection, accepted: str
) -> None:
    status, fields, body = ask(client, INDEX_URL, Accept_Encoding=accepted)
    assert (status, body, fields["Vary"]) == (200, INDEX, "Accept-Encoding")
    assert "Content-Encoding" not in fields


def test_each_form_of_the_index_has_a_tag_of_its_own(client: http.client.HTTPConnection) -> None:
    plain = ask(client, INDEX_URL, Accept_Encoding="identity")[1]
    packed = ask(client, INDEX_URL, Accept_Encoding="gzip")[1]
    assert plain["ETag"] != packed["ETag"]
    assert plain["Last-Modified"] == packed["Last-Modified"]
    for tag, accepted, status in (
        (plain["ETag"], "identity", 304),
        (plain["ETag"], "gzip", 200),
        (packed["ETag"], "gzip", 304),
        (packed["ETag"], "identity", 200),
    ):
        answer = ask(client, INDEX_URL, Accept_Encoding=accepted, If_None_Match=tag)
        assert (answer[0], answer[1]["Vary"]) == (status, "Accept-Encoding")


@pytest.mark.parametrize("path", ["/distfiles/Packages", "/binhost/blade/pool/Packages"])
def test_a_file_that_is_only_called_like_an_index_is_never_encoded(
    state: Path, client: http.client.HTTPConnection, path: str
) -> None:
    for folder in ("mirror/distfiles", "binhost/blade/pool"):
        put(state / folder / "Packages", b"plain")
        put(state / folder / "Packages.gz", b"packed")
    _, fields, body = ask(client, path, Accept_Encoding="gzip")
    assert (fields.get("Content-Encoding"), body) == (None, b"plain")


def test_an_index_without_its_compressed_form_is_plain(
    state: Path, client: http.client.HTTPConnection
) -> None:
    (state / "binhost/blade/rings/fleet/deployments/1/Packages.gz").unlink()
    _, fields, body = ask(client, INDEX_URL, Accept_Encoding="gzip")
    assert (fields.get("Content-Encoding"), body) == (None, INDEX)


def test_the_root_and_the_health_page_answer_in_one_line(
    client: http.client.HTTPConnection,
) -> None:
    assert ask(client, "/")[::2] == (200, b"headnode: see /binhost, /distfiles and /images.\n")
    assert ask(client, "/healthz?from=monitor")[::2] == (200, b"ok\n")


def test_an_empty_file_is_an_empty_200(client: http.client.HTTPConnection) -> None:
    status, fields, body = ask(client, "/binhost/blade/pool/empty")
    assert (status, fields["Content-Length"], body) == (200, "0", b"")
    assert ask(client, "/binhost/blade/pool/empty", Range="bytes=0-")[0] == 416


@pytest.mark.parametrize("path", [HELLO, "/healthz", "/missing", "/binhost/blade/pool/empty"])
def test_head_has_the_fields_of_get_and_no_body(
    client: http.client.HTTPConnection, path: str
) -> None:
    by_get, by_head = ask(client, path), ask(client, path, "HEAD")
    by_get[1].pop("Date"), by_head[1].pop("Date")
    assert by_head == (by_get[0], by_get[1], b"")


def test_head_ignores_a_range(client: http.client.HTTPConnection) -> None:
    status, fields, _ = ask(client, HELLO, "HEAD", Range="bytes=0-1")
    assert (status, fields["Content-Length"]) == (200, "10240")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_another_method_is_a_405_that_names_the_two(
    client: http.client.HTTPConnection, method: str
) -> None:
    status, fields, body = ask(client, HELLO, method)
    assert (status, fields["Allow"], body) == (405, "GET, HEAD", b"405 Method Not Allowed\n")


# Parts of files


@pytest.mark.parametrize(
    ("field", "span"),
    [
        ("bytes=0-0", [Span(0, 1)]),
        ("bytes=0-999", [Span(0, 1000)]),
        ("bytes=990-", [Span(990, 10)]),
        ("bytes=990-10000", [Span(990, 10)]),
        ("bytes=-10", [Span(990, 10)]),
        ("bytes=-10000", [Span(0, 1000)]),
        ("Bytes= 5-6 ", [Span(5, 2)]),
        ("bytes=0-1,500-501", [Span(0, 2), Span(500, 2)]),
        ("bytes=500-501, ,0-1,", [Span(500, 2), Span(0, 2)]),
        ("bytes=0-1,-1", [Span(0, 2), Span(999, 1)]),
        ("bytes=0-1,2000-", [Span(0, 2)]),
        ("bytes=-", []),
        ("bytes=6-5", []),
        ("bytes=6000-5000", []),
        ("bytes=0-1,6-5", []),
        ("bytes=a-b", []),
        ("bytes=²-", []),
        ("bytes=" + "9" * 5000 + "-", []),
        ("bytes=,", []),
        ("lines=0-1", []),
        ("", []),
    ],
)
def test_a_range_field_names_its_bytes(field: str, span: list[Span]) -> None:
    assert list(parse_range(field, 1000)) == span


@pytest.mark.parametrize("field", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,-0"])
def test_a_range_without_a_byte_cannot_be_satisfied(field: str) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range(field, 100)


@pytest.mark.parametrize(
    ("field", "spans"),
    [
        ("bytes=0-9,5-19", [Span(0, 20)]),
        ("bytes=500-509,0-9,10-19", [Span(500, 10), Span(0, 20)]),
        ("bytes=0-9,40-49", [Span(0, 50)]),  # a part's own head would be longer than the gap
        ("bytes=0-,10-19,30-39", [Span(0, 1000)]),
    ],
)
def test_ranges_that_touch_or_overlap_are_one(field: str, spans: list[Span]) -> None:
    assert list(parse_range(field, 1000)) == spans


@pytest.mark.parametrize(
    "field",
    [
        "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 17_000, 1000)),
        "bytes=0-,0-,0-,0-",
        "bytes=0-," * 1000 + "0-",
    ],
)
def test_more_ranges_than_an_honest_client_sends_are_the_whole_file(field: str) -> None:
    assert parse_range(field, 100_000) == ()


@pytest.mark.parametrize(
    ("field", "start", "end"), [("bytes=10-19", 10, 20), ("bytes=10000-", 10000, None)]
)
def test_a_range_is_a_206_with_just_these_bytes(
    client: http.client.HTTPConnection, field: str, start: int, end: int | None
) -> None:
    status, fields, body = ask(client, HELLO, Range=field)
    assert (status, body) == (206, PACKAGE[start:end])
    assert fields["Content-Range"] == f"bytes {start}-{start + len(body) - 1}/10240"
    assert fields["Content-Length"] == str(len(body))


def test_a_range_behind_the_end_is_a_416_with_the_size(client: http.client.HTTPConnection) -> None:
    status, fields, body = ask(client, HELLO, Range="bytes=10240-")
    assert (status, fields["Content-Range"]) == (416, "bytes */10240")
    assert body == f"416 {HTTPStatus(416).phrase}\n".encode()


def test_several_ranges_are_the_parts_of_one_message(client: http.client.HTTPConnection) -> None:
    status, fields, body = ask(client, HELLO, Range="bytes=5000-5009,0-1,-3,20000-")
    assert status == 206
    assert fields["Content-Length"] == str(len(body))
    assert "Content-Range" not in fields
    head = f"Content-Type: {fields['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body)
    assert message.get_content_type() == "multipart/byteranges"
    parts = [
        (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
        for part in message.get_payload()
    ]
    assert parts == [
        ("application/octet-stream", "bytes 5000-5009/10240", PACKAGE[5000:5010]),
        ("application/octet-stream", "bytes 0-1/10240", PACKAGE[:2]),
        ("application/octet-stream", "bytes 10237-10239/10240", PACKAGE[-3:]),
    ]


def test_too_many_ranges_are_answered_with_the_whole(client: http.client.HTTPConnection) -> None:
    assert ask(client, HELLO, Range="bytes=0-,0-,0-,0-")[::2] == (200, PACKAGE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_several_ranges_of_a_large_file(
    state: Path, server: Server, tmp_path: Path
) -> None:
    url = sparse(state, 50 << 20)
    ranges = "0-5000000,20000000-29999999,-3"
    argv = ["curl", "--fail", "--silent", "-r", ranges, "-o", tmp_path / "parts", server.url + url]
    run(argv, timeout_s=20)
    parts = (tmp_path / "parts").read_bytes()
    assert parts.count(bytes(5_000_000)) == 3
    assert b"\r\n\r\nend\r\n--headnode-" in parts


def test_if_range_resumes_the_same_file_and_restarts_another(
    client: http.client.HTTPConnection,
) -> None:
    same = ask(client, HELLO, "HEAD")[1]
    for validator in (same["ETag"], same["Last-Modified"]):
        assert ask(client, HELLO, Range="bytes=5-", If_Range=validator)[0] == 206
    later = formatdate(STAMP + 1, usegmt=True)
    for validator in ('"other"', f"W/{same['ETag']}", later, "nonsense"):
        assert ask(client, HELLO, Range="bytes=5-", If_Range=validator)[::2] == (200, PACKAGE)


# Conditions


def test_what_the_client_has_is_a_304_without_body(client: http.client.HTTPConnection) -> None:
    etag = ask(client, HELLO)[1]["ETag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        status, fields, body = ask(client, HELLO, If_None_Match=tags)
        assert (status, body, fields["ETag"]) == (304, b"", etag)
        assert "Content-Length" not in fields


@pytest.mark.parametrize(("seconds", "status"), [(-1, 200), (0, 304), (5, 304), (10**9, 304)])
def test_a_file_not_newer_than_the_date_is_a_304(
    client: http.client.HTTPConnection, seconds: int, status: int
) -> None:
    since = formatdate(STAMP + seconds, usegmt=True)
    assert ask(client, HELLO, If_Modified_Since=since)[0] == status


def test_a_date_that_is_none_is_ignored(client: http.client.HTTPConnection) -> None:
    for nonsense in ("yesterday", "", "Tue, 99 Nov 2023 99:99:99 GMT", "1, 1 Jan 99999999"):
        assert ask(client, HELLO, If_Modified_Since=nonsense)[0] == 200


def test_a_tag_counts_more_than_a_date(client: http.client.HTTPConnection) -> None:
    since = formatdate(STAMP, usegmt=True)
    answer = ask(client, HELLO, If_None_Match='"other"', If_Modified_Since=since)
    assert answer[0] == 200


def test_a_file_other_than_the_one_meant_is_a_412(client: http.client.HTTPConnection) -> None:
    etag = ask(client, HELLO)[1]["ETag"]
    before = formatdate(STAMP - 1, usegmt=True)
    assert ask(client, HELLO, If_Match='"other"')[0] == 412
    assert ask(client, HELLO, If_Unmodified_Since=before)[0] == 412
    assert ask(client, HELLO, If_Match=etag, If_Unmodified_Since=before)[0] == 200


def test_a_file_written_anew_has_another_tag(
    state: Path, client: http.client.HTTPConnection
) -> None:
    path, url = state / "mirror/distfiles/layout.conf", "/distfiles/layout.conf"
    etag = ask(client, url)[1]["ETag"]
    write_atomic(path, path.read_bytes(), mtime=STAMP)
    assert ask(client, url, If_None_Match=etag)[0] == 200


# Portage, curl and wget


def test_portage_gets_304_for_the_index_it_has_and_the_newer_one(
    state: Path, server: Server
) -> None:
    from portage.util._urlopen import urlopen

    url = f"{server.url}/binhost/blade/fleet/Packages.gz"
    first = urlopen(url)
    assert gzip.decompress(first.read()) == INDEX
    assert first.headers["timestamp"] == str(STAMP)
    with pytest.raises(HTTPError) as caught:
        urlopen(url, if_modified_since=str(STAMP))
    assert caught.value.code == 304
    assert caught.value.headers["Last-Modified"] == formatdate(STAMP, usegmt=True)
    deploy(state, 2, INDEX + b"\n", STAMP + 6)
    assert gzip.decompress(urlopen(url, if_modified_since=str(STAMP)).read()) == INDEX + b"\n"


def test_portage_reads_the_plain_index(server: Server) -> None:
    from portage.util._urlopen import urlopen

    assert urlopen(f"{server.url}/binhost/blade/fleet/Packages").read() == INDEX


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_resumes(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "hello"
    target.write_bytes(PACKAGE[:4000])
    url = server.url + HELLO
    run(["curl", "--fail", "--silent", "-C", "-", "-o", target, url], timeout_s=20)
    assert target.read_bytes() == PACKAGE


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")
def test_wget_resumes_and_leaves_a_complete_file_alone(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "hello"
    target.write_bytes(PACKAGE[:4000])
    argv = ["wget", "--tries=1", "-c", "-O", str(target), server.url + HELLO]
    assert "206 Partial Content" in run(argv, timeout_s=20).errors
    assert target.read_bytes() == PACKAGE
    assert "already fully retrieved" in run(argv, timeout_s=20).errors
    assert target.read_bytes() == PACKAGE


# Connections


def test_a_connection_is_kept_for_many_requests(client: http.client.HTTPConnection) -> None:
    ask(client, "/healthz")
    port = client.sock.getsockname()[1]
    for path in (HELLO, "/missing", "/", "/binhost/blade/fleet/Packages.gz") * 20:
        ask(client, path)
        assert client.sock.getsockname()[1] == port


def test_small_files_do_not_wait_for_a_delayed_acknowledgement(
    client: http.client.HTTPConnection,
) -> None:
    started = time.monotonic()
    for _ in range(100):
        ask(client, HELLO)
    assert time.monotonic() - started < 2.0  # 44 ms each is 4.4 s


def test_requests_sent_in_one_go_are_answered_in_order(server: Server) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(server, b"\r\n" + one + one + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.endswith(b"headnode: see /binhost, /distfiles and /images.\n")


def test_an_old_client_is_kept_only_if_it_asks(server: Server) -> None:
    assert b"Connection: close\r\n" in raw(server, b"GET /healthz HTTP/1.0\r\n\r\n")
    asks = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = raw(server, asks + b"GET /healthz HTTP/1.0\n\n")
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b"Connection: keep-alive\r\n") == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /healthz HTTP/x\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 150 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 100_000, 431),
        (b"GET /" + b"a" * 100_000, 414),
        (b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 20_000, 414),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_the_connection_closed(
    server: Server, data: bytes, status: int
) -> None:
    is_refused(server, data, status)


def test_half_a_request_is_refused_after_a_while(quick: Server) -> None:
    is_refused(quick, b"GET / HTTP/1.1\r\nHost:", 408)


def is_refused(server: Server, data: bytes, status: int) -> None:
    answer = raw(server, data)
    words = f"{status} {HTTPStatus(status).phrase}"
    assert answer.startswith(f"HTTP/1.1 {words}\r\n".encode())
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(f"\r\n\r\n{words}\n".encode())


def test_a_body_is_not_taken_for_the_next_request(server: Server) -> None:
    inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
    answer = raw(server, head + inner)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer


def test_a_client_that_sends_nothing_is_dropped_in_silence(quick: Server) -> None:
    started = time.monotonic()
    assert raw(quick, b"") == b""
    assert 0.3 < time.monotonic() - started < 3.0


def test_a_client_that_trickles_is_dropped(quick: Server) -> None:
    started = time.monotonic()
    with socket.create_connection(quick.address, timeout=10) as connection:
        connection.settimeout(0.1)
        while time.monotonic() - started < 5.0:
            connection.sendall(b"x")
            try:
                answer = connection.recv(4096)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert time.monotonic() - started < 3.0


def sparse(state: Path, size_bytes: int) -> str:
    """A large distfile with a word at its end; its URL path."""
    with (state / "mirror/distfiles/large").open("wb") as file:
        file.seek(size_bytes - 3)
        file.write(b"end")
    return "/distfiles/large"


def test_a_client_that_takes_nothing_is_dropped(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = sparse(state, 50 << 20)
    with logged(state, QUICK) as server, socket.create_connection(server.address) as connection:
        connection.sendall(f"GET {url} HTTP/1.0\r\n\r\n".encode())
        deadline = time.monotonic() + 10.0
        while not access_lines(state) and time.monotonic() < deadline:
            time.sleep(0.05)
    [line] = access_lines(state)
    assert 0 < int(line.split()[9]) < 50 << 20
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_large_file_arrives_whole(state: Path, client: http.client.HTTPConnection) -> None:
    url = sparse(state, 50 << 20)
    client.request("GET", url)
    response, digest = client.getresponse(), hashlib.sha256()
    while chunk := response.read(1 << 20):
        digest.update(chunk)
    local = hashlib.sha256((state / "mirror/distfiles/large").read_bytes())
    assert digest.hexdigest() == local.hexdigest()
    assert ask(client, url, Range="bytes=-3")[::2] == (206, b"end")


@pytest.mark.parametrize("connections", [128, 8])
def test_fifty_eight_clients_at_once_get_everything(state: Path, connections: int) -> None:
    wrong: list[object] = []

    def blade(address: tuple[str, int]) -> None:
        try:
            client = http.client.HTTPConnection(*address, timeout=30)
            for _ in range(20):
                if ask(client, HELLO)[::2] != (200, PACKAGE):
                    wrong.append("another content")
            client.close()
        except Exception as error:
            wrong.append(error)

    with serve("127.0.0.1", 0, state, limits=Limits(connections=connections)) as server:
        blades = [threading.Thread(target=blade, args=(server.address,)) for _ in range(58)]
        for thread in blades:
            thread.start()
        for thread in blades:
            thread.join()
    assert wrong == []


def test_more_clients_than_there_is_room_for_wait_and_are_served(state: Path) -> None:
    limits = Limits(connections=2, read_s=1.0)
    with serve("127.0.0.1", 0, state, limits=limits) as server:
        idle = [socket.create_connection(server.address) for _ in range(2)]
        client = http.client.HTTPConnection(*server.address, timeout=10)
        assert ask(client, "/healthz")[0] == 200
        client.close()
        for connection in idle:
            connection.close()


def test_a_busy_server_closes_what_it_would_keep_otherwise(state: Path) -> None:
    with serve("127.0.0.1", 0, state, limits=Limits(connections=1)) as server:
        answer = raw(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Connection: close\r\n" in answer


def test_a_client_that_vanishes_leaves_no_complaint(
    state: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = sparse(state, 50 << 20)
    for _ in range(5):
        with socket.create_connection(server.address) as connection:
            connection.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(1000)
    assert raw(server, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
    server.stop()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


# Files that change while they are read


def test_a_ring_that_moves_during_a_download_leaves_the_old_bytes_whole(
    state: Path, server: Server
) -> None:
    old, new = os.urandom(1 << 20) * 16, b"new"
    deploy(state, 2, old, STAMP + 10)
    request = b"GET /binhost/blade/fleet/Packages HTTP/1.0\r\n\r\n"
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(request)
        begun = connection.recv(100)
        deploy(state, 3, new, STAMP + 20)
        shutil.rmtree(state / "binhost/blade/rings/fleet/deployments/2")
        body = (begun + receive_all(connection)).partition(b"\r\n\r\n")[2]
    assert hashlib.sha256(body).digest() == hashlib.sha256(old).digest()
    assert raw(server, request).endswith(b"\r\n\r\nnew")


def test_an_index_is_one_deployment_or_the_other_while_the_ring_moves(
    state: Path, client: http.client.HTTPConnection
) -> None:
    stop = threading.Event()

    def publish() -> None:
        number = 1
        while not stop.is_set():
            number += 1
            deploy(state, number, f"{number} ".encode() * number * 50, STAMP + 6 * number)

    publisher = threading.Thread(target=publish)
    publisher.start()
    seen: list[Answer] = []
    deadline = time.monotonic() + 20.0
    try:
        while len({body for _, _, body in seen}) < 10 and time.monotonic() < deadline:
            seen += [ask(client, "/binhost/blade/fleet/Packages") for _ in range(50)]
    finally:
        stop.set()
        publisher.join()
    assert len({body for _, _, body in seen}) >= 10
    for status, fields, body in seen:
        number = int(body.split()[0]) if body != INDEX else 1
        assert status == 200
        assert body == (INDEX if number == 1 else f"{number} ".encode() * number * 50)
        moved = STAMP if number == 1 else STAMP + 6 * number
        assert fields["Last-Modified"] == formatdate(moved, usegmt=True)


def test_a_file_that_shrinks_ends_the_connection(state: Path, server: Server) -> None:
    url = sparse(state, 50 << 20)
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(100)
        os.truncate(state / "mirror/distfiles/large", 1000)
        assert len(receive_all(connection)) < 50 << 20


def test_a_failing_disk_is_a_503_and_logged(
    state: Path,
    client: http.client.HTTPConnection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(state: Path, file: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("binhost.openfiles.open_beneath", broken)
    status, _, body = ask(client, "/distfiles/layout.conf")
    assert (status, body) == (503, b"503 Service Unavailable\n")
    assert caplog.messages == [
        "/distfiles/layout.conf cannot be served: [Errno 5] Input/output error"
    ]


def open_files(state: Path) -> list[str]:
    """The files of the state folder that this process, and so the server, has open."""
    handles = Path("/proc/self/fd").iterdir()
    links = [str(link.readlink()) for link in handles if link.is_symlink()]
    return sorted(link for link in links if link.startswith(str(state)))


def test_only_files_that_were_sent_are_kept_open_and_each_once(
    state: Path, client: http.client.HTTPConnection
) -> None:
    etag = ask(client, HELLO)[1]["ETag"]
    for fields in ({}, {"If_None_Match": etag}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999-"}):
        for path in (HELLO, "/distfiles/a0", "/distfiles/missing"):
            ask(client, path, **fields)
    assert open_files(state) == [
        str(state / "binhost/blade/pool/app-misc/hello/hello-1.0-1.gpkg.tar")
    ]


def test_a_file_is_closed_when_it_is_deleted_or_not_asked_for_again(state: Path) -> None:
    files = OpenFiles(Roots(state=state))
    assert files.find(HELLO) is not None
    assert files.find("/distfiles/layout.conf") is not None
    files.drop_idle()
    assert len(open_files(state)) == 2
    assert files.find(HELLO) is not None
    files.drop_idle()
    assert open_files(state) == [
        str(state / "binhost/blade/pool/app-misc/hello/hello-1.0-1.gpkg.tar")
    ]
    assert files.find(HELLO) is not None
    (state / "binhost/blade/pool/app-misc/hello/hello-1.0-1.gpkg.tar").unlink()
    files.drop_idle()
    assert open_files(state) == []
    assert files.find(HELLO) is None


def test_no_more_files_are_kept_open_than_the_cache_has_places(
    state: Path, client: http.client.HTTPConnection
) -> None:
    for number in range(KEPT_FILES + 10):
        put(state / f"mirror/distfiles/{number}", b"x" * number)
    for number in range(KEPT_FILES + 10):
        assert ask(client, f"/distfiles/{number}")[::2] == (200, b"x" * number)
    assert len(open_files(state)) == KEPT_FILES
    assert ask(client, "/distfiles/0")[::2] == (200, b"")


def test_a_file_is_never_answered_from_memory_once_it_has_changed(
    state: Path, client: http.client.HTTPConnection
) -> None:
    path, url = state / "mirror/distfiles/file", "/distfiles/file"
    for number in range(50):
        content = f"{number:02}".encode() * 100
        if number % 2:
            write_atomic(path, content, mtime=STAMP)
        else:
            put(path, content, STAMP + number)
        assert ask(client, url)[2] == content
    path.unlink()
    assert ask(client, url)[0] == 404
    path.symlink_to(state / "keys/private")
    assert ask(client, url)[0] == 404


# The access log


def logged(state: Path, limits: Limits = USUAL) -> Server:
    """A server that writes its access log beside the state folder."""
    site = Site(roots=Roots(state=state), limits=limits, access_log=state.with_name("access.log"))
    return Server(open_listener("127.0.0.1", 0), site)


def access_lines(state: Path, name: str = "access.log") -> list[str]:
    return state.with_name(name).read_text().splitlines()


def test_every_request_is_a_line_of_the_combined_format(state: Path) -> None:
    with logged(state) as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        ask(client, HELLO, User_Agent="Gentoo Portage", Referer='a "quote"\x1b')
        ask(client, "/healthz", "HEAD")
        ask(client, HELLO, Range="bytes=0-1")
        raw(server, b"nonsense\r\n\r\n")
        client.close()
    lines = access_lines(state)
    dates = [line.partition("[")[2].partition("]")[0] for line in lines]
    assert [line.replace(date, "") for line, date in zip(lines, dates, strict=True)] == [
        f'127.0.0.1 - - [] "GET {HELLO} HTTP/1.1" 200 10240 '
        '"a \\x22quote\\x22\\x1b" "Gentoo Portage"',
        '127.0.0.1 - - [] "HEAD /healthz HTTP/1.1" 200 0 "-" "-"',
        f'127.0.0.1 - - [] "GET {HELLO} HTTP/1.1" 206 2 "-" "-"',
        '127.0.0.1 - - [] "nonsense" 400 16 "-" "-"',
    ]


def test_a_log_that_cannot_be_begun_anew_goes_on_in_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    access = AccessLog(folder / "access.log")
    folder.rename(tmp_path / "moved")
    access.reopen()
    access.add("a line\n")
    access.close()
    assert (tmp_path / "moved/access.log").read_text() == "a line\n"
    assert caplog.messages == [
        f"{folder}/access.log cannot be opened anew, the old file stays: "
        f"[Errno 2] No such file or directory: '{folder}/access.log'"
    ]


def test_a_full_disk_loses_lines_of_the_log_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    access = AccessLog(Path("/dev/full"))
    access.add("a line\n")
    access.flush()
    access.close()
    assert caplog.messages == ["/dev/full cannot be written: [Errno 28] No space left on device"]


def test_the_log_tells_the_time_in_utc() -> None:
    assert stamp(STAMP) == "14/Nov/2023:22:13:20 +0000"


# Start and stop


def test_a_port_in_use_is_an_error_that_says_what_to_do(server: Server, state: Path) -> None:
    port = server.address[1]
    with pytest.raises(EnvironmentLacksError) as caught:
        serve("127.0.0.1", port, state)
    assert str(caught.value) == (
        f"The HTTP server cannot listen on 127.0.0.1, port {port}. Stop what holds the port, or "
        "configure another address or port:\n  - Address already in use"
    )
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_address_of_another_machine_is_an_error(state: Path) -> None:
    with pytest.raises(EnvironmentLacksError, match="Cannot assign requested address"):
        serve("192.0.2.1", 0, state)


def test_the_running_transfer_is_finished_and_idle_clients_let_go(state: Path) -> None:
    url = sparse(state, 50 << 20)
    server = serve("127.0.0.1", 0, state, limits=Limits(stop_s=20.0))
    with (
        socket.create_connection(server.address, timeout=10) as idle,
        socket.create_connection(server.address, timeout=10) as busy,
    ):
        busy.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        begun = busy.recv(100)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert idle.recv(100) == b""
        body = (begun + receive_all(busy)).partition(b"\r\n\r\n")[2]
        stopper.join(10)
    assert len(body) == 50 << 20
    assert not stopper.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=1)


def test_a_transfer_that_takes_too_long_is_cut_off(state: Path) -> None:
    url = sparse(state, 50 << 20)
    server = serve("127.0.0.1", 0, state, limits=Limits(stop_s=0.2))
    with socket.create_connection(server.address, timeout=10) as slow:
        slow.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        slow.recv(100)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("http-")]


def test_stop_and_start_may_be_called_twice(state: Path) -> None:
    with serve("127.0.0.1", 0, state) as server:
        server.start()
        server.stop()


def test_both_address_families_are_served(state: Path) -> None:
    with serve("::", 0, state) as server:
        assert server.url == f"http://[::]:{server.address[1]}"
        for host in ("127.0.0.1", "::1"):
            client = http.client.HTTPConnection(host, server.address[1], timeout=10)
            assert ask(client, "/healthz")[0] == 200
            client.close()
