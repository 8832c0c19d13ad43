"""Every option of cluster.toml: meaning, unit, default, and why that default.

Unknown keys are refused; flags that would tie binaries to the headnode's own CPU are refused; a
blade in two rings is refused. The manual's option page and the file that `headnode init` writes
are made from this module.
"""

from __future__ import annotations

from typing import Self

from ClusterShell.NodeSet import NodeSet
from pydantic import Field, field_validator, model_validator

from config.model.base import Section, table
from config.model.build import Build, Class, TreeKind
from config.model.fleet import Distcc, DistccMode, OnStop, Pull, Rollout, TransportKind
from config.model.headnode import Serve, State
from config.model.kernel import Kernel, Loader, Openmosix
from config.model.mirror import Distfiles, Mirror, Repo, Scope
from config.model.night import JOBS, Ledger, Notices, Schedule
from config.model.publish import Binhost, Gate, Publish, Signing, SigningMode
from config.values import Name, misplaced

__all__ = [
    "JOBS",
    "Binhost",
    "Build",
    "Class",
    "Cluster",
    "Distcc",
    "DistccMode",
    "Distfiles",
    "Gate",
    "Kernel",
    "Ledger",
    "Loader",
    "Mirror",
    "Notices",
    "OnStop",
    "Openmosix",
    "Publish",
    "Pull",
    "Repo",
    "Rollout",
    "Schedule",
    "Scope",
    "Section",
    "Serve",
    "Signing",
    "SigningMode",
    "State",
    "TransportKind",
    "TreeKind",
]


class Cluster(Section):
    """All of cluster.toml."""

    state: State = table()
    serve: Serve = table()
    mirror: Mirror = table()
    build: Build = table()
    classes: dict[Name, Class] = Field(
        default_factory=lambda: {"blade": Class()},
        description="Classes of blades, by name. The usual cluster has one, `blade`.",
    )
    signing: Signing = table()
    binhost: Binhost = table()
    publish: Publish = table()
    distcc: Distcc = table()
    kernel: Kernel = table()
    openmosix: Openmosix = table()
    pull: Pull = table()
    rollout: Rollout = table()
    schedule: Schedule = table()
    notices: Notices = table()
    ledger: Ledger = table()

    @field_validator("classes")
    @classmethod
    def _blades_are_in_one_class(cls, classes: dict[str, Class]) -> dict[str, Class]:
        seen: dict[str, str] = {}
        if not classes:
            raise ValueError("at least one class is needed")
        for name, each in classes.items():
            for ring, nodes in each.rings.items():
                for node in NodeSet(nodes):
                    if (other := seen.setdefault(node, name)) != name:
                        text = f"{node} is in two classes, {other} and {name}"
                        raise misplaced(text, name, "rings", ring)
        return classes

    @model_validator(mode="after")
    def _helpers_are_blades(self) -> Self:
        helpers = NodeSet(self.distcc.helpers or "")
        rings = (ring for cls in self.classes.values() for ring in cls.rings.values())
        for each in rings:
            helpers -= NodeSet(each)
        if helpers:
            text = f"{helpers} is in no ring of any class, so nothing sets up distccd there"
            raise misplaced(text, "distcc", "helpers")
        return self

    @model_validator(mode="after")
    def _gateways_are_no_blades(self) -> Self:
        gateways = NodeSet(self.rollout.gateways or "")
        for cls in self.classes.values():
            for nodes in cls.rings.values():
                if both := gateways & NodeSet(nodes):
                    text = f"{both} is a blade: its pull would replace what other pulls go through"
                    raise misplaced(text, "rollout", "gateways")
        return self

    def place_of(self, blade: str) -> tuple[str, str] | None:
        """The class and the ring that `blade` is in, or None if it is in none."""
        for name, cls in self.classes.items():
            for ring, nodes in cls.rings.items():
                if blade in NodeSet(nodes):
                    return name, ring
        return None
