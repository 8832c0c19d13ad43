"""What every table of cluster.toml is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of cluster.toml: read once, never changed, no key that is not an option."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def table() -> Any:
    """What a section is whose table is not in the file: the same as of an empty one.

    A `Section()` as the default would have pydantic build that section's validators by themselves,
    beside those that are part of the whole file's: half of what a command takes to start.
    """
    return Field({}, validate_default=True)
