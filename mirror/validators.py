"""Where a partial file comes from, so that it is carried on with only while that is unchanged.

Kept beside the partial file: its address and the validator that the server gave (an ETag, or the
time of the last change), which goes back as If-Range. From another address, or without a
validator, it is carried on with all the same: the digests decide at the end.

Source: RFC 9110, 13.1.5 (If-Range), 8.8 (validators).
"""

from __future__ import annotations

import contextlib
import json
from email.message import Message
from pathlib import Path

from mirror.layout import key_of


def note(target: Path, url: str, headers: Message) -> None:
    """Keep what the answer from `url` said about the file that goes to `target`."""
    path = _path(target)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"url": url, "validator": choose(headers)}))


def of(target: Path, url: str) -> str:
    """Give the validator of the partial file `target`, empty if it has none or is not of `url`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(_path(target).read_text())
        return str(said["validator"]) if said["url"] == url else ""
    return ""


def forget(target: Path) -> None:
    """Drop what is known about `target`, which is complete or gone."""
    _path(target).unlink(missing_ok=True)


def choose(headers: Message) -> str:
    """Give what may stand in If-Range: a strong ETag, else Last-Modified, else nothing. Pure."""
    etag = headers.get("ETag", "")
    if etag.startswith('"'):  # a weak one starts with W/, and may not
        return etag
    return headers.get("Last-Modified", "")


def _path(target: Path) -> Path:
    return target.parent / ".validators" / key_of(target.name)
