"""What every table of cluster.toml is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of cluster.toml: read once, never changed, no key that is not an option."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
