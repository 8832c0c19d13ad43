"""`make bench-scale`: 10,000 pulls against the real `headnode serve`, and what they cost it.

Each pull is what a blade's pull sends on a night without news: the ring's deployment is fetched,
and a report is posted, numbered and signed with the blade's own secret, each over a connection of
its own. As fast as they go, by 58 clients in two processes on the same machine. For the first
seconds another process holds the ledger, as a backup might: pulls are answered all the same.

The cost is the CPU time of all processes of `headnode serve`, from the first request until each
report is a row of the ledger, over the 3,600 s of an hour over which such a night is spread. Rows
are counted. The hour is not simulated: an idle daemon's CPU time is measured beside it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy

from blades.report import body_of
from blades.secrets import SECRET_BYTES, secrets_folder
from blades.signature import ADDRESS, field
from headnode.process import environment
from tests.ports import free_port

CLIENT_PROCESSES, CLIENTS = 2, 29
HOUR_S = 3600
WAIT_S = 600.0
IDLE_S = 20.0
RING = "/binhost/blade/fleet"

CONFIG = """\
[state]
path = "state"
reserve_mib = 0
[serve]
host = "127.0.0.1"
listen = "127.0.0.1"
http_port = {http}
rsync_port = {rsync}
[signing]
mode = "off"
[schedule]
jobs = {{}}
[classes.blade]
packages = ["app-misc/hello"]
rings = {{ fleet = "blade[1-{pulls}]" }}
"""
DEPLOYMENT = {
    "class_name": "blade",
    "ring": "fleet",
    "sequence": 41,
    "generation": 37,
    "snapshots": "f1b160925a3144ca",
    "atoms": ["@system", "app-misc/hello"],
    "sha256": dict.fromkeys(("Packages", "Packages.gz", "generation.json"), "0" * 64),
    "issued": "2026-01-01T00:00:00Z",
    "expires": "2099-01-01T00:00:00Z",
}
REPORT = {
    "result": "unchanged",
    "emerge": False,
    "changes": [],
    "error": "",
    "ring": "fleet",
    "generation": 37,
    "sequence": 41,
    "packages": 211,
    "kernel": "6.12.58-gentoo",
    "kernel_due": "6.12.58-gentoo",
    "source_builds": 0,
    "fetched_bytes": 0,
    "seconds": 0.05,
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_state(folder: Path, pulls: int) -> None:
    """A ring with a deployment, and a secret for each blade (written in one go: it is no part)."""
    deployments = folder / "state/binhost/blade/rings/fleet/deployments/41"
    deployments.mkdir(parents=True)
    (deployments / "deployment.json").write_text(json.dumps(DEPLOYMENT, indent=1) + "\n")
    (deployments.parents[1] / "current").symlink_to("deployments/41")
    keys = secrets_folder(folder / "state")
    keys.mkdir(parents=True, mode=0o700)
    for number in range(1, pulls + 1):
        (keys / f"blade{number}").write_text(secrets.token_bytes(SECRET_BYTES).hex() + "\n")


@contextmanager
def serving(folder: Path, pulls: int) -> Iterator[tuple[int, int]]:
    """`headnode serve`: its port and its process."""
    port = free_port()
    (folder / "cluster.toml").write_text(CONFIG.format(http=port, rsync=free_port(), pulls=pulls))
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headnode", "serve"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(),
        )
    assert process.stdout is not None
    try:
        if not process.stdout.readline().startswith("Serving"):
            raise SystemExit((folder / "serve.log").read_text())
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all below it, ended ones included."""
    ticks = 0
    children: dict[int, list[int]] = {}
    stats: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(path.parent.name)
        stats[number] = fields
        children.setdefault(int(fields[1]), []).append(number)
    todo = [pid]
    while todo:
        each = todo.pop()
        ticks += sum(map(int, stats[each][11:15]))
        todo += children.get(each, [])
    return ticks / os.sysconf("SC_CLK_TCK")


