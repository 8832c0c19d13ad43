"""The one door to rsync, through `sh`.

`rsync_exit` knows what the exit codes mean, `rsync_output` what is printed. Refused: an inherited
locale or time zone, a transfer without limits, a partial transfer that looks like a good one.

rsync's own time limits are not enough (found out by running): `--contimeout` does not fire on a
server that accepts and is silent, `--timeout` misses one that is frozen. So a transfer that neither
prints nor reads a byte for `stall_s` is ended here, with its whole process group, since sh's
`_timeout` ends only the leader.

Source: rsync(1); sh 2.4.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import selectors
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnode.process import TAIL_LINES, environment, missing_tool
from mirror.rsync_exit import RsyncExit, UpstreamError, Verdict, explain
from mirror.rsync_output import Output, Progress, Stats, parse_progress, parse_stats

__all__ = [
    "NOT_THE_TREE",
    "Progress",
    "Result",
    "RsyncExit",
    "Stats",
    "UpstreamError",
    "Verdict",
    "build_argv",
    "fetch",
    "parse_progress",
    "parse_stats",
]

log = logging.getLogger(__name__)

LIBC = ctypes.CDLL(None)
CONNECT_S = 30.0
GRACE_S = 2.0
POLL_S = 0.5
# As Portage's own rsync: what an upstream may hold beside the tree.
NOT_THE_TREE = ("/distfiles", "/local", "/packages", "/.git")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A good transfer, and the paths that it created or altered, and deleted.

    A folder's path ends in a slash. `changes` counts both.
    """

    source: str
    exit: RsyncExit
    altered: Sequence[str]
    deleted: Sequence[str]
    stats: Stats
    seconds: float

    @property
    def changes(self) -> int:
        """How many paths differed."""
        return len(self.altered) + len(self.deleted)


