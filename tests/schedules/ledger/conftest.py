"""A ledger in each database that it may be in: SQLite, and a real PostgreSQL server."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from headnode.process import run
from schedules.ledger.ledger import Ledger
from schedules.ledger.store import Store, url_of

NOBODY = 65534  # PostgreSQL refuses to run as root


def program(name: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    assert found, f"PostgreSQL's {name} is not installed: run ./bootstrap.sh"
    return found


def as_nobody(*words: str | Path) -> list[str | Path]:
    if os.geteuid():
        return list(words)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words]


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of our own, which listens on a socket in a folder of its own."""
    folder = Path("/tmp") / f"headnode-test-postgresql-{os.getpid()}"  # a socket's path is short
    folder.mkdir(mode=0o755)
    if not os.geteuid():
        os.chown(folder, NOBODY, NOBODY)
    data = folder / "data"
    words = ("-D", data, "--auth=trust", "--username=headnode", "--no-sync")
    run(as_nobody(program("initdb"), *words), timeout_s=120, cwd=folder)
    server = subprocess.Popen(
        [
            *as_nobody(program("postgres"), "-D", data, "-k", folder),
            *("-c", "listen_addresses=", "-c", "fsync=off"),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail("the PostgreSQL server did not start")
        yield f"postgresql:///postgres?host={folder}&user=headnode"
    finally:
        server.terminate()
        server.communicate(timeout=60)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    if request.param == "sqlite":
        url = url_of("", tmp_path)
    else:
        url = make_url(request.getfixturevalue("postgresql"))
        made = Store(url, 5.0)
        with made.writing() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
        made.close()
    with Ledger(Store(url, 5.0)) as made_ledger:
        yield made_ledger
