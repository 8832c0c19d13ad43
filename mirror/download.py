"""One file from one address over HTTP, resumed, and never more of it than it should have.

Refused: schemes other than http and https (also by redirect), an answer of another length, a web
page in place of the file, a body without end, a server that is silent or slower than
`MIN_RATE_BPS` on average.

Source: RFC 9110 (Range, If-Range, Content-Range); urllib.request.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mirror import validators
from mirror.claims import Cancelled

CHUNK = 1 << 18
MIN_RATE_BPS = 1024
SCHEMES = ("http", "https")
# Servers that may answer otherwise a moment later; any other refusal is final.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class AddressError(Exception):
    """An address did not give the file: `why`, on one line; `passing` if it may another time.

    `status` is the HTTP status, where that was the reason. `spoilt` means that what was there
    already may be the reason, so that starting from zero may do.
    """

    def __init__(
        self, why: str, *, passing: bool = False, status: int | None = None, spoilt: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.passing = passing
        self.status = status
        self.spoilt = spoilt


class Redirects(urllib.request.HTTPRedirectHandler):
    """urllib's handler, with words of its own for a redirect that leads round and round."""

    inf_msg = "redirects without end\n"


def opener() -> urllib.request.OpenerDirector:
    """Give urllib's opener without file:, ftp: and data:, so that no redirect leads there."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        made.add_handler(handler)
    return made


def get_small(url: str, *, timeout_s: float, limit_bytes: int = 1 << 16) -> bytes:
    """Give the content at `url`, which must be at most `limit_bytes`.

    Raises:
        AddressError: it could not be had.
    """
    content, until = b"", time.monotonic() + timeout_s + limit_bytes / MIN_RATE_BPS
    with _open(url, have=0, timeout_s=timeout_s) as answer:
        while data := _read(answer, limit_bytes + 1 - len(content)):
            content += data
            if len(content) > limit_bytes:
                raise AddressError(f"it has more than {limit_bytes} bytes")
            if time.monotonic() > until:
                raise AddressError(f"slower than {MIN_RATE_BPS} bytes a second", passing=True)
        length = answer.headers.get("Content-Length", "")
    if length.isdigit() and len(content) < int(length):
        raise AddressError(f"cut off after {len(content)} of {length} bytes", passing=True)
    return content


def download(
    url: str,
    target: Path,
    *,
    size_bytes: int,
    timeout_s: float,
    on_position: Callable[[int], None] = lambda position: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Bring `target` to `size_bytes` from `url`; what it has already is kept and carried on with.

    `on_position` is told how many bytes are there. Nothing is said about the content: that is for
    whoever knows the digests.

    Raises:
        AddressError: the address does not give the file; what came stays for another try.
        Cancelled: `cancelled` said so.
        OSError: `target` cannot be written.
    """
    have = target.stat().st_size if target.exists() else 0
    if have == size_bytes and target.exists():
        return
    if have > size_bytes:
        target.unlink()
        have = 0
    with _open(url, have=have, timeout_s=timeout_s, if_range=validators.of(target, url)) as got:
        at = start = _resumed_at(got, have, size_bytes)
        validators.note(target, url, got.headers)
        with target.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            for at in _copy(got, file, start, size_bytes, timeout_s):
                on_position(min(at, size_bytes))
                if cancelled():
                    raise Cancelled
    if at > size_bytes:
        target.unlink()
        raise AddressError(f"it goes on after the {size_bytes} bytes it should have", spoilt=True)
    if at < size_bytes:
        raise AddressError(f"cut off after {at} of {size_bytes} bytes", passing=True)
    validators.forget(target)


def _copy(
    answer: IO[bytes], file: IO[bytes], have: int, size_bytes: int, timeout_s: float
) -> Iterator[int]:
    """Write the body from byte `have` on, at most `size_bytes`; give each position reached.

    The last is one more than `size_bytes` if the body goes on.
    """
    started, limit_s = time.monotonic(), timeout_s + size_bytes / MIN_RATE_BPS
    while have <= size_bytes and (data := _read(answer, min(CHUNK, size_bytes + 1 - have))):
        file.write(data[: size_bytes - have])
        have += len(data)
        yield have
        if time.monotonic() - started > limit_s:
            raise AddressError(f"slower than {MIN_RATE_BPS} bytes a second", passing=True)


def _open(url: str, *, have: int, timeout_s: float, if_range: str = "") -> Any:
    scheme = url.partition(":")[0]
    if scheme.lower() not in SCHEMES:
        raise AddressError(f"{scheme}: is not fetched, only http and https")
    headers = {"User-Agent": "headnode", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and if_range:
        headers["If-Range"] = if_range
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (looked at above)
        return opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        why = f"HTTP {error.code} {str(error.reason).splitlines()[0] if error.reason else ''}"
        raise AddressError(
            why.rstrip(),
            passing=error.code in PASSING,
            status=error.code,
            spoilt=error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        ) from error
    except urllib.error.URLError as error:
        raise AddressError(str(error.reason), passing=isinstance(error.reason, OSError)) from error
    except OSError as error:
        raise AddressError(str(error) or type(error).__name__, passing=True) from error
    except http.client.HTTPException as error:
        raise AddressError("its answer is not HTTP", passing=True) from error
    except ValueError as error:
        raise AddressError(f"not an address: {error}") from error


def _resumed_at(answer: Any, have: int, size_bytes: int) -> int:
    """Check the answer's header; give the byte at which its body starts."""
    length = answer.headers.get("Content-Length", "")
    start, total = 0, int(length) if length.isdigit() else size_bytes
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found:
            raise AddressError("its partial answer does not say which part it is", spoilt=True)
        start = int(found[1])
        total = int(found[2]) if found[2] != "*" else size_bytes
        if start != have:
            why = f"it was asked to go on from byte {have} and did so from {start}"
            raise AddressError(why, spoilt=True)
    if total != size_bytes:
        page = answer.headers.get_content_type() == "text/html"
        what = "a web page came in its place: it" if page else "it"
        raise AddressError(f"{what} has {total} bytes and should have {size_bytes}")
    return start


def _read(answer: IO[bytes], count: int) -> bytes:
    try:
        data: bytes = answer.read1(count)  # type: ignore[attr-defined]
    except (OSError, http.client.HTTPException) as error:
        raise AddressError(f"the connection broke: {error or 'time-out'}", passing=True) from error
    return data
