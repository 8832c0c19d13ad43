"""The process that `headnode serve` keeps ready: it has all that a short command imports.

For each command line that is handed over (`headnode.handover`) it makes a copy of itself, fork(2),
which then is that command: with the files, the folder and the environment of whoever typed it, in a
session of its own. It kills a command whose owner is gone. When a file of the program has changed
it takes nothing more and ends: `headnode serve` starts another. Its standard input is its leash:
when that ends, it ends too, after the commands that it has.

It has no thread, no open file, no configuration and no terminal of its own, so that a copy of it is
as good as a program that was just started. Only whoever may do everything in its place may use it:
the same user, by SO_PEERCRED (unix(7)).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from binhost.entry import reduced
from config.load import from_values
from headnode import cli
from headnode.handover import (
    LONGEST,
    REFUSED,
    SHORT,
    TAKEN,
    address,
    at_start,
    seen,
    user_of,
)
from headnode.quick import UNREADABLE

# What those commands import only once they are at work.
LATER = ("portage.gpkg", "portage.versions", "rich.console", "rich.progress", "rich.table")
OURS = ("binhost", "blades", "config", "distcc", "headnode", "mirror", "schedules")
Code = dict[str, tuple[int, int, int]]  # inode, size in bytes, time of change in ns
BACKLOG = 16
FILES = 3
UNFLUSHED = 120  # as Python ends whose output could not be written (sys.exit)
SLACK_NS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, its standard input, output and errors, and the line to who typed it.

    A copy of this process keeps the line open, so that they go on waiting if the first is killed.
    """

    request: dict[str, Any]
    files: list[int]
    link: socket.socket

    def become(self) -> None:
        """Be this command, in a copy of the process on standby; ends the copy."""
        try:
            if not self._fits():
                os._exit(_refuse(self.link))
            self._settle()
            socket.send_fds(self.link, [TAKEN], [os.pidfd_open(os.getpid())])
        except OSError:  # whoever asked has gone, or sees what we do not: the whole program then
            os._exit(_refuse(self.link))
        sys.argv[:] = ["headnode", *self.request["arguments"]]
        gc.set_threshold(cli.MANY_OBJECTS)
        code = cli.run(self.request["arguments"])
        try:
            sys.stdout.flush()
        except OSError as error:
            code = UNFLUSHED
            if not isinstance(error, BrokenPipeError):
                cli.say_error(f"standard output: {error.strerror}")
        # As copies end in multiprocessing: to take apart all that is in memory, and so to copy it
        # first, takes longer than most commands.
        atexit._run_exitfuncs()
        os._exit(code)

    def _fits(self) -> bool:
        """Whether this process is where whoever typed it is, and may do what they may."""
        try:
            same = at_start(self.request["environment"]) == at_start(dict(os.environ))
            return same and seen(self.request["paths"]) == self.request["seen"]
        except UNREADABLE:
            return False

    def _settle(self) -> None:
        """Be at home where it was typed."""
        request = self.request
        os.setsid()
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        os.chdir(request["folder"])
        os.umask(request["umask"])
        for number, file in enumerate(self.files):
            os.dup2(file, number)
            os.close(file)
        _open_standard_files(*request["output"])


