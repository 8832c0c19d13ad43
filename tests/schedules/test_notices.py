"""One message a night: over a real mail server, a real web server and a real command."""

import email
import email.policy
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from config.model import Class, Cluster, Mirror, Notices, State
from schedules import notices
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Run
from schedules.ledger.runs import State as Ended
from schedules.notices import Notice, send, tell
from schedules.rollout import BladeReport, Result
from schedules.site import Site
from tests.ports import free_port

NIGHT = datetime(2026, 3, 5, 3, tzinfo=UTC)
NOTICE = Notice(
    headnode="head", at=NIGHT, troubles=("nightly failed at build: ü\nmore", "and this")
)
TEXT = (
    "nightly failed at build: ü\nmore\n\nand this\n\n"
    "headnode status, headnode schedule history and headnode blades list say more.\n"
)
SUBJECT = "headnode head: nightly failed at build: ü (and 1 more)"


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, f"127.0.0.1:{port}"
    controller.stop()


@pytest.fixture
def hook() -> Iterator[tuple[list[dict[str, Any]], str]]:
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield posted, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_message_goes_by_command_mail_and_webhook(
    mailbox: tuple[Mailbox, str], hook: tuple[list[dict[str, Any]], str], tmp_path: Path
) -> None:
    box, smtp = mailbox
    posted, address = hook
    options = Notices(
        command=f'echo "$HEADNODE_SUBJECT" > {tmp_path}/told; cat >> {tmp_path}/told',
        mail_to=("one@example.org", "two@example.org"),
        mail_from="head@example.org",
        smtp=smtp,
        webhook=address,
    )
    assert send(options, NOTICE) == []
    assert (tmp_path / "told").read_text() == f"{SUBJECT}\n{TEXT}"
    [mail] = box.mails
    assert (mail.mail_from, mail.rcpt_tos) == (
        "head@example.org",
        ["one@example.org", "two@example.org"],
    )
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert message["Subject"] == SUBJECT
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"] == "Thu, 05 Mar 2026 03:00:00 +0000"
    assert message.get_content().replace("\r\n", "\n") == TEXT
    assert posted == [
        {
            "headnode": "head",
            "at": "2026-03-05T03:00:00+00:00",
            "subject": SUBJECT,
            "troubles": list(NOTICE.troubles),
            "text": f"{SUBJECT}\n\n{TEXT}",
        }
    ]


def test_a_way_that_fails_does_not_keep_a_message_from_the_others(
    hook: tuple[list[dict[str, Any]], str], tmp_path: Path
) -> None:
    posted, address = hook
    options = Notices(
        command="exit 3", mail_to=("a@example.org",), smtp="127.0.0.1:1", webhook=address
    )
    errors = send(options, NOTICE)
    assert [error.partition(":")[0] for error in errors] == ["command", "mail"]
    assert errors[1] == "mail: [Errno 111] Connection refused"
    assert len(posted) == 1
    [error] = send(Notices(webhook=f"{address}/broken"), NOTICE)
    assert error == "webhook: HTTP Error 500: Internal Server Error"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(
        cluster=Cluster(
            state=State(path=tmp_path / "state", reserve_mib=0),
            mirror=Mirror(stale_h=0),
            classes={"blade": Class(packages=("a/b",), rings={"fleet": "blade[01-58]"})},
            notices=Notices(command=f"cat >> {tmp_path}/told; echo ---- >> {tmp_path}/told"),
        )
    )


def told(site: Site) -> list[str]:
    path = site.state.parent / "told"
    return path.read_text().split("----\n")[:-1] if path.exists() else []


def ended(outcome: Ended, error: str = "", job: str = "nightly") -> Run:
    return Run(
        id=1,
        job=job,
        why="schedule",
        due=NIGHT,
        holder="h",
        started=NIGHT,
        heartbeat=NIGHT,
        finished=NIGHT,
        outcome=outcome,
        error=error,
    )


def test_a_good_night_tells_nobody(site: Site) -> None:
    with Ledger.of(site) as ledger:
        assert tell(site, ledger, ended(Ended.OK), now=NIGHT) == []
    assert told(site) == []


