"""The machines that help and the ones that pull."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from config.model.base import Section
from config.values import Count, Network, Nodes, Port, Seconds, User, misplaced


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


class DistccMode(StrEnum):
    """Where sources are preprocessed."""

    PLAIN = "plain"
    PUMP = "pump"


class Distcc(Section):
    """Who helps to compile, and how. Helpers are blades, and are given the settings of distccd."""

    helpers: Nodes | None = Field(
        None,
        examples=["blade[01-58]"],
        description="Node set of the blades that run distccd. Each is asked before a build, and "
        "left out of it where it does not answer or has another compiler. Not set: the headnode "
        "compiles alone.",
    )
    networks: tuple[Network, ...] = Field(
        (),
        examples=[["10.0.1.0/24"]],
        description="Networks that a helper's distccd takes jobs from: the one that the headnode "
        "reaches the blades through, and no other. Needed where there are helpers, since distccd "
        "without any serves every private network.",
    )
    slots: Count = Field(
        4,
        ge=1,
        description="Compile jobs that the headnode gives to each helper at once: the cores that a "
        "blade can spare.",
    )
    jobs: Count = Field(
        0,
        ge=0,
        description="Compile jobs that a helper takes at once, from whomever; further ones wait. "
        "0: as many as `slots`.",
    )
    local_slots: Count = Field(
        0,
        ge=0,
        description="Compile jobs that the headnode takes itself beside its helpers. 0: none, "
        "since it preprocesses for all of them, links and serves. Worth setting where it has more "
        "cores than all helpers have slots.",
    )
    feed: Count = Field(
        32,
        ge=0,
        description="Jobs under way at once for each core of the headnode, whatever the slots: "
        "the headnode preprocesses and sends each, and more than it can feed only wait in memory. "
        "A core keeps some 20 compilers of C busy, and 40 of C++. 0: no limit but the slots.",
    )
    mode: DistccMode = Field(
        DistccMode.PLAIN,
        description="`plain`: the headnode preprocesses. `pump`: helpers do; it is tried before "
        "each build, and where it does not work the build says so and goes on with `plain`. "
        "distcc 3.4 of Gentoo has no pump any more, and that of Debian 12 is broken.",
    )
    port: Port = Field(3632, description="TCP port of distccd on the helpers.")
    user: User = Field(
        "distcc",
        description="User that distccd runs as on the helpers, not root. The default is the one "
        "that Gentoo's sys-devel/distcc brings.",
    )
    nice: Count = Field(
        15,
        ge=0,
        le=19,
        description="Niceness of compile jobs on a helper: what the blades are there for comes "
        "first. 0: jobs count as much as anything else there.",
    )
    probe_timeout_s: Seconds = Field(
        10.0,
        description="Seconds in which a helper has to compile the probe before a build, which "
        "takes a tenth of one; a slower one is left out. More than that and it holds up links.",
    )
    job_timeout_s: Seconds = Field(
        300.0,
        description="Seconds that a helper may take for one job; then the helper ends it, and "
        "the headnode compiles the file itself. The default is distcc's own.",
    )

    @model_validator(mode="after")
    def _helpers_need_networks(self) -> Self:
        if self.helpers is not None and not self.networks:
            raise misplaced(
                "helpers need `networks`, the networks that their distccd takes jobs from, as in "
                'networks = ["10.0.1.0/24"]',
                "helpers",
            )
        return self
