"""`headnode serve` watches its rsyncd: one that is killed comes back."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from config import template
from headnode.daemon import SETTLE_S
from headnode.files import write_atomic


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as client:
        return client.recv(8) == b"@RSYNCD:"
    return False


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while not answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_rsyncd_comes_back(tmp_path: Path) -> None:
    port = free_port()
    ports = {"host": "127.0.0.1", "listen": "127.0.0.1", "rsync_port": port}
    values = {
        "state": {"path": str(tmp_path / "state")},
        "serve": {**ports, "http_port": free_port()},
    }
    write_atomic(tmp_path / "cluster.toml", template.render(values))
    argv = [sys.executable, "-m", "headnode", "--config", str(tmp_path / "cluster.toml"), "serve"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serve:
        wait_for(port)
        time.sleep(SETTLE_S)  # one that ends sooner is not started again
        first = int((tmp_path / "state/rsyncd.pid").read_text())
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "state/rsyncd.pid").exists() or first == int(
            (tmp_path / "state/rsyncd.pid").read_text() or first
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        wait_for(port)
        serve.terminate()
        _, errors = serve.communicate(timeout=60)
    assert serve.returncode == 0
    assert "rsyncd ended (-9), starting it again" in errors
    assert not answers(port)
