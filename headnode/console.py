"""What a person sees: tables, JSON, a line a step. Results go to stdout, the rest to stderr.

rich is imported when something is drawn with it: that takes as long as many a command.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task, TaskID

PLAIN_WIDTH = 200  # of a table that no terminal bounds


@functools.cache
def _console(name: str) -> Console:
    from rich.console import Console

    if name == "err":
        return Console(stderr=True, highlight=False, soft_wrap=True)
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def __getattr__(name: str) -> Console:
    """`out` and `err`: what to draw on."""
    if name in ("out", "err"):
        return _console(name)
    raise AttributeError(name)


def note(text: str) -> None:
    """Say how the work goes on."""
    _to_stderr(text, "dim")


def complain(text: str) -> None:
    """Say what went wrong."""
    _to_stderr(text, "red")


def _to_stderr(text: str, style: str) -> None:
    if sys.stderr.isatty():
        _console("err").print(text, style=style, markup=False)
    else:
        print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Say loudly what must not be missed."""
    _to_stderr(f"WARNING: {text}", "bold red")


def say(text: str) -> None:
    """Print a result, at once: somebody may wait for the line at the other end of a pipe."""
    print(text, flush=True)


def stand_out(text: str) -> None:
    """Print a result that wants to be read."""
    if sys.stdout.isatty():
        _console("out").print(text, style="bold", markup=False)
    else:
        say(text)


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
        if not sys.stderr.isatty():
            return
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total or None, unit=unit)
        self._bars.update(self._tasks[what], completed=done, total=total or None)


def _bars() -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Pace(ProgressColumn):
        """How far a task is, how fast, and how long it will take."""

        def render(self, task: Task) -> Text:
            return Text(pace(task.fields["unit"], task.completed, task.total, task.elapsed or 0.0))

    return Progress(
        TextColumn("{task.description}"), BarColumn(20), Pace(), console=_console("err")
    )


def pace(unit: str, done: float, total: float | None, seconds: float) -> str:
    """`done` of `total` (None: nobody knows) after `seconds`, the rate, and the time to go. Pure.

    `unit` is `B` for bytes, else a word in the plural; what is slow is counted by the minute.
    """
    rate = done / seconds if seconds > 0 else 0.0
    if unit == "B":
        far = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        fast = f"{rate / 1e6:.1f} MB/s"
    else:
        far = f"{done:.0f} of {total:.0f} {unit}" if total else f"{done:.0f} {unit}"
        fast = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
    if not rate or not total:
        return f"{far}, {fast}"
    left = max(0, round((total - done) / rate))
    return f"{far}, {fast}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} to go"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a row's cells are shown as text, a rich Text in its colour."""
    rows = [tuple(row) for row in rows]
    if not sys.stdout.isatty() and (lines := _plain_table(columns, rows)):
        print(*lines, sep="\n", flush=True)
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    _console("out").print(shown, soft_wrap=False)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table as rich draws it where there is no terminal; none if it has to fold."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    text = "".join(cell for row in cells for cell in row)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if not text.isascii() or not text.isprintable() or sum(widths) + 2 * len(widths) > PLAIN_WIDTH:
        return []
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]


def show_json(value: object) -> None:
    """Print `value` (records, dataclasses, plain data) as JSON."""
    print(json.dumps(_plain(value), indent=1))


def _plain(value: Any) -> Any:
    from pydantic import BaseModel

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
