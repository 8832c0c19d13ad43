"""What a person sees: tables, JSON, a line a step. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200  # of a table that no terminal bounds

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Say how the work goes on."""
    err.print(text, style="dim" if err.is_terminal else None, markup=False)


def warn(text: str) -> None:
    """Say loudly what must not be missed."""
    err.print(f"WARNING: {text}", style="bold red" if err.is_terminal else None, markup=False)


def say(text: str) -> None:
    """Print a result."""
    out.print(text, markup=False)


def stand_out(text: str) -> None:
    """Print a result that wants to be read."""
    out.print(text, style="bold" if out.is_terminal else None, markup=False)


class Watcher:
    """Shows how a step goes on: a bar with rate and time to go, or a line a step off a terminal."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        note(text)

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        """Move the bar of `what`; nothing where there is no terminal."""
        if not err.is_terminal:
            return
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what)
        self._bars.update(self._tasks[what], completed=done, total=total or None)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a row's cells are shown as text, a rich Text in its colour."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    out.print(shown, soft_wrap=False)


def show_json(value: object) -> None:
    """Print `value` (records, dataclasses, plain data) as JSON."""
    print(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case Enum():
            return value.value
        case datetime() | Path():
            return str(value)
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return value
