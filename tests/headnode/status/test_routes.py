"""The status through the real server processes: there, of one mind, and no burden to the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from binhost.server import open_listener
from headnode.process import environment
from headnode.worker import Settings
from headnode.workers import Workers

PATIENCE_S = 60.0
HEAVY = ("jinja2", "pydantic", "portage", "prometheus_client", "ClusterShell")


def test_a_server_process_that_nobody_asks_for_the_page_imports_nothing_for_it() -> None:
    ask = f"import sys, headnode.worker; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == "[]\n"


def test_several_processes_serve_page_metrics_and_files_at_once(filled_site: Any) -> None:
    site = filled_site
    settings = Settings(
        listener=-1,
        state=str(site.state),
        access_log=None,
        cluster=site.cluster.model_dump_json(),
    )
    index = (site.state / "binhost/blade/rings/fleet/current/Packages").read_bytes()
    with open_listener("127.0.0.1", 0) as listener:
        workers = Workers(listener, settings)
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"{base}{path}", timeout=PATIENCE_S) as answer:
                return bytes(answer.read())

        try:
            workers.start(2)
            together = threading.Barrier(8)

            def look(number: int) -> bytes:
                together.wait(PATIENCE_S)
                return get("/metrics" if number % 2 else "/")

            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(look, range(8)))
            assert get("/binhost/blade/fleet/Packages") == index
        finally:
            workers.stop()
    assert all(b"No blade has reported yet; there are 58." in page for page in found[::2])
    assert set(found[1::2]) == {found[1]}  # both processes count the same


def test_a_server_without_a_cluster_has_no_status(tmp_path: Path) -> None:
    with open_listener("127.0.0.1", 0) as listener:
        settings = Settings(listener=-1, state=str(tmp_path), access_log=None)
        workers = Workers(listener, settings)
        try:
            workers.start(1)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                assert answer.read() == b"headnode: see /binhost, /distfiles and /images.\n"
        finally:
            workers.stop()
