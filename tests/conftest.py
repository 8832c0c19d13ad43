"""What several tests share: a rehearsal that is up, and the promise that nothing skips unseen."""

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from headnode import rehearsal
from headnode.rehearsal import Rehearsal


def pytest_configure() -> None:
    """Take interrupts as from a terminal, also where the tests were started in the background.

    A shell starts a background command with SIGINT ignored, programs inherit that, and then no
    test of Ctrl-C means anything.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have a lab: minutes each, of which one worker would do the last."""
    with_lab = {item.path for item in items if item.get_closest_marker("lab")}
    items.sort(key=lambda item: item.path not in with_lab)


@pytest.fixture(scope="session")
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps fetched tarballs for the whole run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of 3 blades whose headnode serves; shared by the tests of a module, in their order."""
    folder = tmp_path_factory.mktemp("lab")
    with rehearsal.running(folder, 3, cache=tarballs) as up:
        rehearsal.start_headnode(up)
        yield up


HELPER, HELPER_LOG = "distccd", "/var/log/distccd.log"  # Debian's user
# /etc/init.d/distccd of sys-devel/distcc: --user, --daemon and --no-detach are the script's own.
DISTCCD = f"""
. /etc/conf.d/distccd
: > {HELPER_LOG}
chown {HELPER} {HELPER_LOG}
exec "$DISTCCD_EXEC" --user distcc --daemon --no-detach \\
	${{2:-$DISTCCD_OPTS}} --log-file {HELPER_LOG}
"""


@pytest.fixture(scope="session")
def start_distccd() -> Callable[..., None]:
    """Starts distccd on a blade as its init script does, and waits for it; it ends with the blade.

    `allow` is a network that it takes jobs from, in place of what the blade's settings say.
    """

    def start(up: Rehearsal, blade: str, allow: str = "") -> None:
        options = f"--user {HELPER} --log-level notice --allow {allow}" if allow else ""
        argv = up.lab.node(blade).argv(["sh", "-c", DISTCCD, "distccd", blade, options])
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        listening = ["grep", "--quiet", f":{3632:04X} 00000000:0000", "/proc/net/tcp"]
        node, deadline = up.lab.node(blade), time.monotonic() + 120
        while node.run(listening, timeout_s=60, check=False).code:
            assert time.monotonic() < deadline, blade
            time.sleep(0.05)

    return start


@pytest.fixture(scope="session")
def on_terminal() -> Callable[[Sequence[str]], str]:
    """Run a command on a terminal of 160 columns, to its good end; what it shows there."""

    def run(argv: Sequence[str]) -> str:
        parent, child = pty.openpty()
        command = ["env", "TERM=xterm", "COLUMNS=160", *argv]
        with subprocess.Popen(command, stdin=child, stdout=child, stderr=child) as process:
            os.close(child)
            said = b""
            while True:
                try:
                    said += os.read(parent, 65536)
                except OSError:  # the other end is closed: EIO on Linux
                    break
        os.close(parent)
        text = said.decode(errors="replace")
        assert process.returncode == 0, text
        return text

    return run
