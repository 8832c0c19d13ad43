"""`headnode serve`: the HTTP server in this process, rsyncd beside it, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType

from binhost.server import serve as serve_http
from headnode.console import say
from headnode.errors import HeadnodeError
from headnode.files import locked, write_atomic
from headnode.process import end_group, environment, last_lines, require
from mirror import rsyncd
from schedules.site import Site

log = logging.getLogger(__name__)
WATCH_S = 1.0
# An rsyncd that ends sooner than this after its start is not started again at once.
SETTLE_S = 5.0


def serve(site: Site) -> None:
    """Serve HTTP and rsync until SIGTERM or SIGINT.

    Raises:
        BusyError: it is running already.
        EnvironmentLacksError: rsync is not installed, or a port is taken.
    """
    require("rsync")
    options = site.cluster.serve
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    with (
        locked(site.state / "serve.lock", "headnode serve"),
        serve_http(options.listen, options.http_port, site.state),
    ):
        _serve_rsync(site, stop)


def _serve_rsync(site: Site, stop: threading.Event) -> None:
    options = site.cluster.serve
    process = _start_rsyncd(site)
    started = time.monotonic()
    say(
        f"Serving http://{options.host}:{options.http_port}/ "
        f"and rsync://{options.host}:{options.rsync_port}/"
    )
    try:
        while not stop.wait(WATCH_S):
            if process.poll() is None:
                continue
            why = last_lines(_log_path(site).read_text(errors="replace"), 3)
            if time.monotonic() - started < SETTLE_S:
                raise HeadnodeError(
                    f"rsyncd ended with exit code {process.returncode}: {why}",
                    remedy=f"Is port {options.rsync_port} taken? See [serve] rsync_port.",
                )
            log.warning("rsyncd ended (%s), starting it again: %s", process.returncode, why)
            process, started = _start_rsyncd(site), time.monotonic()
    finally:
        end_group(process)


def _log_path(site: Site) -> Path:
    return site.state / "rsyncd.log"


def _start_rsyncd(site: Site) -> subprocess.Popen[str]:
    options = site.cluster.serve
    conf = site.state / "rsyncd.conf"
    text = rsyncd.render(
        rsyncd.modules(site.state, site.cluster),
        listen=options.listen,
        port=options.rsync_port,
        max_connections=options.rsync_connections,
        log_file=_log_path(site),
        pid_file=site.state / "rsyncd.pid",
        lock_file=site.state / "rsyncd.lock",
        chroot=os.geteuid() == 0,
    )
    write_atomic(conf, text)
    (site.state / "rsyncd.pid").unlink(missing_ok=True)
    _log_path(site).touch()
    return subprocess.Popen(
        rsyncd.argv(conf),
        stdin=subprocess.DEVNULL,
        env=environment(),
        text=True,
        start_new_session=True,
    )
