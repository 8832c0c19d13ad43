"""Which deployment the blade's ring has, and whether to believe it. Part of the pull on a blade.

A deployment is an order of the headnode's: signed, numbered, for one ring, and with an end. Portage
checks the signature of each package, but not the index that names them, nor that a package is the
one that the index says (Portage 3.0.83); so everything that a pull takes is named by the deployment
by its digest, and the deployment is checked here:

    its signature, against the keys that Portage has too
    its class and ring: another ring's is not this blade's
    its sequence: never below the highest that was seen, so that an old one is not played again
    its end: else a stranger could hold the blade at what it has for ever

The clock is looked at first: with a wrong one, the end means nothing. Only the standard library,
and gpg: the blade may have nothing else. What a pull that finds nothing new does not need is
imported where it is needed.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blades import web
from blades.web import NoAnswerError, WebError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
NEEDED = ("class_name", "ring", "sequence", "generation", "expires", "snapshots", "atoms", "sha256")
TRUSTED = ("TRUST_FULLY", "TRUST_ULTIMATE")


class OrderError(Exception):
    """There is no deployment to go by; the text says why."""


class AbsentError(OrderError):
    """The headnode says that it has no such file."""


class UnreachedError(OrderError):
    """Nothing answers for the headnode; `refused`: its machine does, and `serve` is down."""

    def __init__(self, text: str, *, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


class UntrustedError(OrderError):
    """There is one that is not the headnode's, or not for this blade, or not for now."""


class Order:
    """A deployment as it came (`content`), and what it says; `base` is its ring's address.

    `date` is the headnode's clock when it came, None if it did not tell.
    """

    __slots__ = ("base", "content", "date", "says")

    def __init__(
        self, base: str, content: bytes, says: Mapping[str, Any], date: datetime | None = None
    ) -> None:
        self.base, self.content, self.says, self.date = base, content, says, date

    @property
    def folder(self) -> str:
        """The address of the files that go with it."""
        return f"{self.base}/deployments/{self.says['sequence']}"

    def names(self, name: str) -> bool:
        """Whether a file of that name goes with it."""
        return name in self.says["sha256"]

    def file(self, name: str) -> bytes:
        """Fetch a file that goes with it, or an OrderError if that is another."""
        url = f"{self.folder}/{name}"
        content = fetch(url)
        if hashlib.sha256(content).hexdigest() != self.says["sha256"].get(name):
            raise UntrustedError(f"{url} is not what deployment.json says it is")
        return content


def fetch(url: str) -> bytes:
    """The content at `url`, or an OrderError that says what is wrong with it."""
    return ask(url).content


def ask(url: str) -> web.Answer:
    """The answer at `url`, or an OrderError that says what is wrong with it."""
    try:
        return web.get(url)
    except NoAnswerError as error:
        raise UnreachedError(str(error), refused=error.refused) from error
    except WebError as error:
        if error.status == 404:
            raise AbsentError(f"the headnode has nothing for this ring yet ({url})") from error
        raise OrderError(str(error)) from error


