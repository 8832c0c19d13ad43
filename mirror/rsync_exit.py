"""What rsync's exit codes mean for a mirror, and the error that says so.

Source: rsync(1), "EXIT VALUES"; rsync's errcode.h.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from pathlib import Path

from headnode.errors import MirrorError


class Verdict(StrEnum):
    """What an exit code means for a mirror."""

    GOOD = "good"
    RETRY = "retry"  # again, or another upstream, may do
    PARTIAL = "partial"  # something is missing: never to be published
    FINAL = "final"  # our own doing: another upstream will not help


class RsyncExit(IntEnum):
    """rsync's exit codes."""

    OK = 0
    SYNTAX = 1
    PROTOCOL = 2
    FILE_SELECTION = 3
    UNSUPPORTED = 4
    START_CLIENT = 5
    DAEMON_LOG = 6
    SOCKET_IO = 10
    FILE_IO = 11
    STREAM = 12
    MESSAGE_IO = 13
    IPC = 14
    CRASHED = 15
    TERMINATED = 16
    SIGUSR1 = 19
    CANCELLED = 20
    WAIT_CHILD = 21
    MEMORY = 22
    PARTIAL = 23
    VANISHED = 24
    DELETE_LIMIT = 25
    TIMEOUT = 30
    CONNECT_TIMEOUT = 35

    @property
    def meaning(self) -> str:
        """What happened, in plain words."""
        return MEANINGS[self][0]

    @property
    def verdict(self) -> Verdict:
        """What that is for a mirror."""
        return MEANINGS[self][1]


MEANINGS = {
    RsyncExit.OK: ("done", Verdict.GOOD),
    RsyncExit.SYNTAX: ("rsync does not know one of our options", Verdict.FINAL),
    RsyncExit.PROTOCOL: ("the server speaks another protocol", Verdict.RETRY),
    RsyncExit.FILE_SELECTION: ("a source or target folder cannot be used", Verdict.FINAL),
    RsyncExit.UNSUPPORTED: ("the server cannot do what was asked", Verdict.RETRY),
    RsyncExit.START_CLIENT: ("the server refused, before the transfer", Verdict.RETRY),
    RsyncExit.DAEMON_LOG: ("the server cannot write its log", Verdict.RETRY),
    RsyncExit.SOCKET_IO: ("no connection to the server", Verdict.RETRY),
    RsyncExit.FILE_IO: ("a file could not be written or read", Verdict.FINAL),
    RsyncExit.STREAM: ("the connection broke", Verdict.RETRY),
    RsyncExit.MESSAGE_IO: ("rsync's own processes lost each other", Verdict.RETRY),
    RsyncExit.IPC: ("rsync's own processes lost each other", Verdict.RETRY),
    RsyncExit.CRASHED: ("one of rsync's processes crashed", Verdict.RETRY),
    RsyncExit.TERMINATED: ("one of rsync's processes was ended", Verdict.FINAL),
    RsyncExit.SIGUSR1: ("it was ended by SIGUSR1", Verdict.FINAL),
    RsyncExit.CANCELLED: ("it was cancelled", Verdict.FINAL),
    RsyncExit.WAIT_CHILD: ("rsync lost one of its processes", Verdict.RETRY),
    RsyncExit.MEMORY: ("there was not enough memory", Verdict.FINAL),
    RsyncExit.PARTIAL: ("some files could not be transferred", Verdict.PARTIAL),
    RsyncExit.VANISHED: ("some files vanished upstream meanwhile", Verdict.GOOD),
    RsyncExit.DELETE_LIMIT: ("more files are gone upstream than the limit allows", Verdict.FINAL),
    RsyncExit.TIMEOUT: ("the server went silent", Verdict.RETRY),
    RsyncExit.CONNECT_TIMEOUT: ("the server did not answer in time", Verdict.RETRY),
}


class UpstreamError(MirrorError):
    """A transfer failed: from which `upstream`, rsync's `code` (None: ended here), its `verdict`.

    `why` is the reason on one line without the upstream's name, `tail` rsync's last lines.
    """

    def __init__(
        self, upstream: str, why: str, *, code: int | None, verdict: Verdict, tail: str, remedy: str
    ) -> None:
        said = "".join(f"\n  {line}" for line in tail.splitlines())
        super().__init__(f"Syncing from {upstream} failed: {why}.{said}\n", remedy=remedy)
        self.upstream = upstream
        self.why = why
        self.code = code
        self.verdict = verdict
        self.tail = tail

    @property
    def lasting(self) -> bool:
        """Whether the same upstream would say the same a minute later."""
        return UNKNOWN_MODULE in self.tail or self.code in LASTING


LASTING = frozenset({RsyncExit.PROTOCOL, RsyncExit.UNSUPPORTED, RsyncExit.DAEMON_LOG})
UNKNOWN_MODULE = "Unknown module"
REMEDIES = {
    Verdict.RETRY: "Try again later, or name another upstream in cluster.toml ([mirror.repos]).",
    Verdict.PARTIAL: "Try again later, or name another upstream in cluster.toml ([mirror.repos]).",
    Verdict.FINAL: "Look at rsync's own words above, put that right, then run the sync again.",
}
NO_SPACE = ("No space left on device", "Disk quota exceeded")


def explain(source: str, target: Path, code: int, overdue: str, tail: str) -> UpstreamError:
    """Say what a failed transfer means: by `overdue` (we ended it), stderr's `tail`, `code`."""
    known = RsyncExit(code) if code in MEANINGS else None
    verdict = known.verdict if known and not overdue else Verdict.RETRY
    remedy = REMEDIES.get(verdict, "")
    why = overdue or _meaning(known, code, tail)
    if any(words in tail for words in NO_SPACE):
        verdict, why = Verdict.FINAL, f"the disk of {target} is full"
        remedy = "Free some space, then run the sync again: it carries on where it stopped."
    return UpstreamError(
        source, why, code=None if overdue else code, verdict=verdict, tail=tail, remedy=remedy
    )


def _meaning(known: RsyncExit | None, code: int, tail: str) -> str:
    if known is RsyncExit.START_CLIENT and "max connections" in tail:
        return "the server has as many connections as it allows (code 5)"
    if known is RsyncExit.START_CLIENT and UNKNOWN_MODULE in tail:
        return "the server has no such module (code 5)"
    if known:
        return f"{known.meaning} (code {code})"
    return f"rsync ended with signal {-code}" if code < 0 else f"rsync ended with code {code}"
