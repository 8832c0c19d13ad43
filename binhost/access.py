"""The access log: one line a request in the combined format of Apache and nginx, time in UTC.

Logged at INFO to `binhost.access`, so that it can have a file of its own, or be turned off, which
also saves making the lines.
"""

from __future__ import annotations

import logging
import time
from http.server import BaseHTTPRequestHandler

access = logging.getLogger("binhost.access")

# What a client sent goes into a file that people read on terminals.
UNSAFE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), *b'"\\')}


def log_access(handler: BaseHTTPRequestHandler, peer: str, status: int, sent_bytes: int) -> None:
    """Log the request that `handler` has just answered; `sent_bytes` is without the header."""
    if not access.isEnabledFor(logging.INFO):
        return
    access.info(
        '%s - - [%s] "%s" %d %d "%s" "%s"',
        peer,
        stamp(time.time()),
        handler.requestline.translate(UNSAFE) or "-",
        status,
        sent_bytes,
        handler.headers.get("Referer", "-").translate(UNSAFE),
        handler.headers.get("User-Agent", "-").translate(UNSAFE),
    )


def stamp(epoch_s: float) -> str:
    """`10/Oct/2000:13:55:36 +0000`, with English months whatever the locale."""
    moment = time.gmtime(epoch_s)
    month = BaseHTTPRequestHandler.monthname[moment.tm_mon]
    return f"{moment.tm_mday:02}/{month}/{time.strftime('%Y:%H:%M:%S +0000', moment)}"
