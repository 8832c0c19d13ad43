"""How a report is signed with a blade's own secret, which is never sent.

A report carries an HMAC-SHA256 over the blade's name, a number, a nonce and the body's digest. A
blade's numbers only grow, and the headnode takes none twice, so that a report that somebody
recorded is worth nothing. No clock is asked: a blade whose clock is wrong by years has to be able
to say so.

    POST /api/v1/reports
    Authorization: HeadnodeReport blade="blade01", number="17", nonce="…", mac="…"

For blades and headnode alike, so only the standard library, and little of it.
"""

from __future__ import annotations

import hashlib
import hmac

SCHEME = "HeadnodeReport"
ADDRESS = "/api/v1/reports"
BODY_BYTES = 256 << 10  # the headnode refuses more


def mac(secret: bytes, blade: str, number: int, nonce: str, body: bytes) -> str:
    """The signature of a report, in hex digits. Pure."""
    digest = hashlib.sha256(body).hexdigest()
    text = f"headnode report 1\n{blade}\n{number}\n{nonce}\n{digest}\n"
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def field(secret: bytes, blade: str, number: int, nonce: str, body: bytes) -> str:
    """The Authorization field of a report. Pure."""
    signature = mac(secret, blade, number, nonce, body)
    return f'{SCHEME} blade="{blade}", number="{number}", nonce="{nonce}", mac="{signature}"'
