"""Who watches a step at work: told in words, and how far it is where that is known."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Somebody who is told how the work goes on."""

    def say(self, text: str) -> None:
        """A step began, or something is worth knowing."""

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        """`what` is at `done` of `total`; `unit` is `B` for bytes, else a word in the plural."""


class Silent:
    """An observer that looks away."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        """Show nothing."""
