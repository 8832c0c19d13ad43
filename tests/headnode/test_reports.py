"""Reports over HTTP: the blade's own sending, the real server, and what a stranger tries."""

import contextlib
import http.client
import json
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from binhost.routes import Roots
from binhost.server import Server, open_listener
from binhost.site import Site as Served
from blades import report as sending
from blades.secrets import secret_of, secrets_folder
from blades.signature import ADDRESS, BODY_BYTES, field
from config.model import Class, Cluster, State
from headnode.inbox import Inbox, begin_anew, drain, rings_of
from headnode.reports import report_routes
from schedules.ledger.ledger import Ledger
from schedules.ledger.spool import Spool
from schedules.site import Site

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SAID = {"result": "updated", "generation": 7, "sequence": 9, "packages": 11, "kernel": "6.12.1"}
NONCE = "0123456789abcdef"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    rings = {"canary": "blade1", "fleet": "blade[2-9]"}
    classes = {"blade": Class(packages=("a/b",), rings=rings)}
    state = State(path=tmp_path / "state", reserve_mib=0)
    return Site(cluster=Cluster(state=state, classes=classes))


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    site.state.mkdir()
    served = Served(roots=Roots(state=site.state), routes=report_routes(site.state, lambda: NOW))
    with Server(open_listener("127.0.0.1", 0), served) as running:
        yield running


