"""`make bench-http`: our HTTP server and nginx, in turn, under the same load.

Both serve the same folder with the same number of processes on this machine, with no access log.
58 clients in two processes of a small C program (http_load.c) ask for small files over kept
connections, for small files by a connection each, for small files that they have (304), and for
large files, whose bytes they drop: five one after the other (`large`), and one (`large_once`: half
a second, a good part of it gone before TCP has its buffers as large as it wants them). Each round
measures both, the first of them in turn; a ratio is the median over the rounds of what each round's
pair gave, since both of a pair had the same neighbours on the machine. Client and servers share the
cores, for both alike.

Run with `python -P`, since this file has the name of a package of the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path

from binhost.server import open_listener
from headnode.process import environment, require, run
from headnode.worker import Settings
from headnode.workers import Workers
from tests.ports import free_port

HERE = Path(__file__).parent
CLIENTS = 58
CLIENT_PROCESSES = 2  # one alone was the limit for a connection per file
WORKERS = 2
SMALL_FILES, SMALL_BYTES = 200, 10 * 1024
LARGE_FILES, LARGE_BYTES = 4, 100 * 1000 * 1000
LARGE_EACH = 5  # for each client, one after the other
STAMP = 1_700_000_000
POOL = "binhost/blade/pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked for: `count` replies, over `connection` (keep or close)."""

    name: str
    count: int
    connection: str
    status: int
    fields: str
    paths: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one load took: wall time, and CPU time of the server's processes and of the clients."""

    seconds: float
    server_cpu_s: float
    client_cpu_s: float
    replies: int
    body_bytes: int

    @property
    def rate(self) -> float:
        """Replies a second."""
        return self.replies / self.seconds

    @property
    def gb_per_s(self) -> float:
        """Body bytes a second, in units of 10^9."""
        return self.body_bytes / self.seconds / 1e9

    @property
    def cpu_s_per_gb(self) -> float:
        """CPU seconds of the server for 10^9 body bytes."""
        return self.server_cpu_s / self.body_bytes * 1e9


def loads(scale: float) -> list[Load]:
    """All loads; `scale` shortens them."""
    since = f"If-Modified-Since: {formatdate(STAMP + 5, usegmt=True)}\r\n"
    small, close = max(CLIENTS, int(40_000 * scale)), max(CLIENTS, int(15_000 * scale))
    shape: list[tuple[str, int, str, int, str, str]] = [
        ("small", small, "keep", 200, "", "small"),
        ("newconn", close, "close", 200, "", "small"),
        ("revalidate", small, "keep", 304, since, "small"),
        ("large", CLIENTS * max(1, int(LARGE_EACH * scale)), "keep", 200, "", "large"),
        ("large_once", CLIENTS, "keep", 200, "", "large"),
    ]
    return [
        Load(name=n, count=c, connection=k, status=s, fields=f, paths=p)
        for n, c, k, s, f, p in shape
    ]


