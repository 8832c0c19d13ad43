"""A short command is run by a process that has everything in memory, where `headnode serve` runs.

Python and all that a command imports take a third of a second to start, more than most commands
take to run. `headnode serve` keeps a process on standby that has started already
(`headnode.standby`): it makes a copy of itself for each command line that it is handed, with the
files, folder and environment of whoever typed it. It refuses whoever sees another machine than it
does (a lab, a container); then the whole program runs, as it does where nothing serves.

::

    <state>/standby.sock    where it listens, SOCK_SEQPACKET

What is said, a packet each: the command line, with the files that it reads and writes
(`request`); TAKEN, with the command's process, to which signals are passed on (pidfd_open(2)), or
REFUSED; at the end, the exit code.

To import this takes a hundredth of a second: pathlib, subprocess and the like stay out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

from headnode.quick import UNREADABLE, config_file, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Commands that neither take long nor ask anybody anything.
SHORT = ("binhost", "generations", "promote", "publish", "rollback", "security", "status")
ENDLESS = "--watch"  # but for this
SOCKET = "standby.sock"
TAKEN, REFUSED = b"taken", b"refused"
LONGEST = 1 << 18  # bytes of a request; an environment is seldom over 10,000
ANSWER_S = 2.0  # for it to be taken; after that, it is as if nothing served
LOST = 1  # what was handed over, and nobody can say what came of it
# What Python and Portage look at when they are imported: that cannot be another's.
READ_AT_START = ("PYTHON", "PORTAGE_", "LD_")
NAMESPACES = ("ipc", "net", "pid", "user", "uts")
CREDENTIALS = struct.Struct("3i")  # pid, user, group
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def request(arguments: list[str], config: str) -> dict[str, Any]:
    """A command line, and how the machine looks to whoever typed it."""
    paths = [os.getcwd(), os.path.abspath(config)]
    output = sys.stdout
    return {
        "arguments": arguments,
        "folder": paths[0],
        "umask": _umask(),
        "environment": dict(os.environ),
        "output": [output.encoding, output.errors, getattr(output, "write_through", False)],
        "paths": paths,
        "seen": seen(paths),
    }


def seen(paths: list[str]) -> dict[str, list[int]]:
    """Who we are, and where: groups, root folder, namespaces, and which files are at `paths`."""
    own = ["/", *(f"/proc/self/ns/{name}" for name in NAMESPACES)]
    files = {path: [(at := os.stat(path)).st_dev, at.st_ino] for path in [*own, *paths]}
    return {"groups": [os.getegid(), *sorted(os.getgroups())], **files}


def at_start(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment counts only while a program starts."""
    return {key: value for key, value in environment.items() if key.startswith(READ_AT_START)}


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def hand_over(arguments: list[str]) -> int | None:
    """Have a command run by the process on standby, and wait for its end; the exit code.

    None if there is no such process, or it did not take the command: then nothing was done.
    """
    config, rest = "", arguments
    if arguments[:1] == ["--config"]:
        config, rest = "".join(arguments[1:2]), arguments[2:]
    if not rest or rest[0] not in SHORT or ENDLESS in rest:
        return None
    if None in (sys.stdin, sys.stdout, sys.stderr):
        return None  # one is closed: its number would be our own socket's
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        # A signal that comes meanwhile is kept until it is known whose it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            link.settimeout(ANSWER_S)
            config = config or config_file()
            command = _offer(link, request(arguments, config), state_of(config))
            if command is not None:
                _forward_signals(command)
        except UNREADABLE:
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return None if command is None else _await_end(link)


def _offer(link: socket.socket, what: dict[str, Any], state: str) -> int | None:
    """The command's process (a pidfd), if it was taken."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY)
    try:
        link.connect(address(folder))
    finally:
        os.close(folder)
    if user_of(link) != os.geteuid():  # whose folder is this? Our files are none of theirs
        return None
    socket.send_fds(link, [json.dumps(what).encode()], [0, 1, 2])
    said, files, _, _ = socket.recv_fds(link, len(REFUSED), 1)
    return files[0] if said == TAKEN else None


def user_of(link: socket.socket) -> int:
    """The effective user at the other end (unix(7), SO_PEERCRED)."""
    said = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(said)
    return int(user)


def _forward_signals(command: int) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # it has ended
            signal.pidfd_send_signal(command, number)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, forward)


def _await_end(link: socket.socket) -> int:
    link.settimeout(None)
    with suppress(OSError):
        if code := link.recv(8):
            return int(code)
    print(
        "headnode: Nobody knows what came of it: the process that headnode serve had for it was "
        "killed. What was served still is; run the command again.",
        file=sys.stderr,
    )
    return LOST


def address(folder: int) -> str:
    """The socket's, in the state folder that is open as `folder`: a path may be over 107 bytes."""
    return f"/proc/self/fd/{folder}/{SOCKET}"
