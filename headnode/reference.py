"""The manual's page of commands, from the commands themselves: `python -m headnode.reference`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from headnode.cli import cli

INTRO = """\
# Commands

Made by `make docs` from the commands themselves. Results go to stdout, everything else to stderr.
Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partly failed (some blades).
"""


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command`, groups included, with its full name, in order."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in sorted(command.list_commands(context)):
            below = command.get_command(context, each)
            assert below is not None  # noqa: S101 (it is in the list)
            yield from commands(below, f"{name} {each}")


def _options(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and record[1]:
            yield f"- `{record[0]}`: {record[1]}"


def parts(command: click.Command) -> tuple[str, str]:
    """A command's help: what it does, and its example."""
    summary, _, example = inspect.cleandoc(command.help or "").rpartition("\n\n")
    return summary, example


def section(name: str, command: click.Command) -> str:
    """One command's part of the page."""
    summary, rest = parts(command)
    example = rest.removeprefix("Example: ").strip()
    usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name)))
    lines = [f"## {name}", "", f"`{name} {usage}`", "", summary]
    options = list(_options(command, name))
    lines += ["", *options] if options else []
    return "\n".join([*lines, "", "```", example, "```", ""])


def render() -> str:
    """The whole page."""
    sections = [section(name, command) for name, command in commands(cli, "headnode")]
    return INTRO + "\n" + "\n".join(sections)


if __name__ == "__main__":
    print(render(), end="")