def _open_standard_files(encoding: str, errors: str, unbuffered: bool) -> None:
    """Open what the first three files are now, as Python does when it starts."""
    sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)
    sys.stdout = TextIOWrapper(
        open(1, "wb", 0 if unbuffered else -1, closefd=False),
        encoding=encoding,
        errors=errors,
        line_buffering=os.isatty(1),
        write_through=unbuffered,
    )
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A command at work: its process, a file that says when it ends, the line to its owner."""

    pid: int
    end: int
    link: socket.socket

    def kill(self) -> None:
        """End it: its owner is gone. It was not waited for, so that the number is still its own."""
        os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Say what came of it."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with suppress(OSError):  # nobody waits for it any more
            self.link.send(str(code if code >= 0 else 128 - code).encode())
        self.link.close()
        os.close(self.end)


class Standby:
    """Takes commands from `listener` until `leash` ends or a file of the program changes."""

    def __init__(self, listener: socket.socket, leash: int, code: Code) -> None:
        self._listener, self._leash = listener, leash
        self._code = code
        self._selector = selectors.DefaultSelector()
        self._on(listener, self._accept)
        self._on(leash, self._leave)

    def next_command(self) -> Command | None:
        """Take commands to their ends. Returns one in each copy of this process, None in itself."""
        while self._selector.get_map():
            # One at a time: what is done may take back what the next was about.
            ((key, _), *_) = self._selector.select()
            if (command := key.data()) is not None:
                assert isinstance(command, Command)  # noqa: S101 (what _on is given)
                return command
        return None

    def _on(self, file: Any, act: Callable[[], Command | None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, act)

    def _leave(self) -> None:
        """Take nothing more. Commands that are at work go on to their end."""
        self._selector.unregister(self._listener)
        self._selector.unregister(self._leash)
        self._listener.close()

    def _accept(self) -> None:
        if code_now() != self._code:
            self._leave()  # whoever is in the queue runs the whole program
            return
        link, _ = self._listener.accept()
        link.setblocking(False)
        if user_of(link) != os.geteuid():
            link.close()
            return
        self._on(link, partial(self._take, link))

    def _take(self, link: socket.socket) -> Command | None:
        self._selector.unregister(link)
        command = _received(link)
        try:
            pid = os.fork() if command else None
        except OSError:  # no memory, no processes left: perhaps there are for a smaller one
            pid = None
        if pid == 0:
            self._forget()
            return command
        for file in command.files if command else ():
            os.close(file)
        if pid is None:
            _refuse(link)
            link.close()
            return None
        running = Running(pid=pid, end=os.pidfd_open(pid), link=link)
        self._on(link, partial(self._lose, running))
        self._on(running.end, partial(self._finish, running))
        return None

    def _lose(self, running: Running) -> None:
        self._selector.unregister(running.link)
        running.kill()

    def _finish(self, running: Running) -> None:
        self._selector.unregister(running.end)
        with suppress(KeyError):
            self._selector.unregister(running.link)
        running.finish()

    def _forget(self) -> None:
        """Close in a copy what belongs to the process that it was made of."""
        for key in self._selector.get_map().values():
            os.close(key.fd)
        self._selector.close()


def _received(link: socket.socket) -> Command | None:
    """The command that came, if one did."""
    try:
        said, files, _, _ = socket.recv_fds(link, LONGEST, FILES)
    except OSError:
        return None
    try:
        return Command(request=json.loads(said), files=files, link=link)
    except ValueError:  # it came no further than to connect
        for file in files:
            os.close(file)
        return None


def _refuse(link: socket.socket) -> int:
    with suppress(OSError):
        link.send(REFUSED)
    return 0


def code_of(started_ns: int) -> Code | None:
    """The program's files as they were read, or None if one may be another than what was read.

    An upgrade may be at work while this process starts.
    """
    code = code_now()
    newest_ns = max(changed_ns for _, _, changed_ns in code.values())
    return code if newest_ns < started_ns - SLACK_NS else None


def started_ns() -> int:
    """When this process started (proc(5): starttime, in clock ticks since the machine started)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    ago_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time_ns() - int(ago_s * 1e9)


def code_now() -> Code:
    """How the files of the program are that are in memory, and the folder of its libraries."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]
    paths = [path for module in modules if (path := getattr(module, "__file__", None))]
    return {path: _look(path) for path in [*paths, sysconfig.get_path("purelib")]}


def _look(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_ctime_ns)


def listen(state: str) -> socket.socket:
    """Listen in a state folder, in place of whoever did before."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        here = Path(address(folder))
        beside = here.with_suffix(".new")
        beside.unlink(missing_ok=True)
        mask = os.umask(0o177)  # nobody else may connect
        listener.bind(str(beside))
        os.umask(mask)
        listener.listen(BACKLOG)
        beside.replace(here)
    finally:
        os.close(folder)
    return listener


def _get_ready() -> None:
    """Import what short commands do, and do what else only the first of them would wait for."""
    names = {cli.COMMANDS[command] for command in SHORT}
    for name in [*sorted(f"headnode.commands.{name}" for name in names), *LATER]:
        importlib.import_module(name)
    models = list[type[BaseModel]]([BaseModel])
    for model in models:
        models += model.__subclasses__()
        if model.__module__.partition(".")[0] in OURS:
            model.model_rebuild()
    # Portage's expressions for dependencies and those for our options are compiled when asked for.
    reduced(Path(), {"USE": "a", "RDEPEND": "a? ( >=b/c-1:0/1=[d?,-e] ) !f/g", "LICENSE": "GPL-2"})
    from_values({"classes": {"blade": {"rings": {"canary": "blade[01-02]"}}}})
    gc.collect()
    gc.freeze()  # what is there stays: a copy need not look at it, and write into it, again


def main() -> None:
    """Stand by for the state folder that is named."""
    _get_ready()
    code = code_of(started_ns())
    if code is None:
        sys.exit("headnode was changed just now: another process will stand by")
    leash = sys.stdin.fileno()
    if select.select([leash], [], [], 0)[0]:
        sys.exit("headnode serve ended while this process started: the next one has its own")
    command = Standby(listen(sys.argv[1]), leash, code).next_command()
    if command is not None:
        command.become()


if __name__ == "__main__":
    main()
