"""The ledger's database: opened, its tables made, its errors said in our words.

SQLite is used in WAL mode, where who reads never waits for who writes, and every write begins with
BEGIN IMMEDIATE: one that read first and then wants to write would fail at once while another
writes, whatever the busy timeout (SQLite, "Transactions", 2.1).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy import exc as sql
from sqlalchemy.engine import URL

from headnode.errors import EnvironmentLacksError, LedgerError
from schedules.ledger.models import SCHEMA, metadata, schema

DRIVER = "postgresql+psycopg"
ROOM_BYTES = 1 << 16  # what SQLite wants for the files beside its own
MAKING = 0x6865_6164  # PostgreSQL's advisory lock while tables are made
# What SQLite says of a file that is damaged, or none of its own.
DAMAGE = ("file is not a database", "malformed", "disk image", "file is encrypted")


class Store:
    """A database. A connection is taken for each `reading` or `writing` and given back."""

    def __init__(self, url: URL, busy_s: float) -> None:
        self.url = url
        self._engine = _engine(url, busy_s)
        self._ready = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One look at the ledger: all of it is of one moment.

        Raises:
            LedgerError: it cannot be read.
        """
        with self._said(), self._readable().connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all that the block writes is in the ledger after it, or nothing.

        Raises:
            LedgerError: it cannot be written.
        """
        engine = self._prepared()
        with self._said(), engine.execution_options(writes=True).begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the database; the next use opens it anew."""
        self._engine.dispose()
        self._ready = False

    @property
    def file(self) -> Path | None:
        """SQLite's file."""
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database
        return Path(str(self.url.database)) if is_file else None

    def is_damaged(self) -> bool:
        """Whether SQLite itself says that its file is damaged; reads all of it."""
        if self.file is None or not self.file.exists():
            return False
        self.close()
        try:
            with self.reading() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        except LedgerError as error:
            return error.damaged
        return str(found) != "ok"

    @property
    def is_new(self) -> bool:
        """Whether nobody has written anything yet, as far as can be told without a connection."""
        return self.file is not None and not self.file.exists()

    def _prepared(self) -> Engine:
        if not self._ready:
            with self._said():
                _prepare(self._engine)
            self._ready = True
        return self._engine

    def _readable(self) -> Engine:
        """What is read from: on a full disk, SQLite's file alone, where nothing is beside it.

        WAL mode needs a file beside it also to read, and what frees room asks the ledger first.
        """
        try:
            return self._prepared()
        except LedgerError:
            if self.file is None or not _is_full_and_alone(self.file):
                raise
        return create_engine(f"sqlite:///file:{self.file}?mode=ro&immutable=1&uri=true")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sql.DBAPIError, sql.TimeoutError) as error:
            raise _in_our_words(self.url, error) from error


def _engine(url: URL, busy_s: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        try:
            # A server that was restarted costs nobody a run.
            return create_engine(url.set(drivername=DRIVER), pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise EnvironmentLacksError(
                "The ledger is a PostgreSQL database, and there is no driver for it.",
                ["psycopg: pip install headnode[postgresql]"],
            ) from error
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": busy_s})
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _is_full_and_alone(file: Path) -> bool:
    wal = file.with_name(f"{file.name}-wal")  # an empty one is of the try that failed
    alone = file.exists() and not (wal.exists() and wal.stat().st_size)
    return alone and shutil.disk_usage(file.parent).free < ROOM_BYTES


def _set_up(connection: Any, record: object) -> None:
    connection.isolation_level = None  # or sqlite3 begins transactions itself, and too late
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare(engine: Engine) -> None:
    """Check whose tables they are, and make them where there are none."""
    with engine.connect() as connection:  # which waits for nobody
        found = _version(connection)
    if found is None:
        with engine.execution_options(writes=True).begin() as connection:
            found = _make_tables(connection)
    if found != SCHEMA:
        raise LedgerError(
            f"The ledger has version {found}, and this headnode knows version {SCHEMA}.",
            remedy="Use the headnode that wrote it, or name another ledger in [ledger] url.",
        )


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(schema.name):
        return None
    return int(connection.execute(schema.select()).scalar_one())


def _make_tables(connection: Connection) -> int:
    """Make the tables, unless another process has just done so; their version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MAKING})
    found = _version(connection)
    if found is None:
        metadata.create_all(connection)
        connection.execute(schema.insert().values(version=SCHEMA))
    return found or SCHEMA


def _in_our_words(url: URL, error: sql.SQLAlchemyError) -> LedgerError:
    where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
    why = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    if any(word in why for word in DAMAGE):
        return LedgerError(
            f"The ledger {where} is damaged: {why}.",
            remedy="`headnode serve` moves it aside and begins a new one; what blades have, and "
            "what is served, does not depend on it.",
            damaged=True,
        )
    if "locked" in why:
        remedy = "Somebody has been writing in it for longer than [ledger] busy_s. Try again."
        return LedgerError(f"The ledger {where} is locked.", remedy=remedy)
    return LedgerError(f"The ledger {where} cannot be used: {why}.", remedy="See [ledger] url.")


def url_of(configured: str, state: Path) -> URL:
    """The address of the ledger: SQLite in the state folder unless another is configured."""
    if not configured:
        return URL.create("sqlite", database=str(state.absolute() / "headnode.sqlite"))
    return make_url(configured)