def test_58_blades_that_failed_or_are_silent_are_one_message(site: Site) -> None:
    long_ago = NIGHT - timedelta(days=4)
    with Ledger.of(site) as ledger:
        for number in range(1, 59):
            good = BladeReport(blade=f"blade{number:02}", ring="fleet", result=Result.UPDATED)
            ledger.pulled(good, long_ago)
        run = ended(Ended.FAILED, "rollout: The rollout stopped in ring fleet.")
        tell(site, ledger, run, now=NIGHT)
    assert told(site) == [
        "nightly failed at rollout: The rollout stopped in ring fleet.\n\n"
        "58 blades have been silent for more than 3 days: blade[01-58]\n\n"
        "headnode status, headnode schedule history and headnode blades list say more.\n"
    ]


def test_the_same_troubles_are_told_once_a_night_and_others_at_once(site: Site) -> None:
    broken = ended(Ended.FAILED, "build: a/b did not build.")
    other = ended(Ended.FAILED, "build: a/c did not build.")
    with Ledger.of(site) as ledger:
        for hours, run in ((0, broken), (1, broken), (2, other), (3, other), (24, other)):
            tell(site, ledger, run, now=NIGHT + timedelta(hours=hours))
    assert [each.partition("\n")[0] for each in told(site)] == [
        "nightly failed at build: a/b did not build.",
        "nightly failed at build: a/c did not build.",
        "nightly failed at build: a/c did not build.",
    ]


def test_troubles_that_were_told_by_a_clock_that_was_ahead_are_told_again(site: Site) -> None:
    broken = ended(Ended.FAILED, "build: a/b did not build.")
    with Ledger.of(site) as ledger:
        for hours in (9000, 0, 1):
            tell(site, ledger, broken, now=NIGHT + timedelta(hours=hours))
    assert len(told(site)) == 2


def test_a_message_that_nobody_got_is_told_again(site: Site) -> None:
    broken = ended(Ended.FAILED, "build: x")
    options = site.cluster.notices
    mute = Site(
        cluster=site.cluster.model_copy(
            update={"notices": options.model_copy(update={"command": "exit 1"})}
        )
    )
    with Ledger.of(site) as ledger:
        [error] = tell(mute, ledger, broken, now=NIGHT)
        assert error.startswith("command: ")
        tell(site, ledger, broken, now=NIGHT + timedelta(minutes=1))
    assert len(told(site)) == 1


def test_a_blade_that_was_never_heard_of_is_silent_from_its_first_try_on(site: Site) -> None:
    off = BladeReport(blade="blade07", ring="fleet", result=Result.UNREACHED, error="no answer")
    with Ledger.of(site) as ledger:
        for days in (0, 1, 2, 3, 4):
            now = NIGHT + timedelta(days=days)
            ledger.pulled(off, now)
            tell(site, ledger, ended(Ended.OK), now=now)
    assert [each.partition("\n")[0] for each in told(site)] == [
        "1 blade has been silent for more than 3 days: blade07"
    ]


def test_silence_is_no_trouble_where_it_is_not_asked_for(site: Site) -> None:
    off = BladeReport(blade="blade07", ring="fleet", result=Result.UNREACHED)
    with Ledger.of(site) as ledger:
        ledger.pulled(off, NIGHT)
        states = ledger.blades()
    assert notices.silent(["blade07"], states, NIGHT + timedelta(days=99), 0.0) == []


def test_a_repository_that_was_never_synced_is_told(site: Site) -> None:
    stale = Site(cluster=site.cluster.model_copy(update={"mirror": Mirror(stale_h=48.0)}))
    with Ledger.of(stale) as ledger:
        tell(stale, ledger, ended(Ended.OK), now=NIGHT)
    [message] = told(site)
    assert "gentoo" in message


def test_a_ledger_that_cannot_be_read_is_a_trouble_too(site: Site) -> None:
    site.state.mkdir()
    (site.state / "headnode.sqlite").write_bytes(b"junk" * 4096)
    with Ledger.of(site) as ledger:
        tell(site, ledger, ended(Ended.OK), now=NIGHT)
    [message] = told(site)
    assert message.startswith(f"The ledger {site.state}/headnode.sqlite is damaged: ")
