"""Other machines that compile for the builder, as a build knows them.

Who they are and how they are asked is not the binhost's matter (package `distcc`; `schedules` puts
them together). They are asked when the first package is to be built, and only then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from binhost.records import Distributed
from headnode.node.running import Node

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """Help that is there: what emerge is started with, and what it came to when it is done."""

    variables: Mapping[str, str]
    prefix: tuple[str, ...]
    account: Callable[[], Distributed]

    def argv(self, command: list[str]) -> list[str]:
        """The command line that runs `command` with this help."""
        setting = [f"{name}={value}" for name, value in self.variables.items()]
        return ["env", *setting, *self.prefix, *command] if setting else command


class Helpers(Protocol):
    """Somebody who can be asked for help."""

    def join(self, node: Node, report: Report) -> AbstractContextManager[Help]:
        """Help the builder `node` for the block."""


class Helped:
    """The help of one build: asked for at the first use, over at the end of the block."""

    def __init__(self, helpers: Helpers | None, node: Node, report: Report) -> None:
        self._helpers, self._node, self._report = helpers, node, report
        self._stack = ExitStack()
        self._help: Help | None = None

    def __enter__(self) -> Helped:
        return self

    def __exit__(self, *raised: object) -> None:
        if done := self.distributed():
            self._report(done.summary())
        self._stack.close()

    def argv(self, command: list[str]) -> list[str]:
        """The command line that runs `command` with whatever help there is."""
        if self._helpers is None:
            return command
        if self._help is None:
            self._help = self._stack.enter_context(self._helpers.join(self._node, self._report))
        return self._help.argv(command)

    def distributed(self) -> Distributed | None:
        """What the help came to; None where none was asked for."""
        return self._help.account() if self._help else None
