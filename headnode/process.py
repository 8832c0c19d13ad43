"""The one door to subprocesses: argument lists, a pinned environment, a time limit always.

Refused: a shell, an inherited locale or time zone, a command without a limit. rsync has a door of
its own (`mirror.rsync`), through `sh`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from headnode.errors import CommandError, EnvironmentLacksError

TAIL_LINES = 20
PINNED = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
GRACE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What a command did. `code` is negative for a signal; `output` is stdout, `errors` stderr."""

    argv: tuple[str, ...]
    code: int
    output: str
    errors: str
    seconds: float

    @property
    def tail(self) -> str:
        """The last lines of what it printed, errors last."""
        return last_lines(f"{self.output.rstrip()}\n{self.errors}".lstrip("\n"))


def last_lines(text: str, count: int = TAIL_LINES) -> str:
    """The last `count` lines of `text`, without trailing space."""
    return "\n".join(text.rstrip().splitlines()[-count:])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, its locale and time zone pinned, and `extra` over it.

    PATH has the system's sbin folders too: cron and users' shells on Debian leave them out, and
    ip(8) is there.
    """
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path += [folder for folder in SBIN if folder not in path]
    return {**os.environ, "PATH": os.pathsep.join(path), **PINNED, **(extra or {})}


def end_group(process: subprocess.Popen[str], grace_s: float = GRACE_S) -> None:
    """End the process group that `process` leads: SIGTERM, then SIGKILL after `grace_s`.

    The leader may heed SIGTERM while others of the group do not, so SIGKILL is always sent; until
    then the leader is not waited for, since it keeps the group's number from being used anew.
    """
    _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while not _ended(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ended(process: subprocess.Popen[str]) -> bool:
    if process.returncode is not None:
        return True
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:
        return True


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    remedy: str = "",
    stdin: Path = Path("/dev/null"),
) -> Completed:
    """Run `argv` to its end and return what it printed. It reads the file `stdin`.

    With `on_line`, stderr is merged into stdout and each line is handed over as it comes.

    Raises:
        CommandError: it failed and `check` is set, or it took longer than `timeout_s` (its whole
            process group is ended), whatever `check` says.
        EnvironmentLacksError: there is no such program.
    """
    words = tuple(str(word) for word in argv)
    started = time.monotonic()
    try:
        with stdin.open("rb") as given:
            process = subprocess.Popen(
                words,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
                text=True,
                errors="backslashreplace",
                env=environment(env),
                cwd=cwd,
                start_new_session=True,
            )
    except FileNotFoundError as error:
        if not stdin.exists() or (cwd is not None and not cwd.is_dir()):
            raise
        raise missing_tool(words[0]) from error
    try:
        output, errors = _collect(process, timeout_s, on_line)
    except subprocess.TimeoutExpired as error:
        end_group(process)
        said = _text(error.output) + _text(error.stderr)
        tail = last_lines(f"{said.rstrip()}\n(no end within {timeout_s:g} s)".lstrip("\n"))
        raise CommandError(words, -signal.SIGKILL, tail, remedy=remedy) from error
    except BaseException:
        end_group(process)
        raise
    done = Completed(
        argv=words,
        code=process.returncode,
        output=output,
        errors=errors,
        seconds=time.monotonic() - started,
    )
    if check and done.code:
        raise CommandError(done.argv, done.code, done.tail, remedy=remedy)
    return done


def _text(said: bytes | str | None) -> str:
    """What a TimeoutExpired carries: bytes, whatever the pipe was opened as (Python 3.11)."""
    return said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else said or ""


def _collect(
    process: subprocess.Popen[str], timeout_s: float, on_line: Callable[[str], None] | None
) -> tuple[str, str]:
    if on_line is None:
        return process.communicate(timeout=timeout_s)
    deadline = time.monotonic() + timeout_s
    coming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process.stdout, coming), daemon=True).start()
    lines: list[str] = []
    try:
        while (line := coming.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            lines.append(line)
            on_line(line.rstrip("\n"))
        process.wait(max(0.0, deadline - time.monotonic()))
    except (queue.Empty, subprocess.TimeoutExpired) as error:
        raise subprocess.TimeoutExpired(process.args, timeout_s, "".join(lines)) from error
    return "".join(lines), ""


def _read_lines(stream: IO[str], coming: queue.SimpleQueue[str | None]) -> None:
    """Hand over line after line, then None.

    A thread's work, since a descendant with a session of its own may hold the pipe open for ever.
    """
    with stream:
        for line in stream:
            coming.put(line)
    coming.put(None)


def require(*tools: str) -> None:
    """Check that each of `tools` is on the PATH of `environment`.

    Raises:
        EnvironmentLacksError: naming all that are not.
    """
    path = environment()["PATH"]
    absent = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if absent:
        raise missing_tool(*absent)


def missing_tool(*tools: str) -> EnvironmentLacksError:
    """The error that says which programs are not installed, and in which packages they come."""
    return EnvironmentLacksError(
        "Programs that this command runs are not installed.",
        [f"{tool}: {PACKAGES.get(tool, 'a package of the same name')}" for tool in tools],
        remedy="Install them and run it again:",
    )


PACKAGES = {
    "distcc": "distcc (Debian), sys-devel/distcc (Gentoo)",
    "busybox": "busybox-static (Debian), sys-apps/busybox (Gentoo)",
    "chromium": "chromium (Debian), www-client/chromium (Gentoo)",
    "git": "git (Debian), dev-vcs/git (Gentoo)",
    "gpg": "gpg (Debian), app-crypt/gnupg (Gentoo)",
    "ip": "iproute2 (Debian), sys-apps/iproute2 (Gentoo)",
    "mksquashfs": "squashfs-tools (Debian), sys-fs/squashfs-tools[zstd] (Gentoo)",
    "mount": "mount (Debian), sys-apps/util-linux (Gentoo)",
    "nginx": "nginx-light (Debian), www-servers/nginx (Gentoo)",
    "nsenter": "util-linux (Debian), sys-apps/util-linux (Gentoo)",
    "pivot_root": "util-linux (Debian), sys-apps/util-linux (Gentoo)",
    "qemu-system-x86_64": "qemu-system-x86 (Debian), app-emulation/qemu (Gentoo)",
    "rsync": "rsync (Debian), net-misc/rsync (Gentoo)",
    "ssh": "openssh-client (Debian), net-misc/openssh (Gentoo)",
    "ssh-keygen": "openssh-client (Debian), net-misc/openssh (Gentoo)",
    "ssh-keyscan": "openssh-client (Debian), net-misc/openssh (Gentoo)",
    "umount": "mount (Debian), sys-apps/util-linux (Gentoo)",
    "unshare": "util-linux (Debian), sys-apps/util-linux (Gentoo)",
    "wget": "wget (Debian), net-misc/wget (Gentoo)",
}
