"""One process of the HTTP server: `python -m headnode.worker`, started by `headnode.workers`.

It imports little, to be small and quick to start. Its standard input is its leash: a line of
settings, then a line for each order, and when it ends, so does the process: a daemon that was
killed leaves none behind. It says `ready` on standard output when it serves.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from binhost.loop import Ending, Loop
from binhost.openfiles import KEPT_FILES
from binhost.routes import Roots
from binhost.site import Limits, Site
from headnode.on_demand import fetcher
from headnode.reports import report_routes
from headnode.status.routes import status_routes

CUT_S = 5.0
OTHER_FILES = 128  # threads' files, pipes, the log, libraries


class Order(Enum):
    """What a worker can be told."""

    DRAIN = "drain"  # others take over: finish what runs
    STOP = "stop"  # the server stops: finish what runs, within Limits.stop_s
    REOPEN = "reopen"  # the access log was renamed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker is given: the listening socket by number, what to serve, and for whom."""

    listener: int
    state: str
    access_log: str | None
    cluster: str | None = None  # as JSON; without it there is no status page, and no fetching

    def line(self) -> str:
        """As the first line of a worker's standard input."""
        return json.dumps(asdict(self)) + "\n"


def site_of(settings: Settings, limits: Limits) -> Site:
    """What is served; functions that answer (`routes`, `fetch_missing`) are plugged in here."""
    return Site(
        roots=Roots(state=Path(settings.state)),
        limits=limits,
        access_log=Path(settings.access_log) if settings.access_log else None,
        routes={
            **report_routes(Path(settings.state)),
            **(status_routes(settings.cluster) if settings.cluster else {}),
        },
        fetch_missing=fetcher(settings.cluster) if settings.cluster else None,
    )


def limits_within(most_files: int) -> Limits:
    """The limits, with no more connections than may be open, each with a file of its own. Pure."""
    usual = Limits()
    room = (most_files - KEPT_FILES - OTHER_FILES) // 2
    return Limits(connections=max(16, min(usual.connections, room)))


def _raise_file_limit() -> int:
    """Allow ourselves all open files that we may have; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def obey(orders: Iterable[bytes], loop: Loop, limits: Limits) -> None:
    """Carry out orders until there are no more, then end the loop, or else the process."""
    for line in orders:
        match Order(line.decode().strip()):
            case Order.DRAIN:
                loop.end(Ending.DRAIN, limits.drain_s)
            case Order.STOP:
                loop.end(Ending.STOP, limits.stop_s)
            case Order.REOPEN:
                loop.reopen_log()
    loop.end(Ending.CUT)
    time.sleep(CUT_S)
    os._exit(1)


def main() -> None:
    """Serve until told otherwise."""
    # Unbuffered: Python could not end while a thread holds the lock of a buffered one.
    leash = os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    settings = Settings(**json.loads(leash.readline()))
    limits = limits_within(_raise_file_limit())
    loop = Loop(socket.socket(fileno=settings.listener), site_of(settings, limits))
    orders = (leash, loop, limits)
    threading.Thread(target=obey, args=orders, name="orders", daemon=True).start()
    gc.freeze()  # what is there now stays: not to be looked at again and again
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
