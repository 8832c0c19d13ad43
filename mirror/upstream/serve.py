"""Serve an assembled upstream: `python -m mirror.upstream.serve --root DIR --rsync-port P …`.

rsyncd (module gentoo-portage is `<root>/tree`) and HTTP (`/distfiles/` is `<root>/distfiles`) on
one address. One line, `ready`, goes to stdout when both take connections. SIGTERM ends both, and
so does the end of stdin where that is a pipe, so that nobody who dies leaves an upstream running.
What was asked is in `<root>/rsyncd.log` and `<root>/http.log`, a line a request.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from headnode.errors import HeadnodeError, MirrorError
from headnode.process import environment, require
from mirror import rsyncd

MODULE = "gentoo-portage"
DISTFILES_URL = "/distfiles/"
READY = "ready"
START_S = 10.0
END_S = 5.0


def rsyncd_conf(root: Path, *, port: int, listen: str, as_root: bool) -> str:
    """The configuration of the upstream's rsyncd. Source: rsyncd.conf(5)."""
    # Only root may chroot, and drops to nobody behind it, which rsync does by itself.
    return f"""\
port = {port}
address = {listen}
use chroot = {"yes" if as_root else "no"}
log file = {root}/rsyncd.log
reverse lookup = no
numeric ids = yes
transfer logging = yes
timeout = 60

[{MODULE}]
    path = {root}/tree
    comment = The lab's Gentoo repository
    read only = yes
    list = yes
"""


class _Distfiles(SimpleHTTPRequestHandler):
    """The distfiles and nothing else, over HTTP/1.1; requests go to the server's log file."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def translate_path(self, path: str) -> str:
        """The file of a URL path; of one outside /distfiles/, a file that is not there."""
        if not path.startswith(DISTFILES_URL):
            return str(self.server.folder / ".no-such-file")
        self.directory = str(self.server.folder)
        return super().translate_path(path.removeprefix(DISTFILES_URL.rstrip("/")))

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """No listings: a mirror is asked for files by name."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        with self.server.log.open("a") as file:
            file.write(f"{self.address_string()} {format % args}\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, root: Path, listen: str, port: int) -> None:
        self.folder, self.log = root / "distfiles", root / "http.log"
        super().__init__((listen, port), _Distfiles)


def serve(root: Path, *, rsync_port: int, http_port: int, listen: str) -> None:
    """Serve `root` until SIGTERM, SIGINT or the end of stdin; must run in the main thread.

    Raises:
        MirrorError: nothing is assembled in `root`, a port is taken, or rsyncd ended by itself.
        EnvironmentLacksError: rsync or setpriv is not installed.
    """
    require("rsync", "setpriv")
    if not (root / "tree/profiles/repo_name").is_file():
        raise MirrorError(f"There is no upstream in {root}.", remedy="Assemble one there first.")
    config = root / "rsyncd.conf"
    as_root = os.geteuid() == 0
    config.write_text(rsyncd_conf(root, port=rsync_port, listen=listen, as_root=as_root))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _stop_at_end_of_stdin(stop)
    with _http(root, listen, http_port):
        # Its output goes where ours does: what rsyncd says before its log is open is then seen.
        process = subprocess.Popen(
            rsyncd.argv(config), stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment()
        )
        try:
            _await_rsyncd(process, root, listen, rsync_port)
            print(READY, flush=True)
            while not stop.wait(0.2):
                _check_alive(process, root)
        finally:
            _end(process)


@contextlib.contextmanager
def _http(root: Path, listen: str, port: int) -> Iterator[None]:
    try:
        server = _Server(root, listen, port)
    except OSError as error:
        raise MirrorError(
            f"The upstream cannot listen on {listen}:{port} for HTTP: {error.strerror}.",
            remedy="Give it a free port.",
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _await_rsyncd(rsyncd: subprocess.Popen[bytes], root: Path, listen: str, port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        _check_alive(rsyncd, root)
        with contextlib.suppress(OSError), socket.create_connection((listen, port), 1.0) as client:
            if client.recv(8) == b"@RSYNCD:":
                # Another's daemon on the same port would have answered too, ours then ended.
                time.sleep(0.05)
                _check_alive(rsyncd, root)
                return
        time.sleep(0.02)
    raise MirrorError(f"rsyncd did not answer on {listen}:{port} within {START_S:g} s.")


def _check_alive(rsyncd: subprocess.Popen[bytes], root: Path) -> None:
    if rsyncd.poll() is not None:
        raise MirrorError(
            f"The upstream's rsyncd ended with exit code {rsyncd.returncode}.",
            remedy=f"See {root}/rsyncd.log.",
        )


def _end(rsyncd: subprocess.Popen[bytes]) -> None:
    rsyncd.terminate()
    try:
        rsyncd.wait(END_S)
    except subprocess.TimeoutExpired:
        rsyncd.kill()
        rsyncd.wait()


def _stop_at_end_of_stdin(stop: threading.Event) -> None:
    """Set `stop` when stdin ends, if it is a pipe or a socket (/dev/null has ended already)."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):

        def drain() -> None:
            while os.read(0, 4096):
                pass
            stop.set()

        threading.Thread(target=drain, name="stdin", daemon=True).start()


def main() -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Serve an assembled upstream by rsync and HTTP.")
    parser.add_argument("--root", type=Path, required=True, help="what assemble() wrote")
    parser.add_argument("--rsync-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--listen", default="127.0.0.1", help="the address of both")
    args = parser.parse_args()
    try:
        serve(
            args.root.resolve(),
            rsync_port=args.rsync_port,
            http_port=args.http_port,
            listen=args.listen,
        )
    except HeadnodeError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
