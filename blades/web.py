"""Ask the headnode for a file: as little of HTTP as that takes. Part of the pull on a blade.

A pull that finds nothing new is done in two hundredths of a second, and urllib alone would take
longer to import. HTTP/1.0: the answer ends with the connection, and comes in no chunks (RFC 1945).
"""

from __future__ import annotations

import socket

HTTP_TIMEOUT_S = 30.0
MOST_BYTES = 256 << 20
HEAD_BYTES = 64 << 10


class WebError(Exception):
    """There is no such file, or no answer; the text says which. `status` is 0 without one."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class NoAnswerError(WebError):
    """Nothing answers there. `refused`: but its machine does, so the way to it is good."""

    def __init__(self, text: str, *, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


class Answer:
    """A file, and the headnode's clock as the header `Date` had it (empty: it had none)."""

    __slots__ = ("content", "date")

    def __init__(self, content: bytes, date: str) -> None:
        self.content = content
        self.date = date


def split_url(url: str) -> tuple[str, int, str]:
    """The host, the port and the path of an address `http://host[:port]/path`.

    Raises:
        WebError: it is another kind of address.
    """
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, "80"
    if scheme != "http" or not host or not port.isdecimal():
        raise WebError(f"{url} is no address http://host:port/path")
    return host.strip("[]"), int(port), f"/{path}"


def get(url: str) -> Answer:
    """Fetch `url`.

    Raises:
        NoAnswerError: nobody is there: its name, the connection, or the first byte is missing.
        WebError: it answers with anything but the file, or hangs up.
    """
    host, port, path = split_url(url)
    head = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: headnode-pull\r\n\r\n"
    came = b""
    try:
        with socket.create_connection((host, port), HTTP_TIMEOUT_S) as way:
            way.sendall(head.encode("ascii"))
            came = way.recv(65536)
            return _read(way, url, came)
    except (OSError, UnicodeError) as error:
        if came:
            raise WebError(f"the headnode does not answer at {url}: {error}") from error
        at, refused = url.removesuffix(path), isinstance(error, ConnectionRefusedError)
        text = f"the blade cannot reach the headnode at {at}: {error}"
        raise NoAnswerError(text, refused=refused) from error


def _read(way: socket.socket, url: str, came: bytes) -> Answer:
    while b"\r\n\r\n" not in came and len(came) < HEAD_BYTES and (more := way.recv(65536)):
        came += more
    head, found, body = came.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not found or len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise WebError(f"what answers at {url} is no web server")
    fields = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if words[1] != "200":
        raise WebError(f"{url}: HTTP Error {' '.join(words[1:])}", int(words[1]))
    return Answer(_body(way, url, body, fields.get("content-length", "")), fields.get("date", ""))


def _body(way: socket.socket, url: str, begun: bytes, length: str) -> bytes:
    parts, count = [begun], len(begun)
    while more := way.recv(1 << 18):
        parts.append(more)
        count += len(more)
        if count > MOST_BYTES:
            raise WebError(f"{url} has more than {MOST_BYTES >> 20} MiB")
    if length.isdecimal() and count < int(length):
        raise WebError(
            f"the headnode does not answer at {url}: it hung up after {count} of {length} bytes"
        )
    return b"".join(parts)
