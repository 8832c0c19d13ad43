"""POST /api/v1/reports: what a blade says of its pull, checked, and laid down for the ledger.

Checked in this order, cheapest first: size (the server does), the Authorization field, the blade's
signature, the content, the number. Whoever cannot sign learns nothing but 401: not whether there
is such a blade. Nothing is recorded unless everything holds.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from binhost.replies import Reply, data_reply, text_reply
from binhost.site import Request, Route
from blades.secrets import read_secret
from blades.signature import ADDRESS, BODY_BYTES, SCHEME, mac
from schedules.ledger.spool import Letter, ReplayError, Spool

log = logging.getLogger(__name__)

FIELD = re.compile(
    rf'{SCHEME} blade="([A-Za-z0-9][A-Za-z0-9._-]*)", number="([1-9][0-9]{{0,17}})", '
    r'nonce="([0-9a-f]{16,64})", mac="([0-9a-f]{64})"'
)
RESULT = re.compile(r"[a-z][a-z ]{0,39}")  # which ones there are, the ledger knows
RETRY_S = "30"


def report_routes(
    state: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dict[str, Route]:
    """The route by its path, for a server of the state folder."""
    spool = Spool.of(state)

    def answer(request: Request) -> Reply:
        return take(request, state, spool, clock())

    return {ADDRESS: Route(answer=answer, methods=("POST",), body_bytes=BODY_BYTES)}


def take(request: Request, state: Path, spool: Spool, now: datetime) -> Reply:
    """Take a report, or say why not."""
    signed = FIELD.fullmatch(request.fields.get("authorization", ""))
    if signed is None:
        return _stranger()
    blade, number, nonce, signature = signed.groups()
    secret = read_secret(state, blade)
    # A secret for blades that have none: they take as long to refuse as others.
    wanted = mac(secret or bytes(32), blade, int(number), nonce, request.body)
    if not hmac.compare_digest(wanted, signature) or secret is None:
        log.warning("a report for %s from %s is not signed by it", blade, request.peer)
        return _stranger()
    said = _said(request.body, blade)
    if said is None:
        log.warning("what %s sent from %s is no report", blade, request.peer)
        return text_reply(HTTPStatus.BAD_REQUEST, "This is no report.\n")
    letter = Letter(at=now.isoformat(), blade=blade, number=int(number), said=said)
    return _lay_down(letter, nonce, spool)


def _lay_down(letter: Letter, nonce: str, spool: Spool) -> Reply:
    try:
        spool.put(letter, nonce)
    except ReplayError as error:
        data = json.dumps({"highest": error.highest, "nonce": error.nonce}).encode()
        return data_reply(HTTPStatus.CONFLICT, data, "application/json")
    except OSError as error:
        log.error("the report of %s cannot be kept: %s", letter.blade, error)
        return text_reply(HTTPStatus.SERVICE_UNAVAILABLE, "", ("Retry-After", RETRY_S))
    return text_reply(HTTPStatus.ACCEPTED, "Taken.\n")


def _stranger() -> Reply:
    return text_reply(HTTPStatus.UNAUTHORIZED, "", ("WWW-Authenticate", SCHEME))


def _said(body: bytes, blade: str) -> dict[str, object] | None:
    """The report in a body; None if it is none, or another blade's."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("blade", blade) != blade:
        return None
    result = said.get("result")
    return said if isinstance(result, str) and RESULT.fullmatch(result) else None
