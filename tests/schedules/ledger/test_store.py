"""The ledger's file: shared by processes, locked, damaged, of another version."""

import multiprocessing
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url, update

from headnode.errors import LedgerError
from schedules.ledger.ledger import Ledger
from schedules.ledger.models import schema
from schedules.ledger.pulls import Pulled
from schedules.ledger.recorder import Recorder
from schedules.ledger.store import Store, url_of
from schedules.rollout import BladeReport, Result

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def opened(folder: Path, busy_s: float = 30.0) -> Ledger:
    return Ledger(Store(url_of("", folder), busy_s))


def report(name: str) -> BladeReport:
    return BladeReport(blade=name, ring="fleet", result=Result.UPDATED, generation=1)


def write_many(folder: Path, writer: int) -> None:
    with opened(folder) as ledger:
        for number in range(50):
            ledger.pulled(report(f"blade{writer}-{number}"), NOW)


def test_processes_that_begin_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, each)) for each in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with opened(tmp_path) as ledger:
        assert len(ledger.blades()) == 200


def test_two_servers_that_share_a_postgresql_ledger_see_each_other(postgresql: str) -> None:
    stores = [Store(make_url(postgresql), 5.0) for _ in range(2)]
    with Ledger(stores[0]) as one, Ledger(stores[1]) as other:
        one.pulled(report("shared"), NOW)
        assert other.blades()["shared"].generation == 1


def test_who_reads_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    with opened(tmp_path) as writer, opened(tmp_path, busy_s=0.01) as reader:
        writer.pulled(report("blade01"), NOW)
        with writer.store.writing():
            assert list(reader.blades()) == ["blade01"]


def test_a_locked_ledger_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as holder, opened(tmp_path, busy_s=0.05) as other:
        holder.pulled(report("blade01"), NOW)
        with holder.store.writing(), pytest.raises(LedgerError) as caught:
            other.pulled(report("blade02"), NOW)
        assert str(caught.value) == (
            f"The ledger {tmp_path}/headnode.sqlite is locked. "
            "Somebody has been writing in it for longer than [ledger] busy_s. Try again."
        )
        assert not caught.value.damaged
        assert list(other.blades()) == ["blade01"]


def test_a_recorder_counts_what_a_locked_ledger_did_not_take(tmp_path: Path) -> None:
    with opened(tmp_path) as holder, opened(tmp_path, busy_s=0.05) as other:
        holder.pulled(report("blade01"), NOW)
        with holder.store.writing(), Recorder(other) as recorder:
            recorder.pulled(report("blade02"), NOW)
            recorder.pulled(report("blade03"), NOW)
    assert recorder.lost == 2
    assert str(recorder.error).startswith(f"The ledger {tmp_path}/headnode.sqlite is locked.")


@pytest.mark.parametrize("junk", [b"junk" * 4096, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_file_of_junk_is_said_to_be_damaged_and_left_alone(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "headnode.sqlite"
    path.write_bytes(junk)
    with opened(tmp_path) as ledger, pytest.raises(LedgerError) as caught:
        ledger.blades()
    assert caught.value.damaged
    assert str(caught.value).startswith(f"The ledger {path} is damaged: file is not a database.")
    assert path.read_bytes() == junk


def test_a_ledger_whose_pages_were_overwritten_is_damaged(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.pulled_all((Pulled(report=report(f"b{n}"), at=NOW) for n in range(500)), NOW)
    path = tmp_path / "headnode.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with opened(tmp_path) as ledger, pytest.raises(LedgerError) as caught:
        ledger.blades()
    assert caught.value.damaged


def test_a_ledger_of_a_later_headnode_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.pulled(report("blade01"), NOW)
        with ledger.store.writing() as connection:
            connection.execute(update(schema).values(version=99))
    with opened(tmp_path) as ledger, pytest.raises(LedgerError) as caught:
        ledger.blades()
    assert str(caught.value) == (
        "The ledger has version 99, and this headnode knows version 1. "
        "Use the headnode that wrote it, or name another ledger in [ledger] url."
    )


def test_an_interrupted_transaction_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> object:
        yield Pulled(report=report("blade01"), at=NOW)
        raise KeyboardInterrupt

    with opened(tmp_path) as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.pulled_all(interrupted(), NOW)
        assert ledger.blades() == {}


def test_a_server_that_is_not_there_is_said_without_the_password() -> None:
    store = Store(make_url("postgresql://headnode:secret@127.0.0.1:1/headnode"), 5.0)
    with Ledger(store) as ledger, pytest.raises(LedgerError) as caught:
        ledger.blades()
    assert str(caught.value).startswith(
        "The ledger postgresql://headnode:***@127.0.0.1:1/headnode cannot be used: "
    )
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith(" See [ledger] url.")


def test_any_sqlite_tool_can_read_it(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.pulled(report("blade01"), NOW)
    with sqlite3.connect(tmp_path / "headnode.sqlite") as connection:
        assert connection.execute("SELECT name, generation, tried FROM blades").fetchall() == [
            ("blade01", 1, "2026-03-01 00:00:00.000000")
        ]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
