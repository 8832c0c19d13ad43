"""Cutting heads out of what arrives, and reading them quickly: as `http.server` itself does."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from io import BytesIO

import pytest

from binhost.heads import Fields, HeadBuffer, HeadError, joined, quick_head


class Stock(BaseHTTPRequestHandler):
    """The base class's own parser; what it refuses has a status in `refused`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, head: bytes) -> None:
        self.refused = 0
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        self.parsed = self.parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.refused = code

    def handle_expect_100(self) -> bool:
        return True

    @property
    def all_fields(self) -> Fields:
        return joined(self.headers.items())


PORTAGE = (
    b"GET /binhost/blade/fleet/Packages.gz HTTP/1.1\r\nAccept-Encoding: gzip\r\nHost: h:8080\r\n"
    b"User-Agent: Gentoo Portage\r\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:25 GMT\r\n"
    b"Connection: close\r\n\r\n"
)
WGET = (
    b"GET /distfiles/x HTTP/1.1\r\nUser-Agent: Wget/1.21.3\r\nAccept: */*\r\n"
    b"Accept-Encoding: identity\r\nHost: h:8080\r\nConnection: Keep-Alive\r\n\r\n"
)
ORDINARY = [
    PORTAGE,
    WGET,
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nhost:x\r\nA:\r\nB: \t b \t \r\n\r\n",
    b'POST /x HTTP/1.1\r\nHost: x\r\nX-Colon: a:b: c\r\nX-Quote: "\\" \'\r\n\r\n',
    b"GET /x HTTP/1.1\r\nHost: x\r\nX-Latin: \xe9\xff\r\n\r\n",
]
ODD = [
    b"GET  /x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x\r\n\r\n",
    b"GET /x HTTP/2.0\r\n\r\n",
    b"GET /x HTTP/1.1 \r\nHost: x\r\n\r\n",
    b"GET /x HTTP/1.1\nHost: x\n\n",
    b"GET /x HTTP/1.1\r\nHost: x\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /x HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /x HTTP/1.1\r\n: empty\r\n\r\n",
    b"GET /x HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    b"G\xe9T /x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(80)) + b"\r\n",
    b"\x16\x03\x01\r\n\r\n",
]


@pytest.mark.parametrize("head", ORDINARY)
def test_an_ordinary_head_is_read_quickly_and_as_the_stock_parser_does(head: bytes) -> None:
    quick, stock = quick_head(head), Stock(head)
    assert quick is not None
    assert stock.parsed
    assert (quick.line, quick.command, quick.target, quick.version) == (
        *(stock.requestline, stock.command, stock.path, stock.request_version),
    )
    assert quick.fields == {name: value.strip() for name, value in stock.all_fields.items()}


@pytest.mark.parametrize("head", ODD)
def test_an_odd_head_is_left_to_the_stock_parser(head: bytes) -> None:
    assert quick_head(head) is None


def test_heads_are_cut_out_wherever_the_network_cut_them() -> None:
    stream = b"\r\n" + PORTAGE + WGET + b"\n" + b"GET / HTTP/1.0\n\n" + PORTAGE
    expected = [PORTAGE, WGET, b"GET / HTTP/1.0\n\n", PORTAGE]
    for size in (1, 2, 3, 7, 100, 200, len(stream)):
        buffer, heads = HeadBuffer(1000), []
        for start in range(0, len(stream), size):
            buffer.feed(stream[start : start + size])
            while (head := buffer.next()) is not None:
                heads.append(head)
        assert heads == expected
        assert buffer.data == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 1000, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1000, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1000 + b"\r\n\r\n", 431),
    ],
)
def test_a_head_above_the_limit_is_refused_as_soon_as_that_is_known(
    data: bytes, status: int
) -> None:
    buffer = HeadBuffer(1000)
    buffer.feed(data)
    with pytest.raises(HeadError) as caught:
        buffer.next()
    assert caught.value.status == status


def test_a_head_of_just_the_limit_is_taken() -> None:
    head = b"GET / HTTP/1.1\r\nA: " + b"b" * 77 + b"\r\n\r\n"
    buffer = HeadBuffer(len(head))
    buffer.feed(head + b"more of the next" * 10)
    assert buffer.next() == head
