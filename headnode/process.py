"""The one door to subprocesses: argument lists, a pinned environment, a time limit always.

Refused: a shell, an inherited locale or time zone, a command without a limit. rsync has a door of
its own (`mirror.rsync`), through `sh`.
"""

from __future__ import annotations

import contextlib
import os
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
        return last_lines(self.output + self.errors)


def last_lines(text: str, count: int = TAIL_LINES) -> str:
    """The last `count` lines of `text`, without trailing space."""
    return "\n".join(text.rstrip().splitlines()[-count:])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, its locale and time zone pinned, and `extra` over it."""
    return {**os.environ, **PINNED, **(extra or {})}


def end_group(process: subprocess.Popen[str], grace_s: float = GRACE_S) -> None:
    """End the process group that `process` leads: SIGTERM, then SIGKILL after `grace_s`."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            return


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    remedy: str = "",
) -> Completed:
    """Run `argv` to its end and return what it printed.

    With `on_line`, stderr is merged into stdout and each line is handed over as it comes.

    Raises:
        CommandError: it failed and `check` is set, or it took longer than `timeout_s` (its whole
            process group is ended), whatever `check` says.
        EnvironmentLacksError: there is no such program.
    """
    words = tuple(str(word) for word in argv)
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=environment(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise missing_tool(words[0]) from error
    try:
        output, errors = _collect(process, timeout_s, on_line)
    except subprocess.TimeoutExpired as error:
        end_group(process)
        what = f"(no end within {timeout_s:g} s)"
        raise CommandError((*words, what), -signal.SIGKILL, "", remedy=remedy) from error
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


def _collect(
    process: subprocess.Popen[str], timeout_s: float, on_line: Callable[[str], None] | None
) -> tuple[str, str]:
    if on_line is None:
        return process.communicate(timeout=timeout_s)
    assert process.stdout is not None  # noqa: S101 (asked for a pipe)
    lines: list[str] = []
    overdue = threading.Event()

    def give_up() -> None:
        overdue.set()
        end_group(process)

    watchdog = threading.Timer(timeout_s, give_up)
    watchdog.start()
    try:
        _hand_over(process.stdout, lines, on_line)
        process.wait()
    finally:
        watchdog.cancel()
    if overdue.is_set():
        raise subprocess.TimeoutExpired(process.args, timeout_s)
    return "".join(lines), ""


def _hand_over(stream: IO[str], lines: list[str], on_line: Callable[[str], None]) -> None:
    for line in stream:
        lines.append(line)
        on_line(line.rstrip("\n"))


def require(*tools: str) -> None:
    """Check that each of `tools` is on PATH.

    Raises:
        EnvironmentLacksError: naming all that are not.
    """
    absent = [tool for tool in tools if shutil.which(tool) is None]
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
    "ip": "iproute2 (Debian), sys-apps/iproute2 (Gentoo)",
    "mount": "mount (Debian), sys-apps/util-linux (Gentoo)",
    "nsenter": "util-linux (Debian), sys-apps/util-linux (Gentoo)",
    "rsync": "rsync (Debian), net-misc/rsync (Gentoo)",
    "ssh": "openssh-client (Debian), net-misc/openssh (Gentoo)",
    "unshare": "util-linux (Debian), sys-apps/util-linux (Gentoo)",
}
