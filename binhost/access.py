"""The access log: one line a request in the combined format of Apache and nginx, time in UTC.

Lines are gathered and written in one go after each round of the event loop, whole lines at a time,
so that several processes may write to one file. `reopen` is for log rotation.
"""

from __future__ import annotations

import logging
import os
import time
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path

log = logging.getLogger(__name__)

# What a client sent goes into a file that people read on terminals.
UNSAFE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), *b'"\\')}


def access_line(
    *,
    peer: str,
    epoch_s: float,
    request: str,
    status: int,
    sent_bytes: int,
    referer: str,
    agent: str,
) -> str:
    """One line; `sent_bytes` is without the header."""
    return (
        f'{peer} - - [{stamp(int(epoch_s))}] "{request.translate(UNSAFE) or "-"}" {status} '
        f'{sent_bytes} "{referer.translate(UNSAFE)}" "{agent.translate(UNSAFE)}"\n'
    )


@lru_cache(maxsize=4)
def stamp(epoch_s: int) -> str:
    """`10/Oct/2000:13:55:36 +0000`, with English months whatever the locale."""
    moment = time.gmtime(epoch_s)
    month = BaseHTTPRequestHandler.monthname[moment.tm_mon]
    return f"{moment.tm_mday:02}/{month}/{time.strftime('%Y:%H:%M:%S +0000', moment)}"


class AccessLog:
    """Lines on their way into the file `path`, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._handle = self._open()

    def add(self, line: str) -> None:
        """Take a line, to be written by the next `flush`."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was taken. A full disk loses lines and is logged; it stops no download."""
        if not self._lines:
            return
        data, self._lines = "".join(self._lines).encode(), []
        try:
            os.write(self._handle, data)
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error)

    def reopen(self) -> None:
        """Go on in a new file where the old one was renamed."""
        self.flush()
        try:
            handle = self._open()
        except OSError as error:
            log.error("%s cannot be opened anew, the old file stays: %s", self._path, error)
            return
        os.close(self._handle)
        self._handle = handle

    def close(self) -> None:
        """Write what is left, and give the file back."""
        self.flush()
        os.close(self._handle)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, 0o640)