def read_json(content: bytes, url: str, *keys: str) -> dict[str, Any]:
    """The JSON object that came from `url`, or an OrderError if it is none or lacks a key."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise OrderError(f"{url} is no JSON: {error}") from error
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise OrderError(f"{url} has no {', '.join(lacking)}")
    if not isinstance(found, dict):
        raise OrderError(f"{url} is no JSON object")
    return found


def fetch_order(base: str) -> Order:
    """The newest deployment of the ring at `base`, not checked yet."""
    url = f"{base}/deployment.json"
    answer = ask(url)
    says = read_json(answer.content, url, *NEEDED)
    return Order(base=base, content=answer.content, says=says, date=read_date(answer.date))


def read_date(text: str) -> datetime | None:
    """The time in `Sun, 06 Nov 1994 08:49:37 GMT`; None if it is none. Source: RFC 9110, 5.6.7."""
    try:
        _, day, month, year, clock, _ = text.split()
        hour, minute, second = map(int, clock.split(":"))
        number = MONTHS.index(month) + 1
        return datetime(int(year), number, int(day), hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None


def check_clock(order: Order, now: datetime, most_s: float) -> None:
    """Check that this blade's clock is the headnode's, within `most_s`, or an OrderError.

    Whoever answers in the headnode's place could so at most hold the blade where it is.
    """
    if most_s and order.date and abs(now - order.date) > timedelta(seconds=most_s):
        raise OrderError(
            f"this blade's clock says {now:%Y-%m-%d %H:%M:%S} UTC and the headnode's "
            f"{order.date:%Y-%m-%d %H:%M:%S}: set the one that is wrong (chronyd, ntpd), then "
            "pull again"
        )


def check_signature(order: Order, keyring: Path) -> None:
    """Check that a key which gpg's home `keyring` trusts has signed, or an UntrustedError.

    The signature is the one beside this very deployment: the ring may have moved on meanwhile.
    """
    import subprocess
    import tempfile

    seal = fetch(f"{order.folder}/deployment.json.asc")
    with tempfile.TemporaryDirectory(prefix="headnode-") as folder:
        signed, signature = Path(folder, "deployment.json"), Path(folder, "seal.asc")
        signed.write_bytes(order.content)
        signature.write_bytes(seal)
        argv = ["gpg", "--homedir", str(keyring), "--batch", "--no-tty", "--no-autostart"]
        argv += ["--no-auto-check-trustdb", "--status-fd=1", "--verify"]
        done = subprocess.run(
            [*argv, str(signature), str(signed)], capture_output=True, text=True, check=False
        )
    if not is_trusted(done.stdout):
        reason = why_not(done.stdout) or done.stderr.strip()
        raise UntrustedError(f"the deployment at {order.base} is not the headnode's: {reason}")


def is_trusted(status: str) -> bool:
    """Whether gpg's status lines tell of a good signature by a trusted key, and of no bad one.

    There may be several signatures, some by keys that this blade does not know (yet, or any more).
    Source: GnuPG, doc/DETAILS, "Format of the --status-fd output".
    """
    words = [line.split()[1] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    good = False
    for word in words:
        if word == "BADSIG":
            return False
        if word == "NEWSIG":
            good = False
        elif word == "GOODSIG":
            good = True
        elif good and word in TRUSTED:
            return True
    return False


REASONS = {
    "BADSIG": "it was altered after it was signed",
    "EXPKEYSIG": "the key that signed it has expired",
    "REVKEYSIG": "the key that signed it was revoked",
    "EXPSIG": "its signature has expired",
    "NO_PUBKEY": "it is signed by a key that this blade does not know",
    "GOODSIG": "the key that signed it is not trusted",
    "NODATA": "it has no signature",
}


def why_not(status: str) -> str:
    """What is wrong with a signature, from gpg's status lines; the worst of several."""
    words = {line.split()[1] for line in status.splitlines() if line.startswith("[GNUPG:] ")}
    return next((reason for word, reason in REASONS.items() if word in words), "")


def check_terms(
    order: Order, class_name: str, ring: str, highest: int, now: datetime, *, signed: bool
) -> None:
    """Check that the deployment is for this blade and for now, or an UntrustedError.

    `highest` is the sequence that was seen last. Without signatures its end means nothing.
    """
    says = order.says
    if (says["class_name"], says["ring"]) != (class_name, ring):
        raise UntrustedError(
            f"the deployment at {order.base} is for the ring {says['ring']} of "
            f"{says['class_name']}, and this blade is in {ring} of {class_name}"
        )
    if says["sequence"] < highest:
        raise UntrustedError(
            f"the deployment at {order.base} is number {says['sequence']}, and number {highest} "
            "was here before: an old one is played again, or the headnode was restored from a "
            "backup"
        )
    expires = datetime.fromisoformat(says["expires"])
    if signed and now >= expires:
        raise UntrustedError(
            f"the deployment at {order.base} expired on {expires.astimezone(UTC):%Y-%m-%d %H:%M} "
            f"UTC: does headnode serve run, and is this blade's clock right "
            f"({now:%Y-%m-%d %H:%M} UTC)?"
        )
