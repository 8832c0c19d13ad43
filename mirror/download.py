"""One file from one address over HTTP, resumed, and never more of it than it should have.

Refused: schemes other than http and https (also by redirect), an answer of another length, a body
without end, a server that is silent or slower than `MIN_RATE_BPS` on average.

Source: RFC 9110 (Range, Content-Range); urllib.request.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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


class Cancelled(Exception):  # noqa: N818 (not an error: somebody asked for it)
    """The run was ended while this file was on its way."""


def opener() -> urllib.request.OpenerDirector:
    """Give urllib's opener without file:, ftp: and data:, so that no redirect leads there."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
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
    with _open(url, have=0, timeout_s=timeout_s) as answer:
        content = _read(answer, limit_bytes + 1)
    if len(content) > limit_bytes:
        raise AddressError(f"it has more than {limit_bytes} bytes")
    return content


def download(
    url: str,
    target: Path,
    *,
    size_bytes: int,
    timeout_s: float,
    on_bytes: Callable[[int], None] = lambda count: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Bring `target` to `size_bytes` from `url`; what it has already is kept and carried on with.

    Nothing is said about the content: that is for whoever knows the digests.

    Raises:
        AddressError: the address does not give the file; what came stays for another try.
        Cancelled: `cancelled` said so.
        OSError: `target` cannot be written.
    """
    have = target.stat().st_size if target.exists() else 0
    if have > size_bytes:
        target.unlink()
        have = 0
    if have == size_bytes and target.exists():
        return
    started = time.monotonic()
    with _open(url, have=have, timeout_s=timeout_s) as answer:
        have = _resumed_at(answer, have, size_bytes)
        with target.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            while have <= size_bytes and (data := _read(answer, min(CHUNK, size_bytes + 1 - have))):
                have += len(data)
                if have > size_bytes:
                    break
                file.write(data)
                on_bytes(len(data))
                if cancelled():
                    raise Cancelled
                if time.monotonic() - started > timeout_s + size_bytes / MIN_RATE_BPS:
                    raise AddressError(f"slower than {MIN_RATE_BPS} bytes a second", passing=True)
    if have > size_bytes:
        target.unlink()
        raise AddressError(f"it goes on after the {size_bytes} bytes it should have", spoilt=True)
    if have < size_bytes:
        raise AddressError(f"cut off after {have} of {size_bytes} bytes", passing=True)


def _open(url: str, *, have: int, timeout_s: float) -> Any:
    scheme = url.partition(":")[0]
    if scheme.lower() not in SCHEMES:
        raise AddressError(f"{scheme}: is not fetched, only http and https")
    headers = {"User-Agent": "headnode", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
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
    except (OSError, http.client.HTTPException) as error:
        raise AddressError(str(error) or type(error).__name__, passing=True) from error
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
        raise AddressError(f"it has {total} bytes and should have {size_bytes}")
    return start


def _read(answer: IO[bytes], count: int) -> bytes:
    try:
        data: bytes = answer.read1(count)  # type: ignore[attr-defined]
    except (OSError, http.client.HTTPException) as error:
        raise AddressError(f"the connection broke: {error or 'time-out'}", passing=True) from error
    return data