def build_argv(
    source: str,
    target: Path,
    *,
    link_dest: Path | None = None,
    stall_s: float,
    dry_run: bool = False,
    bwlimit_kib: int = 0,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[str]:
    """Give rsync's arguments to make `target` the same tree as `source`.

    Files become 0644 and folders 0755 whatever upstream has, since rsyncd reads them as
    nobody. Never
    `--inplace`: it writes through the hard links of older snapshots. Modification times are
    compared to the nanosecond (window -1), or a file that is rewritten within a second at the same
    size, as timestamp.chk is, would count as unchanged.
    """
    return [
        *("--recursive", "--links", "--safe-links", "--times", "--omit-dir-times"),
        "--modify-window=-1",
        *("--perms", "--chmod=D755,F644", "--whole-file", "--delete", "--compress", "--no-motd"),
        *("--info=progress2", "--no-human-readable", "--stats", "--out-format=%i %n"),
        f"--timeout={max(1, round(stall_s))}",
        *(_network(stall_s) if "://" in source else ()),
        *(("--dry-run",) if dry_run else ()),
        *((f"--bwlimit={bwlimit_kib}",) if bwlimit_kib else ()),
        *((f"--link-dest={link_dest.resolve()}",) if link_dest else ()),
        *(f"--include={pattern}" for pattern in only),
        *(f"--exclude={pattern}" for pattern in (("*",) if only else exclude)),
        f"{source.rstrip('/')}/",
        f"{target}/",
    ]


def _network(stall_s: float) -> tuple[str, ...]:
    """Options for a server. TCP_NODELAY: the handshake else waits 44 ms for each of its ACKs."""
    return (f"--contimeout={max(1, round(min(stall_s, CONNECT_S)))}", "--sockopts=TCP_NODELAY")


def fetch(
    source: str,
    target: Path,
    *,
    link_dest: Path | None = None,
    stall_s: float,
    timeout_s: float,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    dry_run: bool = False,
    bwlimit_kib: int = 0,
    only: Sequence[str] = (),
    exclude: Sequence[str] = NOT_THE_TREE,
) -> Result:
    """Make the folder `target` the same tree as `source` (rsync://host/module, or a folder).

    Files that are the same in `link_dest` become hard links to it. A `target` that a killed run
    left is carried on with: its whole files stay, the one that was cut is fetched anew (files of a
    tree are small). With `dry_run` nothing is written, and the result says what would be. With
    `only` (rsync's include patterns, folders too) nothing else is fetched. `bwlimit_kib`: KiB a
    second, 0 for no limit.

    Raises:
        UpstreamError: it failed, was silent for `stall_s`, or took longer than `timeout_s`.
        EnvironmentLacksError: there is no rsync.
    """
    started = time.monotonic()
    argv = build_argv(
        source,
        target,
        link_dest=link_dest,
        stall_s=stall_s,
        dry_run=dry_run,
        bwlimit_kib=bwlimit_kib,
        only=only,
        exclude=exclude,
    )
    out, err = Output(on_progress), Output(on_progress)
    code, overdue = _run(argv, out, err, stall_s=stall_s, timeout_s=timeout_s)
    seconds = time.monotonic() - started
    log.info("rsync from %s ended with %s after %.1f s", source, code, seconds)
    if overdue or code not in (RsyncExit.OK, RsyncExit.VANISHED):
        raise explain(source, target, code, overdue, "\n".join([*err.last][-TAIL_LINES:]))
    return Result(
        source=source,
        exit=RsyncExit(code),
        altered=out.altered,
        deleted=out.deleted,
        stats=parse_stats(out.last),
        seconds=seconds,
    )


def _run(
    argv: Sequence[str], out: Output, err: Output, *, stall_s: float, timeout_s: float
) -> tuple[int, str]:
    """Run rsync; give its exit code and, if it was ended here, why."""
    program = shutil.which("rsync")
    if program is None:
        raise missing_tool("rsync")
    with contextlib.ExitStack() as stack:
        pipes = [os.pipe(), os.pipe()]
        for reader, _ in pipes:
            stack.callback(os.close, reader)
        try:
            command = _start(program, argv, *(writer for _, writer in pipes))
        finally:
            for _, writer in pipes:
                os.close(writer)
        stack.callback(_signal_group, command.pid, signal.SIGKILL)
        readers = stack.enter_context(selectors.DefaultSelector())
        for (reader, _), output in zip(pipes, (out, err), strict=True):
            readers.register(reader, selectors.EVENT_READ, output)
        overdue = _watch(command.pid, readers, stall_s=stall_s, timeout_s=timeout_s)
        if overdue:
            _signal_group(command.pid, signal.SIGTERM)
            _watch(command.pid, readers, stall_s=GRACE_S, timeout_s=GRACE_S)
            _signal_group(command.pid, signal.SIGKILL)
        return _exit_code(command), overdue


def _start(program: str, argv: Sequence[str], out: int, err: int) -> Any:
    import sh  # here, and not for every command: it takes 30 ms, and asyncio

    return sh.Command(program)(
        *argv,
        _bg=True,
        _bg_exc=False,
        _return_cmd=True,
        _truncate_exc=False,
        _new_session=True,
        _preexec_fn=_end_with_parent,
        _env=environment(),
        _in="",
        _out=out,
        _err=err,
    )


def _end_with_parent() -> None:
    """Have the kernel end rsync when we are killed, or it would write on beside the next run.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    LIBC.prctl(1, signal.SIGTERM)


def _watch(
    leader: int, readers: selectors.BaseSelector, *, stall_s: float, timeout_s: float
) -> str:
    """Hand over output until its end. Give why the transfer has to be ended, or nothing."""
    deadline = time.monotonic() + timeout_s
    alive, read = time.monotonic(), _bytes_read(leader)
    while readers.get_map():
        heard = readers.select(min(POLL_S, stall_s / 4))
        for key, _ in heard:
            data = os.read(key.fd, 1 << 16)
            key.data.feed(data or b"\n")
            if not data:
                readers.unregister(key.fd)
        before, read, now = read, _bytes_read(leader), time.monotonic()
        if heard or read != before:
            alive = now
        if now > deadline:
            return f"it took longer than {timeout_s:.0f} s (timeout_s)"
        if now - alive > stall_s:
            return f"the server sent nothing for {stall_s:g} s (stall_s)"
    return ""


def _bytes_read(leader: int) -> int:
    """What rsync and its child have read so far, the network included; 0 if it cannot be told.

    rsync prints nothing while it compares a large tree that did not change, so silence alone
    would end a good transfer.
    """
    total = 0
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
        for pid in (str(leader), *children):
            total += int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return total


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _exit_code(command: Any) -> int:
    import sh

    try:
        command.wait()
    except sh.ErrorReturnCode as error:
        return int(error.exit_code)
    return 0
