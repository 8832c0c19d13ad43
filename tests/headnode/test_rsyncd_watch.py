"""`headnode serve` watches its rsyncd: one that is killed comes back, and its log is rotated."""

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import template
from config.load import load
from headnode import daemon
from headnode.daemon import Daemon
from headnode.errors import ConfigError
from headnode.files import write_atomic
from headnode.workers import LONGEST_PAUSE_S, SETTLE_S, Workers
from schedules.ledger.spool import Letter, Spool
from schedules.site import Site
from tests.ports import free_port


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as client:
        return client.recv(8) == b"@RSYNCD:"
    return False


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while not answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def configured(folder: Path, port: int) -> Path:
    ports = {"host": "127.0.0.1", "listen": "127.0.0.1", "rsync_port": port}
    values = {
        "state": {"path": str(folder / "state")},
        "serve": {**ports, "http_port": free_port()},
    }
    write_atomic(folder / "cluster.toml", template.render(values))
    return folder / "cluster.toml"


def argv(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "headnode", "--config", str(config), "serve", *words]


@contextlib.contextmanager
def serving(config: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A real one, whose rsyncd has run for long enough to be started again."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv(config), text=True, **piped) as serve:
        try:
            wait_for(port)
            time.sleep(SETTLE_S)  # one that ends sooner is not started again
            yield serve
        finally:
            serve.terminate()


def kill_rsyncd(state: Path) -> None:
    """Kill it, and wait for the next."""
    first = int((state / "rsyncd.pid").read_text())
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not (state / "rsyncd.pid").exists() or first == int(
        (state / "rsyncd.pid").read_text() or first
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_rsyncd_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with serving(configured(tmp_path, port), port) as serve:
        kill_rsyncd(tmp_path / "state")
        wait_for(port)
        serve.terminate()
        _, errors = serve.communicate(timeout=60)
    assert serve.returncode == 0
    assert "rsyncd ended (-9), starting it again in 0 s" in errors
    assert not answers(port)


def test_an_rsyncd_that_dies_again_at_once_comes_back_after_a_pause(tmp_path: Path) -> None:
    port = free_port()
    with serving(configured(tmp_path, port), port) as serve:
        for _ in range(2):
            kill_rsyncd(tmp_path / "state")
            wait_for(port)
        serve.terminate()
        _, errors = serve.communicate(timeout=60)
    assert serve.returncode == 0
    assert "rsyncd ended (-9), starting it again in 1 s" in errors


def test_an_rsyncd_that_never_came_up_ends_serve_and_says_what_to_look_at(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        done = subprocess.run(
            argv(configured(tmp_path, port)), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"Is port {port} taken? See [serve] rsync_port." in done.stderr


def test_rsyncd_goes_on_in_a_new_log_after_the_old_one_was_rotated(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "state/rsyncd.log"
    config = configured(tmp_path, port)
    done = subprocess.run(argv(config, "--logrotate"), check=True, capture_output=True, text=True)
    (tmp_path / "rotate").write_text(done.stdout[done.stdout.index(f"{log} {{") :])
    rotate = ["logrotate", "--force", "--state", tmp_path / "status", tmp_path / "rotate"]
    client = ["rsync", f"rsync://127.0.0.1:{port}/"]
    with serving(config, port) as serve:
        subprocess.run(rotate, check=True)
        assert not log.exists()
        old = (tmp_path / "state/rsyncd.log.1").read_text()
        subprocess.run(client, check=True, capture_output=True)
        assert "connect from" in log.read_text()
        assert (tmp_path / "state/rsyncd.log.1").read_text() == old
        subprocess.run(rotate, check=True)
        kill_rsyncd(tmp_path / "state")  # while it has no log
        wait_for(port)
        assert serve.poll() is None


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that was started, as far as its files go."""
    monkeypatch.setattr(Workers, "start", lambda self, count: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheduler: Any = None
        site = Site(cluster=load(configured(tmp_path, 8730)))
        made = Daemon(site, listener, scheduler)
        made._write_rsyncd_conf(site)
        yield made


def another_ring(idle: Daemon) -> Site:
    cls = idle._site.cluster.classes["blade"].model_copy(update={"rings": {"other": "blade01"}})
    return Site(cluster=idle._site.cluster.model_copy(update={"classes": {"blade": cls}}))


def test_a_reload_on_a_full_disk_keeps_what_is_served(
    idle: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before, site = (tmp_path / "state/rsyncd.conf").read_text(), idle._site
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(daemon, "write_atomic", full)
        idle._reload(lambda: another_ring(idle))
    assert caplog.messages == [
        "not reloaded, the old configuration stays: "
        f"[Errno 28] No space left on device: '{tmp_path}/state/rsyncd.conf'"
    ]
    assert idle._site is site
    assert (tmp_path / "state/rsyncd.conf").read_text() == before
    idle._reload(lambda: another_ring(idle))
    assert "[blade-other-gentoo]" in (tmp_path / "state/rsyncd.conf").read_text()


def test_a_reload_that_fails_late_leaves_rsyncd_as_it_was(
    idle: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Workers, count: int) -> None:
        raise ConfigError("no", remedy="none")

    before = (tmp_path / "state/rsyncd.conf").read_text()
    monkeypatch.setattr(Workers, "start", refused)
    idle._reload(lambda: another_ring(idle))
    assert (tmp_path / "state/rsyncd.conf").read_text() == before


class Watched:
    """A scheduler of which it is known how often it was looked after."""

    times = 0

    def watch(self, site: Site) -> None:
        self.times += 1


def test_a_thread_that_cannot_be_had_just_now_ends_nothing(
    idle: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler: Any = Watched()
    idle._scheduler, idle._rsyncd_due_s = scheduler, time.monotonic() + 60
    letter = Letter(at="2026-11-22T12:00:00+00:00", blade="blade01", number=1, said={})
    Spool.of(idle._site.state).put(letter, "")

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(2):
            idle._watch()
    said = "the {} cannot be looked after just now: can't start new thread"
    assert caplog.messages == [
        said.format("renewal of deployments"),
        said.format("inbox of reports"),
    ]
    assert scheduler.times == 2


def test_an_rsyncd_that_cannot_be_started_just_now_is_tried_again_later(
    idle: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*words: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(daemon.subprocess, "Popen", none_left)
        for _ in range(2):
            idle._watch_rsyncd()
    assert caplog.messages == [
        "rsyncd cannot be started just now: [Errno 11] Resource temporarily unavailable"
    ]
    assert idle._rsyncd_due_s > time.monotonic() + LONGEST_PAUSE_S - 5
