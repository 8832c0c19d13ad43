"""openMosix's view of the cluster: /etc/openmosix.map. Pure.

A line is a node's number, its address, and how many nodes follow each other from there, with tabs
between; the same file on every node, and no comments. A node number is part of each process's
identity when it migrates, so numbers follow the order in cluster.toml and the node sets' own.

Source: the openMosix HOWTO; the map of Gentoo's sys-cluster/openmosix-user-0.3.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from ClusterShell.NodeSet import NodeSet

from headnode.errors import ConfigError

HIGHEST = 65535
OPTION = "openmosix.addresses"


def openmosix_map(addresses: Mapping[str, str]) -> str:
    """The map of the node sets in `addresses`, each with its first blade's address.

    Sets whose addresses follow each other share a line.

    Raises:
        ConfigError: two blades have one address or one blade two, or there are too many.
    """
    lines: list[tuple[int, IPv4Address, int]] = []
    number = 1
    for first, count in _spans(addresses):
        if lines and lines[-1][1] + lines[-1][2] == first:
            start, address, before = lines.pop()
            lines.append((start, address, before + count))
        else:
            lines.append((number, first, count))
        number += count
    if number - 1 > HIGHEST:
        raise ConfigError(f"{OPTION}: {number - 1} nodes, and openMosix counts to {HIGHEST}.")
    return "".join(f"{start}\t{address}\t{count}\n" for start, address, count in lines)


def _spans(addresses: Mapping[str, str]) -> list[tuple[IPv4Address, int]]:
    found: list[tuple[IPv4Address, int]] = []
    seen = NodeSet()
    for nodes, text in addresses.items():
        names, first = NodeSet(nodes), IPv4Address(text)
        if twice := names & seen:
            raise ConfigError(f"{OPTION}: {twice} stands there twice.")
        seen |= names
        _check_apart(nodes, first, len(names), found)
        found.append((first, len(names)))
    return found


def _check_apart(
    nodes: str, first: IPv4Address, count: int, others: list[tuple[IPv4Address, int]]
) -> None:
    try:
        last = first + (count - 1)
    except ValueError as error:
        raise ConfigError(f"{OPTION}: {nodes} from {first} leaves no addresses.") from error
    for start, length in others:
        if first < start + length and start <= last:
            raise ConfigError(
                f"{OPTION}: {nodes} from {first} to {last} shares addresses with "
                f"{start} to {start + (length - 1)}.",
                remedy="Each blade has an address of its own.",
            )
