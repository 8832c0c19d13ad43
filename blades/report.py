"""A pull's report on its way to the headnode: numbered, signed (`blades.signature`), and posted.

Runs on blades: only the standard library.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blades.signature import ADDRESS, BODY_BYTES, field

SECRET = Path("/etc/headnode/secret")
NUMBER = Path("/var/lib/headnode/reported")
LOG_BYTES = 64 << 10  # the end of a log says what went wrong
TRIES = 3
PAUSE_S = 5.0
TIMEOUT_S = 20.0


def body_of(report: Mapping[str, Any], log: bytes) -> bytes:
    """What is sent: the report, with the end of the log as far as there is room. Pure."""
    text = log[-LOG_BYTES:].decode("utf-8", "replace")
    body = json.dumps({**report, "log": text}).encode()
    if len(body) <= BODY_BYTES:
        return body
    least = {key: report[key] for key in ("result", "ring", "generation") if key in report}
    return json.dumps({**least, "error": str(report.get("error", ""))[-4096:]}).encode()


def send(settings: Mapping[str, Any], report: Mapping[str, Any], log: Path) -> str:
    """Send a report; why it was not taken, or nothing if it was. Never raises.

    A pull is not worse for a report that did not arrive: the next one says the same.
    """
    try:
        secret = bytes.fromhex(SECRET.read_text())
    except (OSError, ValueError) as error:
        return f"no secret to sign with: {error}"
    try:
        text = log.read_bytes()[-LOG_BYTES:] if report.get("result") != "unchanged" else b""
    except OSError:
        text = b""
    letter = _Letter(settings["headnode"] + ADDRESS, settings["blade"], secret, report, text)
    why = ""
    for again in range(TRIES):
        if again:
            # 58 blades that were turned away at once do not come back at once.
            time.sleep(PAUSE_S * again * (0.5 + secrets.randbelow(1000) / 1000))
        why, final = letter.post()
        if final:
            break
    return why


class _Letter:
    """One report, posted until it arrives: each time under a number of its own."""

    def __init__(
        self, url: str, blade: str, secret: bytes, report: Mapping[str, Any], log: bytes
    ) -> None:
        self._url, self._blade, self._secret = url, blade, secret
        self._body = body_of(report, log)
        self._nonce = secrets.token_hex(16)
        self._number = _last_number() + 1

    def post(self) -> tuple[str, bool]:
        """Post it once: why it was not taken, and whether trying again is of no use."""
        _note_number(self._number)
        try:
            self._open()
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{self._url}: {error}", False
        return "", True

    def _open(self) -> None:
        signed = (self._secret, self._blade, self._number, self._nonce, self._body)
        fields = {"Authorization": field(*signed), "Content-Type": "application/json"}
        request = urllib.request.Request(self._url, data=self._body, headers=fields)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            answer.read()

    def _refused(self, error: urllib.error.HTTPError) -> tuple[str, bool]:
        try:
            said = json.loads(error.read(BODY_BYTES)) if error.code == 409 else {}
            highest, nonce = int(said.get("highest", 0)), said.get("nonce")
        except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
            highest, nonce = 0, None
        if error.code == 409 and nonce == self._nonce:
            return "", True  # it had arrived, and the answer to it had not
        if error.code == 409:  # this blade was set up anew, and its numbers began anew
            self._number = max(self._number, highest) + 1
        return f"{self._url}: {error.code} {error.reason}", error.code not in (409, 429, 500, 503)


def _last_number() -> int:
    try:
        return int(NUMBER.read_text())
    except (OSError, ValueError):
        return 0


def _note_number(number: int) -> None:
    try:
        NUMBER.parent.mkdir(parents=True, exist_ok=True)
        beside = NUMBER.with_name(f".{NUMBER.name}.{os.getpid()}")
        beside.write_text(f"{number}\n")
        beside.replace(NUMBER)
    except OSError:
        pass  # the headnode says which was the highest
