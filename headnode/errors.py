"""Every error that headnode raises on purpose, and the exit code it becomes.

::

    HeadnodeError                exit 1
    ├── ConfigError              exit 2   cluster.toml, or a command that it makes impossible
    ├── EnvironmentLacksError    exit 2   the machine lacks a tool, a right, or a kernel feature
    ├── BusyError                exit 1   somebody else holds the lock
    ├── CommandError             exit 1   a tool ran and failed
    ├── NodeError                exit 1   a builder or lab node did not come up
    ├── MirrorError              exit 1   the upstream, the tree or a distfile
    │   ├── UpstreamError                 mirror.rsync: one upstream, with its exit code
    │   ├── TreeError                     mirror.guard: an upstream's tree is not to be served
    │   └── DistfilesError                mirror.distfiles: with what was fetched all the same
    ├── BuildError               exit 1   a package did not build
    ├── PublishError             exit 1   a generation or a deployment could not be made
    │   └── GateError                     binhost.gates: with what every gate said
    ├── RolloutError             exit 1   a rollout could not be started, or was stopped
    └── LedgerError              exit 1   the database of runs and blades cannot be used

An error says what failed, where, what was expected and found, and ends in what to do (`remedy`).
Only the command line's `main` turns errors into exit codes. A blade that failed is data in a
report, not an exception (exit 3 when some of several failed).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What a headnode command can end with (contract)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTLY = 3


class HeadnodeError(Exception):
    """Something failed: `what` happened, and the `remedy`, each in whole sentences."""

    exit_code = ExitCode.FAILED
    quotes = False  # whether `what` may quote several lines: the remedy then has one of its own

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        if not self.remedy:
            return self.what
        between = "\n" if self.quotes and "\n" in self.what else " "
        return f"{self.what}{between}{self.remedy}"


class ConfigError(HeadnodeError):
    """cluster.toml, or an argument, asks for something that cannot be."""

    exit_code = ExitCode.USAGE

    def __init__(
        self, what: str, *, path: Path | None = None, line: int | None = None, remedy: str = ""
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.path = path
        self.line = line

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}: " if self.line else f"{self.path}: " if self.path else ""
        return place + super().__str__()


class EnvironmentLacksError(HeadnodeError):
    """The machine lacks something; `missing` names each thing with how to get it."""

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, missing: Sequence[str], *, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.missing = tuple(missing)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  - {item}" for item in self.missing)])


class BusyError(HeadnodeError):
    """Another process holds the lock `path`; `holder` says who, if it is known."""

    def __init__(self, path: Path, holder: str) -> None:
        who = holder or "another process"
        super().__init__(f"{who} holds {path}.", remedy="Wait for it to end, then run this again.")
        self.path = path
        self.holder = holder


class CommandError(HeadnodeError):
    """A tool failed. `argv`, `code` (negative: a signal) and `tail`, the last lines it printed."""

    quotes = True

    def __init__(self, argv: Sequence[str], code: int, tail: str, *, remedy: str = "") -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        said = f"\n{tail}" if tail else ""
        super().__init__(f"{' '.join(argv)} {how}.{said}", remedy=remedy)
        self.argv = tuple(argv)
        self.code = code
        self.tail = tail


class NodeError(HeadnodeError):
    """A node (builder or simulated blade) did not come up, or is not there."""


class MirrorError(HeadnodeError):
    """The upstream, the tree or a distfile is not as it must be; the old state is still served."""


class BuildError(HeadnodeError):
    """A package did not build, or the sets cannot be resolved."""

    quotes = True


class PublishError(HeadnodeError):
    """A generation or a deployment could not be made; the rings are as they were."""


class RolloutError(HeadnodeError):
    """A rollout could not be started, or was stopped."""

    quotes = True


class LedgerError(HeadnodeError):
    """The ledger cannot be read or written; `damaged`: waiting does not help."""

    def __init__(self, what: str, *, remedy: str = "", damaged: bool = False) -> None:
        super().__init__(what, remedy=remedy)
        self.damaged = damaged