@pytest.fixture
def blade(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """blade1's own files; a pull's settings without the address."""
    (tmp_path / "secret").write_text(secret_of(site.state, "blade1").hex() + "\n")
    monkeypatch.setattr(sending, "SECRET", tmp_path / "secret")
    monkeypatch.setattr(sending, "NUMBER", tmp_path / "blade/reported")
    monkeypatch.setattr(sending, "PAUSE_S", 0.0)
    return {"blade": "blade1"}


def post(
    server: Server, body: bytes, authorization: str | None, method: str = "POST"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    fields = {"Authorization": authorization} if authorization else {}
    with contextlib.closing(connection):
        connection.request(method, ADDRESS, body=body, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def signed(site: Site, blade: str, number: int, body: bytes, *, as_blade: str = "") -> str:
    return field(secret_of(site.state, blade), as_blade or blade, number, NONCE, body)


def nothing_is_recorded(site: Site) -> bool:
    return not Spool.of(site.state).waiting(1) and not (site.state / "reports/odd").exists()


def test_a_blade_s_report_reaches_the_ledger(
    server: Server, site: Site, blade: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("what emerge said")
    settings = {**blade, "headnode": server.url}
    assert sending.send(settings, {**SAID, "seconds": 2.5}, tmp_path / "log") == ""
    with Ledger.of(site) as ledger:
        assert drain(site.state, ledger, rings_of(site)) == 1
        known = ledger.blades()["blade1"]
        [report] = ledger.reports("blade1")
    assert (known.generation, known.ring, known.contact) == (7, "canary", NOW)
    assert (report.number, report.log, report.seconds) == (1, "what emerge said", 2.5)
    assert nothing_is_recorded(site)


def test_a_blade_numbers_its_reports_and_goes_on_after_it_was_set_up_anew(
    server: Server, site: Site, blade: dict[str, str], tmp_path: Path
) -> None:
    settings = {**blade, "headnode": server.url}
    for _ in range(3):
        assert sending.send(settings, SAID, tmp_path / "none") == ""
    sending.NUMBER.unlink()
    assert sending.send(settings, SAID, tmp_path / "none") == ""
    names = [path.name for path in Spool.of(site.state).waiting(9)]
    assert names == [f"blade1.{number}.json" for number in (1, 2, 3, 4)]
    assert sending.NUMBER.read_text() == "4\n"


def test_a_report_whose_answer_was_lost_is_not_counted_twice(
    server: Server,
    site: Site,
    blade: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = sending._Letter._open
    lost: list[int] = []

    def losing(letter: sending._Letter) -> None:
        honest(letter)
        if not lost:
            lost.append(1)
            raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(sending._Letter, "_open", losing)
    assert sending.send({**blade, "headnode": server.url}, SAID, tmp_path / "none") == ""
    assert [path.name for path in Spool.of(site.state).waiting(9)] == ["blade1.1.json"]


def test_a_replay_is_refused_for_ever(server: Server, site: Site) -> None:
    body = json.dumps(SAID).encode()
    first = signed(site, "blade1", 5, body)
    assert post(server, body, first) == (202, "Taken.\n")
    known = (409, json.dumps({"highest": 5, "nonce": NONCE}))
    assert post(server, body, first) == known
    with Ledger.of(site) as ledger:
        assert drain(site.state, ledger, rings_of(site)) == 1
        assert post(server, body, first) == known
        assert post(server, body, signed(site, "blade1", 4, body)) == known
        assert drain(site.state, ledger, rings_of(site)) == 0
        assert ledger.count_reports() == 1


@pytest.mark.parametrize(
    "case",
    ["nobody", "basic", "another_s_secret", "no_such_blade", "other_body", "other_number", "path"],
)
def test_who_cannot_sign_learns_nothing_and_nothing_is_recorded(
    server: Server, site: Site, case: str
) -> None:
    body = json.dumps(SAID).encode()
    good = signed(site, "blade1", 5, body)
    authorization = {
        "nobody": None,
        "basic": "Basic YmxhZGUxOnNlY3JldA==",
        "another_s_secret": signed(site, "blade2", 5, body, as_blade="blade1"),
        "no_such_blade": signed(site, "blade2", 5, body, as_blade="blade77"),
        "other_body": signed(site, "blade1", 5, body + b" "),
        "other_number": good.replace('number="5"', 'number="6"'),
        "path": good.replace('blade="blade1"', 'blade="../../keys/blades/blade1"'),
    }[case]
    assert post(server, body, authorization) == (401, "401 Unauthorized\n")
    assert nothing_is_recorded(site)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe junk",
        b"[" * 100_000,
        b"[]",
        b'"updated"',
        b'{"generation": 7}',
        b'{"result": 7}',
        b'{"result": "UPDATED; DROP TABLE blades"}',
        b'{"result": "updated", "blade": "blade2"}',
    ],
)
def test_junk_that_a_blade_signed_is_refused_and_not_recorded(
    server: Server, site: Site, body: bytes
) -> None:
    assert post(server, body, signed(site, "blade1", 1, body)) == (400, "This is no report.\n")
    assert nothing_is_recorded(site)
    good = json.dumps(SAID).encode()  # and its number is not used up
    assert post(server, good, signed(site, "blade1", 1, good))[0] == 202


def test_a_megabyte_of_junk_is_refused_before_it_is_read(server: Server, site: Site) -> None:
    junk = b"x" * (1 << 20)
    status, _ = post(server, junk, signed(site, "blade1", 1, junk))
    assert status == 413
    assert nothing_is_recorded(site)
    least = b"x" * (BODY_BYTES + 1)
    assert post(server, least, signed(site, "blade1", 1, least))[0] == 413


def test_a_report_is_posted_and_nothing_else(server: Server) -> None:
    assert post(server, b"", None, "GET")[0] == 405


def test_values_that_no_database_takes_do_not_hold_up_the_reports_behind_them(
    server: Server, site: Site
) -> None:
    odd = {
        **SAID,
        "generation": 10**30,
        "packages": -1,
        "fetched_bytes": 1 << 70,
        "kernel": "\ud800\0x" * 900,
        "error": "half \ud83d a character",
        "changes": [["\ud800"] * 9, None, "x" * 9999],
        "seconds": float("inf"),
        "log": 7,
    }
    for blade, said in (("blade1", odd), ("blade2", {"result": "dancing"}), ("blade3", SAID)):
        body = json.dumps(said).encode()
        assert post(server, body, signed(site, blade, 1, body))[0] == 202
    Spool.of(site.state).new.joinpath("cut.json").write_text('{"at": ')
    with Ledger.of(site) as ledger:
        assert drain(site.state, ledger, rings_of(site)) == 2
        known = ledger.blades()
        assert sorted(known) == ["blade1", "blade3"]
        assert (known["blade1"].generation, known["blade1"].seconds) == (None, 0.0)
    odd_ones = sorted(path.name for path in (site.state / "reports/odd").iterdir())
    assert odd_ones == ["blade2.1.json", "cut.json"]


def test_reports_of_one_blade_at_once_are_taken_once_each_number(
    server: Server, site: Site
) -> None:
    body = json.dumps(SAID).encode()
    fields = [signed(site, "blade1", number, body) for number in [1] * 10 + [2] * 10]
    with ThreadPoolExecutor(20) as pool:
        codes = [code for code, _ in pool.map(lambda each: post(server, body, each), fields)]
    assert set(codes) == {202, 409}
    numbers = [path.name for path in Spool.of(site.state).waiting(99)]
    assert codes.count(202) == len(numbers)
    assert "blade1.2.json" in numbers


def test_reports_are_taken_while_the_ledger_is_locked_and_come_in_afterwards(
    server: Server, site: Site
) -> None:
    cluster = site.cluster.model_copy(
        update={"ledger": site.cluster.ledger.model_copy(update={"busy_s": 0.05})}
    )
    site = Site(cluster=cluster)
    body = json.dumps(SAID).encode()
    with Ledger.of(site) as ledger:
        ledger.blades()
        with ledger.store.writing():
            assert post(server, body, signed(site, "blade1", 1, body))[0] == 202
            inbox = Inbox()
            inbox.watch(site)
            assert inbox._thread is not None
            inbox._thread.join()
            assert len(Spool.of(site.state).waiting(9)) == 1
        assert drain(site.state, ledger, rings_of(site)) == 1


def test_a_damaged_ledger_is_moved_aside_and_no_report_is_lost(server: Server, site: Site) -> None:
    body = json.dumps(SAID).encode()
    assert post(server, body, signed(site, "blade1", 1, body))[0] == 202
    (site.state / "headnode.sqlite").write_bytes(b"junk" * 4096)
    inbox = Inbox()
    for _ in range(2):
        inbox.watch(site)
        assert inbox._thread is not None
        inbox._thread.join()
    with Ledger.of(site) as ledger:
        assert ledger.blades()["blade1"].generation == 7
    [kept] = site.state.glob("headnode.sqlite.damaged-*")
    assert kept.read_bytes() == b"junk" * 4096


def test_a_ledger_that_is_good_is_not_moved_aside(site: Site) -> None:
    """As when another process was quicker, and has begun a new one already."""
    with Ledger.of(site) as ledger:
        with ledger.store.writing():
            pass
        assert begin_anew(ledger, NOW) is None
        assert ledger.store.file is not None
        assert ledger.store.file.exists()


def test_there_is_nothing_to_move_aside_where_there_is_no_ledger(site: Site) -> None:
    with Ledger.of(site) as ledger:
        assert begin_anew(ledger, NOW) is None


def test_secrets_are_each_blade_s_own_and_readable_by_nobody_else(site: Site) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: secret_of(site.state, "blade1"), range(8)))
    assert len(made) == 1
    assert secret_of(site.state, "blade2") not in made
    folder = secrets_folder(site.state)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["blade1", "blade2"]
    with pytest.raises(ValueError, match="is no blade's name"):
        secret_of(site.state, "../signing")


@pytest.mark.parametrize("cut", ["", "00", "zz\n"])
def test_a_secret_that_was_cut_off_is_made_anew(site: Site, cut: str) -> None:
    secret_of(site.state, "blade1")
    (secrets_folder(site.state) / "blade1").write_text(cut)
    assert len(secret_of(site.state, "blade1")) == 32


def test_a_blade_without_secret_or_headnode_says_why_and_goes_on(
    blade: dict[str, str], tmp_path: Path
) -> None:
    said = sending.send({**blade, "headnode": "http://127.0.0.1:1"}, SAID, tmp_path / "none")
    assert said.startswith("http://127.0.0.1:1/api/v1/reports: ")
    sending.SECRET.unlink()
    said = sending.send({**blade, "headnode": "http://127.0.0.1:1"}, SAID, tmp_path / "none")
    assert said.startswith("no secret to sign with: ")


def test_a_log_of_a_megabyte_is_sent_as_its_end_and_a_huge_report_as_its_gist() -> None:
    body = json.loads(sending.body_of(SAID, b"x" * (1 << 20) + b"the end"))
    assert body["log"] == "x" * (sending.LOG_BYTES - 7) + "the end"
    huge = {**SAID, "ring": "canary", "changes": ["x" * 1000] * 1000, "error": "y" * 5000}
    body = sending.body_of(huge, b"\0" * (1 << 20))
    assert len(body) <= BODY_BYTES
    assert json.loads(body) == {
        **{"result": "updated", "ring": "canary", "generation": 7},
        "error": "y" * 4096,
    }


def test_the_secret_is_never_sent(
    site: Site, blade: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = open_listener("127.0.0.1", 0)
    listener.setblocking(True)
    heard: list[bytes] = []

    def listen() -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=listen)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert sending.send({**blade, "headnode": url}, SAID, tmp_path / "none").endswith("400 Bad")
    thread.join()
    listener.close()
    secret = secret_of(site.state, "blade1")
    assert b"HeadnodeReport" in heard[0]
    assert secret not in heard[0]
    assert secret.hex().encode() not in heard[0]
