"""The machines that help and the ones that pull."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from config.model.base import Section
from config.values import Count, Nodes, Seconds, misplaced


class TransportKind(StrEnum):
    """How the headnode starts a command on a blade."""

    SSH = "ssh"
    EXEC = "exec"


class Rollout(Section):
    """How blades are brought to a new generation."""

    transport: TransportKind = Field(
        TransportKind.SSH,
        description="`ssh`: OpenSSH, with the user's own configuration. `exec`: a command of "
        "yours, for simulated blades or another way in.",
    )
    exec_command: str = Field(
        "",
        description="For `exec`: the command that runs its last argument as a shell line on a "
        "blade; %h is the blade's name. It exits with 255, as ssh does, where the blade cannot be "
        "reached. Unused with ssh.",
    )
    fanout: Count = Field(
        16,
        ge=1,
        description="Blades that pull at once. More finish sooner, until the headnode's network "
        "is the limit.",
    )
    timeout_s: Seconds = Field(
        3600.0,
        description="Seconds after which a blade that has not finished its pull counts as failed.",
    )

    @model_validator(mode="after")
    def _exec_needs_a_command(self) -> Self:
        if self.transport is TransportKind.EXEC and "%h" not in self.exec_command:
            raise misplaced("transport `exec` needs an exec_command with %h in it", "exec_command")
        return self


class Distcc(Section):
    """Who helps to compile."""

    helpers: Nodes | None = Field(
        None,
        examples=["blade[01-58]"],
        description="Node set of the machines that run distccd. Not set: only the headnode.",
    )
    slots: Count = Field(4, ge=1, description="Compile jobs that each helper takes at once.")
