"""The machines that help and the ones that pull."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from config.model.base import Section
from config.values import (
    Count,
    Line,
    Network,
    Nodes,
    Port,
    Seconds,
    Seconds0,
    Share,
    TimeOfDay,
    User,
    Wave,
    misplaced,
)


class TransportKind(StrEnum):
    """How the headnode starts a command on a blade."""

    SSH = "ssh"
    EXEC = "exec"


class OnStop(StrEnum):
    """What a rollout does with its ring when too many blades have failed."""

    HALT = "halt"
    ROLLBACK = "rollback"


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
    ssh_options: Line = Field(
        "",
        examples=["-p 2222"],
        description="For `ssh`: further options of ssh(1), separated by spaces. The key and the "
        "host keys of `headnode blades enrol` are used without being named here. With `gateways`, "
        "it is they that use these.",
    )
    gateways: Nodes | None = Field(
        None,
        examples=["gate[1-4]"],
        description="For `ssh`: node set of the machines that reach the blades, each of which "
        "reaches all of them, by ClusterShell's tree: the headnode has one connection to each. "
        "For thousands of blades, or a network that the headnode is not in. None is a blade: a "
        "pull would replace what the others' pulls go through. `headnode blades enrol` sets them "
        "up. Not set: the headnode reaches the blades itself.",
    )
    gateway_options: Line = Field(
        "",
        examples=["-l headnode"],
        description="For `gateways`: options of ssh(1) by which the headnode reaches them, "
        "separated by spaces.",
    )
    gateway_python: Line = Field(
        "python3",
        examples=["/opt/headnode/bin/python"],
        description="For `gateways`: the Python there that has ClusterShell "
        "(dev-python/clustershell), best in the headnode's version.",
    )
    fanout: Count = Field(
        16,
        ge=1,
        description="Blades that pull at once, all gateways together. More finish sooner, until "
        "the headnode's network is the limit.",
    )
    timeout_s: Seconds = Field(
        3600.0,
        description="Seconds after which a blade that has not finished its pull counts as failed.",
    )
    waves: tuple[Wave, ...] = Field(
        ("2", "10%", "50%", "100%"),
        description="How many blades of a ring have been tried when each wave is done: numbers, or "
        "shares of the ring. What is left after the last one is a wave of its own. The first is "
        "small because it finds most faults; each next one is looked at before more follow. "
        "Empty: the whole ring at once.",
    )
    max_failed: Share = Field(
        "5%",
        description="Blades of a ring that may fail, a number or a share of the ring (rounded "
        "down): one more stops the rollout. A ring of fewer than 20 blades thus stops at the "
        "first. Blades that were off, drained or busy do not count. 100%: never stop.",
    )
    on_stop: OnStop = Field(
        OnStop.ROLLBACK,
        description="What happens to a ring whose rollout was stopped. `rollback`: it gets the "
        "generation that it had before, and the blades that were tried go back to it. `halt`: "
        "nothing, until somebody has looked.",
    )
    promote: bool = Field(
        True,
        strict=True,
        description="Whether a ring that came through passes its generation on to the next ring "
        "of the class, in the same `rollout run`. `false`: `headnode promote` does that, by hand.",
    )
    settle_s: Seconds0 = Field(
        10.0,
        description="Seconds between a wave's last pull and the look at its blades' health: "
        "services that fall over do so within seconds. 0: look at once.",
    )
    health_timeout_s: Seconds = Field(
        60.0, description="Seconds that a blade may take to answer whether it is well."
    )
    drain_command: Line = Field(
        "",
        examples=["scontrol update nodename=$HEADNODE_NODES state=drain reason=reboot"],
        description="Shell command, run on the headnode before `headnode rollout reboot` restarts "
        "blades: a scheduler starts no new jobs there. HEADNODE_NODES has them, as in "
        "blade[01-04]. Empty: none.",
    )
    undrain_command: Line = Field(
        "",
        examples=["scontrol update nodename=$HEADNODE_NODES state=resume"],
        description="Shell command that takes drain_command back, when those blades are well "
        "again. Empty: none.",
    )
    drain_s: Seconds0 = Field(
        3600.0,
        description="Seconds that `headnode rollout reboot` waits for a drained blade to get free "
        "([pull] defer_command, defer_users, defer_load): a job's length. One that is still busy "
        "is left as it is. 0: it is asked once.",
    )
    reboot_s: Seconds = Field(
        900.0,
        description="Seconds within which a blade has to answer again after it was restarted: "
        "large machines test their memory for ten minutes.",
    )

    @model_validator(mode="after")
    def _exec_needs_a_command(self) -> Self:
        if self.transport is TransportKind.EXEC and "%h" not in self.exec_command:
            raise misplaced("transport `exec` needs an exec_command with %h in it", "exec_command")
        return self

    @model_validator(mode="after")
    def _gateways_go_by_ssh(self) -> Self:
        if self.transport is TransportKind.EXEC and self.gateways:
            text = "gateways are for transport `ssh`: an exec_command finds its own way"
            raise misplaced(text, "gateways")
        return self


class Pull(Section):
    """What a blade looks at before, during and after a pull. Blades get it with a deployment."""

    own_at: TimeOfDay = Field(
        "",
        examples=["02:30"],
        description="Time of day, by the blade's own clock and zone, from which each blade pulls "
        "by itself every night, and reports that; a blade that was off then does so when it is on "
        "again. For it `headnode blades enrol` brings a timer (systemd) and a line for cron. "
        "Rings still move by `publish`, `promote` or a rollout. Empty: blades pull only when the "
        "headnode starts it.",
    )
    own_splay_s: Seconds0 = Field(
        3600.0,
        description="Seconds over which the blades' own pulls are spread; each has a moment of its "
        "own, by its name. 0: all at once.",
    )
    max_clock_skew_s: Seconds0 = Field(
        300.0,
        description="Seconds that a blade's clock may differ from the headnode's: with a wrong one "
        "it cannot tell whether a deployment has expired, and files get dates that confuse make "
        "and Kerberos. 0: the clock is not looked at.",
    )
    reserve_mib: Count = Field(
        512,
        ge=0,
        description="Free space in MiB, beside what the new packages take, without which a pull "
        "does not begin. A disk that fills up in the middle of a merge leaves half a package. "
        "0: only what the packages take.",
    )
    emerge_timeout_s: Seconds = Field(
        3000.0,
        description="Seconds that one emerge of a pull may take before it is ended. Less than "
        "[rollout] timeout_s, so that the blade itself can say what hung.",
    )
    defer_load: Seconds0 = Field(
        0.0,
        description="A pull is put off while the load of the last five minutes, divided by the "
        "blade's cores, is above this. 0: never for that; computing is what blades do.",
    )
    defer_users: bool = Field(
        False, strict=True, description="Whether a pull is put off while somebody is logged in."
    )
    defer_command: Line = Field(
        "",
        examples=["squeue --noheader --nodelist=$(hostname --short) | grep --quiet ."],
        description="A shell command that says whether the blade is busy: while it succeeds, a "
        "pull is put off. Empty: there is none.",
    )
    defer_timeout_s: Seconds = Field(
        20.0,
        description="Seconds that defer_command may take; after that the blade counts as busy.",
    )
    checks: tuple[Line, ...] = Field(
        (),
        examples=[["mountpoint --quiet /home", "sinfo --version"]],
        description="Shell commands that must succeed on the blade after each pull that changed "
        "anything; else the pull counts as failed.",
    )
    health: tuple[Line, ...] = Field(
        (),
        examples=[["systemctl is-active slurmd"]],
        description="Shell commands that must succeed when the blade has settled ([rollout] "
        "settle_s): else it counts as failed, and the rollout may stop.",
    )
    check_timeout_s: Seconds = Field(
        30.0, description="Seconds that each of `checks` and `health` may take."
    )
    restart: tuple[Line, ...] = Field(
        (),
        examples=[["sshd", "slurmd"]],
        description="Services that are restarted after a pull when they still map libraries or "
        "programs that the pull replaced. Others are only reported.",
    )
    confirm_s: Seconds0 = Field(
        0.0,
        description="Seconds within which the headnode has to confirm a pull that it started; a "
        "blade that nobody reached goes back to what it had by itself, from the packages that it "
        "still has. 0: no blade goes back by itself. At least [rollout] settle_s and the time "
        "that a wave takes: 1800 is a good value.",
    )
    back_command: Line = Field(
        "",
        examples=["rc-service net.eth0 restart"],
        description="A shell command that is run after the blade went back by itself, such as a "
        "restart of the network. Empty: none.",
    )
    reboot_command: Line = Field(
        "reboot",
        examples=["systemctl reboot"],
        description="Shell command by which `headnode rollout reboot` has a blade restart itself.",
    )


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
