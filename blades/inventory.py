"""Which blades there are: the node sets of cluster.toml, taken apart. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ClusterShell.NodeSet import NodeSet, NodeSetException

from config.model import Cluster
from headnode.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Blade:
    """A blade, and where it belongs."""

    name: str
    class_name: str
    ring: str


def all_blades(cluster: Cluster) -> list[Blade]:
    """Every blade, class by class, in the order in which rings are rolled out."""
    return [
        Blade(name=str(name), class_name=class_name, ring=ring)
        for class_name, cls in cluster.classes.items()
        for ring, nodes in cls.rings.items()
        for name in NodeSet(nodes)
    ]


def all_gateways(cluster: Cluster) -> list[str]:
    """The machines that blades are reached through; empty where the headnode does that itself."""
    return [str(name) for name in NodeSet(cluster.rollout.gateways or "")]


def select(cluster: Cluster, nodes: str | None) -> list[Blade]:
    """The blades of a node set (None: all).

    Raises:
        ConfigError: it is no node set, is empty, or names one that is in no ring.
    """
    blades = all_blades(cluster)
    if nodes is None:
        return blades
    try:
        wanted = NodeSet(nodes)
    except NodeSetException as error:
        raise ConfigError(
            f"{nodes!r} is not a node set: {error}.", remedy="Write it as in blade[01-04,07]."
        ) from error
    if not wanted:
        raise ConfigError(f"{nodes!r} names no blade.", remedy=f"The blades are {fold(blades)}.")
    unknown = wanted - NodeSet.fromlist([blade.name for blade in blades])
    if unknown:
        raise ConfigError(
            f"{unknown} is in no ring of cluster.toml.",
            remedy=f"The blades are {fold(blades)}.",
        )
    return [blade for blade in blades if blade.name in wanted]


def fold(blades: list[Blade]) -> str:
    """The names of blades as one node set, as in `blade[01-58]`."""
    return str(NodeSet.fromlist([blade.name for blade in blades]))
