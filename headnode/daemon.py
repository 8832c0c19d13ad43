"""`headnode serve`: HTTP workers, rsyncd, the scheduler, a process on standby for short commands.

All are watched until it is told to stop.

SIGTERM and SIGINT stop it, SIGHUP has new workers take over with the configuration as it is then,
SIGUSR1 begins a new access log.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from binhost.server import open_listener
from headnode.console import say
from headnode.errors import ConfigError, HeadnodeError
from headnode.files import locked, write_atomic
from headnode.inbox import Inbox
from headnode.keeper import Keeper
from headnode.process import end_group, environment, last_lines, require
from headnode.renewal import Renewal
from headnode.scheduler import Scheduler
from headnode.worker import Settings
from headnode.workers import LONGEST_PAUSE_S, SETTLE_S, Workers, next_pause_s
from mirror import rsyncd
from schedules.site import Site

log = logging.getLogger(__name__)
WATCH_S = 1.0
MOST_WORKERS = 4


def serve(read: Callable[[], Site], scheduler: Scheduler) -> None:
    """Serve HTTP and rsync, and run jobs, until SIGTERM or SIGINT; `read` reads cluster.toml.

    Raises:
        BusyError: it is running already.
        ConfigError: the configuration is wrong. On SIGHUP that is logged, and the old one kept.
        EnvironmentLacksError: rsync is not installed, or a port is taken.
    """
    require("rsync")
    site = read()
    signals = Signals()
    with (
        locked(site.state / "serve.lock", "headnode serve"),
        open_listener(*http_address(site)) as listener,
    ):
        Daemon(site, listener, scheduler).run(signals, read)


class Signals:
    """What was asked for by signal since it was last looked at."""

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)
        self._event.set()

    def wait(self, seconds: float) -> set[int]:
        """Wait for a signal, so long at most; the signals that came."""
        self._event.wait(seconds)
        self._event.clear()
        asked, self._asked = self._asked, set()
        return asked


class Daemon:
    """The running servers of a cluster; ends them all."""

    def __init__(self, site: Site, listener: socket.socket, scheduler: Scheduler) -> None:
        self._site = site
        self._workers = Workers(listener, worker_settings(site))
        self._renewal = Renewal()
        self._inbox = Inbox()
        self._keeper = Keeper()
        self._scheduler = scheduler
        self._rsyncd: subprocess.Popen[str] | None = None
        self._rsyncd_started_s = 0.0
        self._rsyncd_settled = False
        self._rsyncd_pause_s = 0.0
        self._rsyncd_due_s = 0.0
        self._failed: dict[str, str] = {}

    def run(self, signals: Signals, read: Callable[[], Site]) -> None:
        """Start the servers, and keep them running until a signal says to stop."""
        options = self._site.cluster.serve
        try:
            self._workers.start(worker_count(self._site))
            self._write_rsyncd_conf(self._site)
            self._start_rsyncd()
            say(
                f"Serving http://{options.address}:{options.http_port}/ "
                f"and rsync://{options.address}:{options.rsync_port}/"
            )
            while not (asked := signals.wait(WATCH_S)) & {signal.SIGTERM, signal.SIGINT}:
                if signal.SIGUSR1 in asked:
                    self._workers.reopen_logs()
                if signal.SIGHUP in asked:
                    self._reload(read)
                self._watch()
        finally:
            self._scheduler.stop()
            if self._rsyncd is not None:
                end_group(self._rsyncd)
            self._workers.stop()
            self._keeper.stop()

    def _reload(self, read: Callable[[], Site]) -> None:
        """Go on with the configuration as it is now, if it is right."""
        try:
            site = read()
            refuse_fixed_changes(self._site, site)
            self._write_rsyncd_conf(site)  # which rsyncd reads for every client anew
            self._workers.settings = worker_settings(site)
            self._workers.start(worker_count(site))
        except (HeadnodeError, OSError) as error:
            log.error("not reloaded, the old configuration stays: %s", error)
            self._workers.settings = worker_settings(self._site)
            with suppress(OSError):  # a full disk: then the old one is still there
                self._write_rsyncd_conf(self._site)
            return
        self._site = site
        log.info("reloaded: %d HTTP workers have taken over", worker_count(site))

    def _watch(self) -> None:
        """Look after every part: one that fails just now (no thread, the disk) ends no other."""
        site = self._site
        parts: dict[str, Callable[[], None]] = {
            "HTTP workers": self._workers.watch,
            "rsyncd": self._watch_rsyncd,
            "renewal of deployments": lambda: self._renewal.watch(site),
            "inbox of reports": lambda: self._inbox.watch(site),
            "scheduler": lambda: self._scheduler.watch(site),
            "process on standby": lambda: self._keeper.watch(site),
        }
        for what, watch in parts.items():
            try:
                watch()
            except (OSError, RuntimeError) as error:
                if self._failed.get(what) != str(error):
                    log.error("the %s cannot be looked after just now: %s", what, error)
                self._failed[what] = str(error)
            else:
                self._failed.pop(what, None)

    def _watch_rsyncd(self) -> None:
        now, process = time.monotonic(), self._rsyncd
        if process is not None and process.poll() is None:
            return
        if process is not None:
            self._bury_rsyncd(process.returncode, now)
        if now < self._rsyncd_due_s:
            return
        with suppress(OSError):  # a full disk
            self._write_rsyncd_conf(self._site)
        try:
            self._start_rsyncd()
        except OSError as error:  # no memory, no processes left
            self._rsyncd_due_s = now + LONGEST_PAUSE_S
            log.error("rsyncd cannot be started just now: %s", error)

    def _bury_rsyncd(self, code: int, now: float) -> None:
        """Say when it is started again; one that never came up is an error of the configuration."""
        lived_s, why = now - self._rsyncd_started_s, self._rsyncd_said()
        self._rsyncd_settled = self._rsyncd_settled or lived_s >= SETTLE_S
        if not self._rsyncd_settled:
            port = self._site.cluster.serve.rsync_port
            raise HeadnodeError(
                f"rsyncd ended with exit code {code}: {why}",
                remedy=f"Is port {port} taken? See [serve] rsync_port.",
            )
        self._rsyncd = None
        self._rsyncd_pause_s = next_pause_s(self._rsyncd_pause_s, lived_s)
        self._rsyncd_due_s = now + self._rsyncd_pause_s
        log.warning(
            "rsyncd ended (%d), starting it again in %g s: %s", code, self._rsyncd_pause_s, why
        )

    def _rsyncd_said(self) -> str:
        """The end of its log; nothing since that was rotated, if no client came."""
        try:
            return last_lines(rsyncd.log_path(self._site.state).read_text(errors="replace"), 3)
        except OSError:
            return ""

    def _write_rsyncd_conf(self, site: Site) -> None:
        options = site.cluster.serve
        text = rsyncd.render(
            rsyncd.modules(site.state, site.cluster),
            listen=options.listen,
            port=options.rsync_port,
            max_connections=options.rsync_connections,
            log_file=rsyncd.log_path(site.state),
            pid_file=site.state / "rsyncd.pid",
            lock_file=site.state / "rsyncd.lock",
            chroot=os.geteuid() == 0,
        )
        write_atomic(site.state / "rsyncd.conf", text)

    def _start_rsyncd(self) -> None:
        (self._site.state / "rsyncd.pid").unlink(missing_ok=True)
        self._rsyncd_started_s = time.monotonic()
        self._rsyncd = subprocess.Popen(
            rsyncd.argv(self._site.state / "rsyncd.conf"),
            stdin=subprocess.DEVNULL,
            env=environment(),
            text=True,
            start_new_session=True,
        )


def http_address(site: Site) -> tuple[str, int]:
    """Where our own HTTP server listens: the address and the port."""
    options = site.cluster.serve
    if options.backend_port:
        return "127.0.0.1", options.backend_port
    return options.listen, options.http_port


def worker_settings(site: Site) -> Settings:
    """What the workers of a cluster are given; with nginx in front, it writes the access log."""
    options = site.cluster.serve
    log_path = None if options.backend_port else options.access_log
    return Settings(
        listener=-1,
        state=str(site.state.absolute()),
        access_log=str(log_path.absolute()) if log_path else None,
        cluster=site.cluster.model_dump_json(),
    )


def worker_count(site: Site) -> int:
    """How many processes serve HTTP."""
    return site.cluster.serve.workers or min(MOST_WORKERS, os.cpu_count() or 1)


def refuse_fixed_changes(before: Site, after: Site) -> None:
    """Check that a reload changes nothing that counts only at the start.

    Raises:
        ConfigError: it does.
    """
    old, new = before.cluster, after.cluster
    names = ("listen", "http_port", "backend_port", "rsync_port", "rsync_connections")
    changed = [
        f"serve.{each}" for each in names if getattr(old.serve, each) != getattr(new.serve, each)
    ]
    changed += ["state.path"] if old.state.path != new.state.path else []
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} has another value than at the start.",
            remedy="Restart `headnode serve`.",
        )
