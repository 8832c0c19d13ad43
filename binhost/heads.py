"""Request heads: cutting them out of what arrives, and reading the ordinary ones quickly.

Half a head is never taken for a request: nothing is parsed before the empty line has come, within a
size (here) and a time (the connection's). `http.server` reads a head with the parser for e-mail,
which costs more than everything else that a small file needs; `quick_head` reads what clients
really send, and leaves every other head to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

END = re.compile(rb"\n\r?\n")
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET = re.compile(r"[!-~]+")
MOST_FIELDS = 64
REMEMBERED_HEADS = 1024
REMEMBERED_BYTES = 512  # with what is read out of it, about 2 KiB each

Fields = dict[str, str]
"""A request's header fields, by lower-case name; the values of a repeated one joined by commas."""


class HeadError(Exception):
    """A head that is not going to be answered otherwise than with `status`."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class HeadBuffer:
    """What has arrived of a connection and is not used yet, `data`; a head has `limit_bytes`."""

    __slots__ = ("_limit_bytes", "data")

    def __init__(self, limit_bytes: int) -> None:
        self.data = b""
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self.data = self.data + data if self.data else data

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which are there."""
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def next(self) -> bytes | None:
        """The next head with its empty line; None where it has not all come yet.

        Raises:
            HeadError: it is too long.
        """
        data = self.data
        if data[:1] in (b"\r", b"\n"):  # empty lines before a head are dropped (RFC 9112, 2.2)
            data = self.data = data.lstrip(b"\r\n")
        end = match.end() if (match := END.search(data)) else 0
        if (end or len(data)) > self._limit_bytes:
            raise HeadError(_too_long(data[: self._limit_bytes]))
        if not end:
            return None
        self.data = data[end:]
        return data[:end]


def _too_long(start: bytes) -> HTTPStatus:
    if b"\n" in start:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return HTTPStatus.REQUEST_URI_TOO_LONG


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head in its parts, never changed. `line` is the request line, without its end.

    `path` is what `path_of` reads in the target; `keeps` whether the client keeps the connection.
    """

    line: str
    command: str
    target: str
    version: str
    fields: Fields
    path: str
    keeps: bool


def path_of(target: str) -> str:
    """The path in a request target, still percent-encoded, without query.

    Source: RFC 9112, 3.2: origin-form `/path?query`, or absolute-form `http://host/path?query`.
    """
    if target.lower().startswith(("http://", "https://")):
        target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
    return re.split("[?#]", target, maxsplit=1)[0]


def query_of(target: str) -> str:
    """The query of a request target, percent-encoded, without its question mark."""
    return target.partition("#")[0].partition("?")[2]


def quick_head(head: bytes) -> Head | None:
    """Read an ordinary head of HTTP/1.0 or 1.1; None where it is any less than ordinary.

    Ordinary: a well-formed request line, well-formed fields of different names on a line each.
    Lately read ones are remembered: 58 blades ask for the same files in the same words.
    """
    return _remembered(head) if len(head) <= REMEMBERED_BYTES else _read(head)


def _read(head: bytes) -> Head | None:
    line, *lines = head.decode("latin-1").split("\r\n")
    if lines[-2:] != ["", ""] or len(lines) > MOST_FIELDS:
        return None
    match line.split(" "):
        case [command, target, "HTTP/1.1" | "HTTP/1.0" as version]:
            fields = _quick_fields(lines[:-2])
            if fields is not None and _is_token(command) and TARGET.fullmatch(target):
                return Head(
                    line=line,
                    command=command,
                    target=target,
                    version=version,
                    fields=fields,
                    path=path_of(target),
                    keeps=_keeps(version, fields),
                )
    return None


def _keeps(version: str, fields: Fields) -> bool:
    """RFC 9112, 9.3: HTTP/1.1 keeps a connection unless told to close, HTTP/1.0 if told to keep."""
    said = {word.strip() for word in fields.get("connection", "").lower().split(",")}
    return "close" not in said and (version == "HTTP/1.1" or "keep-alive" in said)


_remembered = lru_cache(maxsize=REMEMBERED_HEADS)(_read)


def _quick_fields(lines: list[str]) -> Fields | None:
    fields: Fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not (key := _key(name)) or "\n" in value or "\r" in value:
            return None
        fields[key] = value.strip(" \t")
    return fields if len(fields) == len(lines) else None


@lru_cache(maxsize=256)
def _is_token(word: str) -> bool:
    return TOKEN.fullmatch(word) is not None


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    """A field's name in lower case; empty where it is no name."""
    return name.lower() if TOKEN.fullmatch(name) else ""


def joined(pairs: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a head that `http.server` has read."""
    fields: Fields = {}
    for name, value in pairs:
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields
