"""What is answered to a request, decided from its fields and the file's facts, before any byte.

Nothing here reads or writes: a connection sends the reply. The replies that most requests get, the
whole file and "you have it", are made once for an open file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from pathlib import Path

from binhost.beneath import Opened
from binhost.conditions import CONDITIONS, Validators, Verdict, judge, range_applies, validators
from binhost.heads import Fields
from binhost.ranges import Span, UnsatisfiableError, parse_range
from binhost.routes import Roots, cache_control, content_type

Header = tuple[str, str]
Piece = bytes | Span

PAGES = {"/": "headnode: see /binhost, /distfiles and /images.\n", "/healthz": "ok\n"}
PLAIN = "text/plain; charset=utf-8"


class Coding(Enum):
    """Whether a file is sent as what it is, or as the compressed form of another."""

    NONE = ""
    GZIP = "gzip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """`head`: status line and fields, without the empty line; `body`: bytes, and spans of `file`.

    `length` is what Content-Length says; a reply to HEAD has it, and no body is sent.
    """

    status: HTTPStatus
    head: bytes
    body: tuple[Piece, ...] = ()
    length: int = 0
    file: Opened | None = None


def text_reply(status: HTTPStatus, text: str = "", *more: Header) -> Reply:
    """A small plain-text reply; without `text` the status in words."""
    return data_reply(status, (text or f"{status.value} {status.phrase}\n").encode(), PLAIN, *more)


def data_reply(status: HTTPStatus, data: bytes, kind: str, *more: Header) -> Reply:
    """A reply with `data` of the media type `kind`."""
    fields = (("Content-Type", kind), ("Content-Length", str(len(data))), *more)
    return Reply(status=status, head=_head(status, fields), body=(data,), length=len(data))


def _head(status: HTTPStatus, fields: tuple[Header, ...]) -> bytes:
    lines = (f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{''.join(lines)}".encode("latin-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An open file with what all replies about it have in common."""

    opened: Opened
    kind: str
    tags: Validators
    kept: tuple[Header, ...]
    whole: Reply
    unchanged: Reply


def serve_file(
    file: Path, opened: Opened, roots: Roots, *, coding: Coding, content: bytes | None
) -> Served:
    """Describe an open file; `content` is all of it, where it is small enough to be kept."""
    tags = validators(opened.facts)
    size = opened.facts.st_size
    named = file.with_suffix("") if coding is Coding.GZIP else file
    kept = _kept(file, tags, roots, coding)
    kind = content_type(named)
    fields = (("Content-Type", kind), ("Content-Length", str(size)), *kept)
    return Served(
        opened=opened,
        kind=kind,
        tags=tags,
        kept=kept,
        whole=Reply(
            status=HTTPStatus.OK,
            head=_head(HTTPStatus.OK, fields),
            body=(Span(0, size) if content is None else content,),
            length=size,
            file=opened,
        ),
        unchanged=Reply(status=HTTPStatus.NOT_MODIFIED, head=_head(HTTPStatus.NOT_MODIFIED, kept)),
    )


def _kept(file: Path, tags: Validators, roots: Roots, coding: Coding) -> tuple[Header, ...]:
    kept = cache_control(file, roots)
    varies = coding is Coding.GZIP or file.name == "Packages"
    return (
        ("Last-Modified", tags.last_modified),
        ("ETag", tags.etag),
        ("Accept-Ranges", "bytes"),
        *((("Cache-Control", kept),) if kept else ()),
        *((("Content-Encoding", coding.value),) if coding is Coding.GZIP else ()),
        *((("Vary", "Accept-Encoding"),) if varies else ()),
    )


def file_reply(method: str, fields: Fields, served: Served) -> Reply:
    """Decide between the whole file (200), parts (206), and 304, 412 or 416 without it."""
    if CONDITIONS.isdisjoint(fields):
        return served.whole
    match judge(fields, served.tags):
        case Verdict.UNCHANGED:
            return served.unchanged
        case Verdict.FAILED:
            return text_reply(HTTPStatus.PRECONDITION_FAILED)
    size = served.opened.facts.st_size
    try:
        spans = _spans(method, fields, served.tags, size)
    except UnsatisfiableError:
        range_field = ("Content-Range", f"bytes */{size}")
        return text_reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "", range_field)
    match spans:
        case ():
            return served.whole
        case (span,):
            part = ("Content-Range", span.content_range(size))
            return _partial(served, served.kind, (span,), span.length, part)
    return _several(served, spans, size)


def _spans(method: str, fields: Fields, tags: Validators, size: int) -> tuple[Span, ...]:
    """The parts that are asked for. Only a GET has any (RFC 9110, 14.2)."""
    wanted = fields.get("range")
    if method != "GET" or wanted is None or not range_applies(fields.get("if-range"), tags):
        return ()
    return parse_range(wanted, size)


def _several(served: Served, spans: tuple[Span, ...], size: int) -> Reply:
    """A multipart reply; its boundary is the file's tag, which stands in no file of that tag."""
    boundary = "headnode-" + served.tags.etag.strip('"')
    pieces: list[Piece] = []
    for span in spans:
        place = span.content_range(size)
        head = f"\r\n--{boundary}\r\nContent-Type: {served.kind}\r\nContent-Range: {place}\r\n\r\n"
        pieces += [head.encode(), span]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    length = sum(each.length if isinstance(each, Span) else len(each) for each in pieces)
    return _partial(served, f"multipart/byteranges; boundary={boundary}", tuple(pieces), length)


def _partial(
    served: Served, kind: str, body: tuple[Piece, ...], length: int, *more: Header
) -> Reply:
    fields = (("Content-Type", kind), ("Content-Length", str(length)), *served.kept, *more)
    status = HTTPStatus.PARTIAL_CONTENT
    head = _head(status, fields)
    return Reply(status=status, head=head, body=body, length=length, file=served.opened)


def accepts_gzip(field: str | None) -> bool:
    """Whether an Accept-Encoding field takes gzip (RFC 9110, 12.5.3); identity is always fine."""
    if field is None:
        return False
    accepted = False
    for word in field.lower().split(","):
        coding, _, weight = word.replace(" ", "").partition(";q=")
        if coding in ("gzip", "x-gzip"):
            return not _is_zero(weight)
        accepted = accepted or (coding == "*" and not _is_zero(weight))
    return accepted


def _is_zero(weight: str) -> bool:
    return bool(weight) and not weight.strip("0.")