def make_files(folder: Path) -> None:
    """The served folder, and lists of the URL paths in it."""
    pool = folder / "state" / POOL
    pool.mkdir(parents=True)
    for kind, count, size in (
        ("small", SMALL_FILES, SMALL_BYTES),
        ("large", LARGE_FILES, LARGE_BYTES),
    ):
        for number in range(count):
            path = pool / f"{kind}-{number}-1.gpkg.tar"
            path.write_bytes(os.urandom(size))
            os.utime(path, (STAMP, STAMP))
        names = [f"/{POOL}/{kind}-{number}-1.gpkg.tar\n" for number in range(count)]
        (folder / kind).write_text("".join(names))


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """A running nginx: its port, and the processes that do the work."""
    port, text = free_port(), (HERE / "nginx.conf").read_text()
    values = {"WORKERS": WORKERS, "RUN": folder, "PORT": port, "STATE": folder / "state"}
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    (folder / "nginx.conf").write_text(text)
    argv = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]
    process = subprocess.Popen(argv, env=environment())
    try:
        wait_for(port)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield port, [int(each) for each in children.split()]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def headnode(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Our running server: its port, and its workers."""
    with open_listener("127.0.0.1", 0) as listener:
        settings = Settings(listener=-1, state=str(folder / "state"), access_log=None)
        workers = Workers(listener, settings)
        try:
            workers.start(WORKERS)
            pids = [slot.worker.process.pid for slot in workers.slots if slot.worker]
            yield listener.getsockname()[1], pids
        finally:
            workers.stop()


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of these processes so far, user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def measure(folder: Path, load: Load, port: int, pids: list[int]) -> Figure:
    """Run one load, its clients in `CLIENT_PROCESSES` processes."""
    before = cpu_s(pids)
    processes = [
        subprocess.Popen(
            [
                *(folder / "http_load", str(port), str(CLIENTS // CLIENT_PROCESSES)),
                *(str(load.count // CLIENT_PROCESSES), load.connection, str(load.status)),
                *(load.fields, folder / load.paths),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(CLIENT_PROCESSES)
    ]
    said = [process.communicate(timeout=600)[0].split() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("the clients failed, see above")
    return Figure(
        seconds=max(float(each[0]) for each in said),
        server_cpu_s=cpu_s(pids) - before,
        client_cpu_s=sum(float(each[1]) for each in said),
        replies=sum(int(each[2]) for each in said),
        body_bytes=sum(int(each[3]) for each in said),
    )


def say(text: str) -> None:
    """Tell how it goes on."""
    print(text, file=sys.stderr, flush=True)


def compare(folder: Path, rounds: int, scale: float) -> dict[str, object]:
    """All rounds, and the figures from them."""
    figures: dict[str, dict[str, list[Figure]]] = {"headnode": {}, "nginx": {}}
    with headnode(folder) as ours, nginx(folder) as theirs:
        sides = [("headnode", ours), ("nginx", theirs)]
        for turn in range(-1, rounds):  # the first is to warm up, and does not count
            for load in loads(scale if turn >= 0 else scale / 10):
                for side, (port, pids) in sides if turn % 2 else reversed(sides):
                    figure = measure(folder, load, port, pids)
                    if turn >= 0:
                        figures[side].setdefault(load.name, []).append(figure)
                        say(
                            f"round {turn + 1} {load.name:10} {side:8} {figure.rate:9.0f}/s "
                            f"{figure.gb_per_s:6.2f} GB/s, CPU {figure.server_cpu_s:5.2f} s, "
                            f"clients {figure.client_cpu_s / figure.seconds:4.0%} of a core"
                        )
        resident = max(resident_mb(pid) for pid in ours[1])
    return summary(figures, resident)


def summary(figures: dict[str, dict[str, list[Figure]]], resident: float) -> dict[str, object]:
    """The contract's keys, and what they were worked out from. Pure."""

    def ratio(load: str, of: str) -> float:
        pairs = zip(figures["headnode"][load], figures["nginx"][load], strict=True)
        return round(statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs), 3)

    def cpu_us(load: str) -> list[float]:
        """Our CPU microseconds a reply, and nginx's."""
        return [
            round(statistics.median(f.server_cpu_s / f.replies for f in of[load]) * 1e6, 1)
            for of in (figures["headnode"], figures["nginx"])
        ]

    return {
        "small_rps_ratio": ratio("small", "rate"),
        "newconn_rps_ratio": ratio("newconn", "rate"),
        "revalidate_rps_ratio": ratio("revalidate", "rate"),
        "large_gbps_ratio": ratio("large", "gb_per_s"),
        "large_once_gbps_ratio": ratio("large_once", "gb_per_s"),
        "cpu_per_gb_ratio": ratio("large", "cpu_s_per_gb"),
        "worker_rss_mb": round(resident, 1),
        "cpu_us_per_reply": {each.name: cpu_us(each.name) for each in loads(1.0)},
        "clients": CLIENTS,
        "workers": WORKERS,
        "small_files": [SMALL_FILES, SMALL_BYTES],
        "large_files": [LARGE_FILES, LARGE_BYTES],
        "cores": os.cpu_count(),
        "raw": {
            side: {name: [asdict(each) for each in rows] for name, rows in of.items()}
            for side, of in figures.items()
        },
    }


def versions() -> dict[str, str]:
    """Of what was measured."""
    said = run(["nginx", "-v"], timeout_s=10).errors
    return {"nginx": said.strip().rpartition("/")[2], "python": sys.version.split()[0]}


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench-http")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    options = parser.parse_args()
    require("nginx", "gcc")
    with tempfile.TemporaryDirectory(prefix="headnode-bench-") as name:
        folder = Path(name)
        compiler = ["gcc", "-O2", "-o", folder / "http_load", HERE / "http_load.c"]
        run(compiler, timeout_s=60)
        say(f"{shutil.disk_usage(folder).free >> 30} GiB free; making files")
        make_files(folder)
        result = compare(folder, options.rounds, options.scale)
    print(json.dumps({**result, "versions": versions()}))


if __name__ == "__main__":
    main()
