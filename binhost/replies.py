"""What is answered to a request, decided from its fields and the file's facts, before any byte.

Nothing here reads or writes: whoever holds the connection (a thread now) sends the reply.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from binhost.conditions import Fields, Verdict, etag, judge, last_modified, range_applies
from binhost.ranges import Span, UnsatisfiableError, parse_range
from binhost.routes import Roots, cache_control, content_type

Header = tuple[str, str]

PAGES = {"/": "headnode: see /binhost, /distfiles and /images.\n", "/healthz": "ok\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A status, its header fields, and the body: `text`, or the bytes `span` of the open file."""

    status: HTTPStatus
    headers: tuple[Header, ...]
    text: bytes = b""
    span: Span | None = None


def text_reply(status: HTTPStatus, text: str = "", *more: Header) -> Reply:
    """A small plain-text reply; without `text` the status in words."""
    body = (text or f"{status.value} {status.phrase}\n").encode()
    headers = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))))
    return Reply(status=status, headers=(*headers, *more), text=body)


def file_reply(
    method: str, fields: Fields, file: Path, facts: os.stat_result, roots: Roots
) -> Reply:
    """Decide between the whole file (200), a part (206), and 304, 412 or 416 without it."""
    headers = _validators(file, facts, roots)
    match judge(fields, facts):
        case Verdict.UNCHANGED:
            return Reply(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        case Verdict.FAILED:
            return text_reply(HTTPStatus.PRECONDITION_FAILED)
    try:
        part = _part(method, fields, facts)
    except UnsatisfiableError:
        size = ("Content-Range", f"bytes */{facts.st_size}")
        return text_reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "", size)
    if part:
        headers = (*headers, ("Content-Range", part.content_range(facts.st_size)))
    span = part or Span(0, facts.st_size)
    described = (("Content-Type", content_type(file)), ("Content-Length", str(span.length)))
    return Reply(
        status=HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK,
        headers=(*described, *headers),
        span=span,
    )


def _validators(file: Path, facts: os.stat_result, roots: Roots) -> tuple[Header, ...]:
    kept = cache_control(file, roots)
    return (
        ("Last-Modified", last_modified(facts)),
        ("ETag", etag(facts)),
        ("Accept-Ranges", "bytes"),
        *((("Cache-Control", kept),) if kept else ()),
    )


def _part(method: str, fields: Fields, facts: os.stat_result) -> Span | None:
    """The part that is asked for. Only a GET has one (RFC 9110, 14.2)."""
    wanted = fields("Range")
    if method != "GET" or wanted is None or not range_applies(fields("If-Range"), facts):
        return None
    return parse_range(wanted, facts.st_size)
