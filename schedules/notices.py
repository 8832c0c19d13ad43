"""What an administrator is told: one message a night, and only if something is wrong.

All troubles of a night are one message: the run that failed, trees that are stale, blades that have
been silent. The same troubles are told again after `again_h`, not with every run. A run that could
not begin has no night to look at, and often no ledger: that is a message of its own. A message goes
to all that [notices] names; one of them that fails does not keep it from the others.

::

    <state>/notices.json      which troubles were told last, and when
    <state>/not-begun.json    likewise, of runs that could not begin
"""

from __future__ import annotations

import hashlib
import json
import logging
import smtplib
import socket
import subprocess
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

from ClusterShell.NodeSet import NodeSet

from blades.inventory import all_blades
from config.model import Notices
from headnode.errors import LedgerError
from headnode.files import write_atomic
from headnode.process import environment
from headnode.wording import counted
from mirror.status import warnings
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import BladeState
from schedules.ledger.runs import Run, State
from schedules.site import Site

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
NIGHT = timedelta(hours=20)  # what cannot begin is tried every minute, and told once a night


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message: `troubles` are one paragraph each, the first is the subject, too."""

    headnode: str
    at: datetime
    troubles: tuple[str, ...]

    @property
    def subject(self) -> str:
        """One line."""
        first = self.troubles[0].partition("\n")[0]
        more = f" (and {len(self.troubles) - 1} more)" if len(self.troubles) > 1 else ""
        return f"headnode {self.headnode}: {first}{more}"

    @property
    def text(self) -> str:
        """All of it."""
        end = "headnode status, headnode schedule history and headnode blades list say more."
        return "\n\n".join([*self.troubles, end]) + "\n"

    def as_json(self) -> str:
        """For a webhook; `text` is what chat servers show."""
        said = {
            "headnode": self.headnode,
            "at": self.at.isoformat(),
            "subject": self.subject,
            "troubles": list(self.troubles),
            "text": f"{self.subject}\n\n{self.text}",
        }
        return json.dumps(said)


def tell(site: Site, ledger: Ledger, run: Run, *, now: datetime) -> list[str]:
    """Tell what is wrong after a run, if anything is; why some could not be told."""
    troubles = troubles_of(site, ledger, run, now)
    again = timedelta(hours=site.cluster.notices.again_h)
    return _tell(site, "notices.json", troubles, digest(troubles), now, again) if troubles else []


def tell_not_begun(site: Site, job: str, why: str, *, now: datetime) -> list[str]:
    """Tell that a run could not begin, once a `NIGHT` for all of them; why some could not be told.

    Raises:
        OSError: it was told, and that cannot be noted.
    """
    trouble = f"{job} could not begin: {why}"
    return _tell(site, "not-begun.json", [trouble], "not begun", now, NIGHT)


def _tell(
    site: Site, noted: str, troubles: list[str], key: str, now: datetime, again: timedelta
) -> list[str]:
    options, path = site.cluster.notices, site.state / noted
    if not is_news(path, key, now, again):
        return []
    notice = Notice(headnode=socket.gethostname(), at=now, troubles=tuple(troubles))
    errors = send(options, notice)
    if not errors or len(errors) < len(ways(options)):
        write_atomic(path, json.dumps({"digest": key, "at": now.isoformat()}) + "\n")
    return errors


def troubles_of(site: Site, ledger: Ledger, run: Run, now: datetime) -> list[str]:
    """What is wrong, the worst first."""
    found = []
    if run.outcome is State.FAILED:
        found.append(f"{run.job} failed at {run.error}")
    mirror = site.cluster.mirror
    found += warnings(site.state, mirror.repos, mirror.stale_h, now)
    try:
        states = ledger.blades()
    except LedgerError as error:
        return [*found, str(error)]
    names = [blade.name for blade in all_blades(site.cluster)]
    return [*found, *silent(names, states, now, site.cluster.notices.silent_days)]


def silent(
    names: list[str], states: dict[str, BladeState], now: datetime, days: float
) -> list[str]:
    """Which blades have not answered for so long, as one line. Pure.

    One that was never heard of counts from when it was first tried, as far as that is known.
    """
    limit = now - timedelta(days=days)
    quiet = [
        name
        for name in names
        if days and name in states and (states[name].contact or states[name].first_tried) < limit
    ]
    if not quiet:
        return []
    blades = NodeSet.fromlist(quiet)
    many = counted(len(quiet), "blade has", "blades have")
    return [f"{many} been silent for more than {days:g} days: {blades}"]


def is_news(path: Path, key: str, now: datetime, again: timedelta) -> bool:
    """Whether other troubles were told last, or these long enough ago.

    A time that is still to come is of a clock that was set back since.
    """
    try:
        last = json.loads(path.read_text())
        since = now - datetime.fromisoformat(last["at"])
        return last["digest"] != key or not timedelta(0) <= since < again
    except (OSError, ValueError, KeyError, TypeError):
        return True


def digest(troubles: list[str]) -> str:
    """What tells troubles from others."""
    return hashlib.sha256("\n\n".join(troubles).encode()).hexdigest()


def ways(options: Notices) -> list[str]:
    """Which ways a message is to go."""
    named = {"command": options.command, "mail": options.mail_to, "webhook": options.webhook}
    return [name for name, value in named.items() if value]


def send(options: Notices, notice: Notice) -> list[str]:
    """Send a message all the ways that are configured; why some of them failed."""
    errors = []
    sending = {"command": _command, "mail": _mail, "webhook": _webhook}
    for way in ways(options):
        try:
            sending[way](options, notice)
        except (OSError, ValueError, smtplib.SMTPException, subprocess.SubprocessError) as error:
            errors.append(f"{way}: {error}")
            log.error("the notice could not be sent by %s: %s", way, error)
    return errors


def _command(options: Notices, notice: Notice) -> None:
    """The text comes on standard input, the subject in HEADNODE_SUBJECT."""
    subprocess.run(
        ["/bin/sh", "-c", options.command],
        input=notice.text,
        text=True,
        env=environment({"HEADNODE_SUBJECT": notice.subject}),
        timeout=TIMEOUT_S,
        check=True,
        capture_output=True,
    )


def _mail(options: Notices, notice: Notice) -> None:
    message = EmailMessage()
    message["From"] = options.mail_from or f"headnode@{socket.getfqdn()}"
    message["To"] = ", ".join(options.mail_to)
    message["Subject"] = notice.subject
    message["Date"] = notice.at.astimezone(UTC)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday answers
    message.set_content(notice.text)
    host, _, port = options.smtp.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_S) as server:
        if server.has_extn("starttls"):
            server.starttls()
        server.send_message(message)


def _webhook(options: Notices, notice: Notice) -> None:
    request = urllib.request.Request(  # noqa: S310 (the model takes http and https alone)
        options.webhook,
        data=notice.as_json().encode(),
        headers={"Content-Type": "application/json", "User-Agent": "headnode"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        answer.read()