def request(port: int, method: str, path: str, body: bytes, fields: dict[str, str]) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        connection.request(method, path, body=body or None, headers=fields)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def pull(port: int, blade: str, secret: bytes) -> tuple[bool, float]:
    """One pull: whether the headnode took it, and how long it had the blade wait."""
    started = time.monotonic()
    body = body_of({**REPORT, "blade": blade}, b"")
    signed = field(secret, blade, 1, secrets.token_hex(16), body)
    try:
        good = request(port, "GET", f"{RING}/deployment.json", b"", {}) == 200
        fields = {"Authorization": signed, "Content-Type": "application/json"}
        good = good and request(port, "POST", ADDRESS, body, fields) == 202
    except (OSError, http.client.HTTPException):
        good = False
    return good, time.monotonic() - started


def clients(port: int, state: Path, numbers: range) -> tuple[int, list[float]]:
    """Pull as the blades of these numbers; how many failed, and how long each took."""
    keys = secrets_folder(state)
    known = {f"blade{n}": bytes.fromhex((keys / f"blade{n}").read_text()) for n in numbers}
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(lambda item: pull(port, *item), known.items()))
    return sum(not good for good, _ in done), [seconds for _, seconds in done]


def hold_ledger(path: Path, seconds: float) -> None:
    """Be somebody who writes in the ledger for long."""
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=WAIT_S)) as connection:
        blades = connection.execute(
            "SELECT count(*) FROM blades WHERE result = 'unchanged' AND generation = 37"
        ).fetchone()[0]
        reports = connection.execute("SELECT count(DISTINCT blade) FROM reports").fetchone()[0]
    return int(min(blades, reports))


def measure(folder: Path, pulls: int, locked_s: float) -> dict[str, object]:
    make_state(folder, pulls)
    database = folder / "state/headnode.sqlite"
    subprocess.run(
        [sys.executable, "-c", WARM, str(folder / "state")], check=True, env=environment()
    )
    with serving(folder, pulls) as (port, pid):
        before_idle = cpu_s(pid)
        time.sleep(IDLE_S)
        idle = (cpu_s(pid) - before_idle) / IDLE_S
        before, started = cpu_s(pid), time.monotonic()
        holder = threading.Thread(target=hold_ledger, args=(database, locked_s))
        holder.start()
        with multiprocessing.get_context("spawn").Pool(CLIENT_PROCESSES) as pool:
            shares = [
                range(1 + each, pulls + 1, CLIENT_PROCESSES) for each in range(CLIENT_PROCESSES)
            ]
            results = pool.starmap(clients, [(port, folder / "state", share) for share in shares])
        pulled_s = time.monotonic() - started
        holder.join()
        while rows(database) < pulls - sum(failed for failed, _ in results):
            if time.monotonic() - started > WAIT_S:
                break
            time.sleep(0.2)
        all_s, used = time.monotonic() - started, cpu_s(pid) - before
    slow = sorted(seconds for _, each in results for seconds in each)
    found = rows(database)
    return {
        "pulls": pulls,
        "failed": max(sum(failed for failed, _ in results), pulls - found),
        "headnode_core_fraction": round(used / HOUR_S, 5),
        "ledger_rows": found,
        "headnode_cpu_s": round(used, 2),
        "cpu_ms_per_pull": round(used / pulls * 1000, 3),
        "idle_core_fraction": round(idle, 5),
        "pulls_s": round(pulled_s, 2),
        "all_in_ledger_s": round(all_s, 2),
        "pulls_per_s": round(pulls / pulled_s, 1),
        "ledger_held_s": locked_s,
        "pull_median_s": round(slow[len(slow) // 2], 4),
        "pull_p99_s": round(slow[len(slow) * 99 // 100], 4),
        "pull_slowest_s": round(slow[-1], 4),
        "clients": CLIENT_PROCESSES * CLIENTS,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "sqlalchemy": sqlalchemy.__version__,
            "sqlite": sqlite3.sqlite_version,
        },
    }


# The tables are there on any night but the first.
WARM = """
import sys
from pathlib import Path
from schedules.ledger.store import Store, url_of
with Store(url_of("", Path(sys.argv[1])), 30.0).writing():
    pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pulls", type=int, default=10_000)
    parser.add_argument("--locked-s", type=float, default=5.0, help="the ledger is held so long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headnode-scale-") as folder:
        say(f"{options.pulls} pulls, the ledger held for the first {options.locked_s:g} s")
        print(json.dumps(measure(Path(folder), options.pulls, options.locked_s)))


if __name__ == "__main__":
    main()
