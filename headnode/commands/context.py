"""What every command starts from: the configuration, and options that several share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from config.load import find, load
from headnode.console import note
from headnode.errors import ConfigError, ExitCode
from mirror.status import warnings
from schedules.site import Site

Command = TypeVar("Command", bound=Callable[..., Any])


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was said before the command's name.

    `clock` is what the schedule goes by, `program` what runs another headnode that goes by it, too.
    """

    config_path: Path | None = None
    clock: Callable[[], datetime] = now
    program: tuple[str, ...] = (sys.executable, "-m", "headnode")

    def site(self) -> Site:
        """The configured cluster.

        Raises:
            ConfigError: there is no configuration, or it is wrong.
        """
        return Site(cluster=load(self.path))

    @property
    def path(self) -> Path:
        """The configuration's file."""
        return find(self.config_path)


def json_option(command: Command) -> Command:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        command
    )


nodes_option = click.option(
    "--nodes", help="Node set, as in blade[01-04,07]  [default: all blades]"
)


def exit_code_of(good: list[bool]) -> ExitCode:
    """0 if all of many are good, 3 if some are, 1 if none is. Pure."""
    if all(good):
        return ExitCode.OK
    return ExitCode.PARTLY if any(good) else ExitCode.FAILED


def class_option(command: Command) -> Command:
    """Give a command `--class`."""
    text = "Class of blades  [default: the only one]"
    return click.option("--class", "class_name", help=text)(command)


def chosen_class(site: Site, name: str | None) -> str:
    """The class that was named, or the only one there is.

    Raises:
        ConfigError: there are several and none was named, or none of that name.
    """
    if name is not None:
        site.klass(name)
        return name
    names = list(site.cluster.classes)
    if len(names) > 1:
        raise ConfigError(
            f"There are several classes: {', '.join(names)}.", remedy="Name one with --class."
        )
    return names[0]


def warn_if_stale(site: Site) -> None:
    """Say on stderr which trees are stale: at the end of every command that uses them."""
    mirror = site.cluster.mirror
    for warning in warnings(site.state, mirror.repos, mirror.stale_h, now()):
        note(f"warning: {warning}")


def number_of(site: Site, class_name: str, word: str | None) -> int | None:
    """The number of the generation that a word, its number or a tag, means; None for None.

    Raises:
        PublishError: there is none (any more).
    """
    return None if word is None else site.binhost(class_name).generations.find(word).number
