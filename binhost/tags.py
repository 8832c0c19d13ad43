"""Tags: names for generations. A generation that has one is kept, and is found by it.

::

    tags.json     name -> number, beside generations/: a generation itself never changes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from binhost.records import Record, read, save
from headnode.errors import ConfigError, PublishError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class Tags(Record):
    """What the file says: the number of the generation of each name."""

    tags: dict[str, int]


def read_tags(folder: Path) -> dict[str, int]:
    """The tags of a class, `folder` being its folder in the binhost.

    Raises:
        PublishError: the file is damaged.
    """
    path = folder / "tags.json"
    return dict(read(path, Tags).tags) if path.exists() else {}


def write_tags(folder: Path, tags: Mapping[str, int]) -> None:
    """Keep `tags`, in one rename."""
    for litter in folder.glob(".tags.json.*"):  # of one that was killed
        litter.unlink()
    save(folder / "tags.json", Tags(tags=dict(sorted(tags.items()))))


def with_tag(tags: Mapping[str, int], name: str, number: int) -> dict[str, int]:
    """`tags` and the one of generation `number`. Pure.

    Raises:
        ConfigError: `name` could be taken for a number or an option.
        PublishError: another generation has that name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a tag.",
            remedy="It starts with a letter, so that it is no number, and has letters, digits, "
            "full stops, hyphens and underscores after that, 64 characters at most.",
        )
    if (other := tags.get(name, number)) != number:
        raise PublishError(
            f"The tag {name} is generation {other}'s.",
            remedy=f"Take another name, or free it: headnode generations tag --delete {name}.",
        )
    return {**tags, name: number}


def without_tag(tags: Mapping[str, int], name: str) -> dict[str, int]:
    """`tags` without the one of that name. Pure.

    Raises:
        PublishError: there is none.
    """
    if name not in tags:
        known = ", ".join(tags) or "none"
        raise PublishError(f"There is no tag {name}; there is {known}.")
    return {each: number for each, number in tags.items() if each != name}


def names_of(tags: Mapping[str, int], number: int) -> list[str]:
    """The tags of generation `number`. Pure."""
    return [name for name, each in tags.items() if each == number]
