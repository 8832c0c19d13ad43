"""The helpers of cluster.toml as DISTCC_HOSTS. Pure. Source: distcc(1), HOST SPECIFICATIONS."""

from __future__ import annotations

from ClusterShell.NodeSet import NodeSet

from config.model import Distcc


def hosts_line(options: Distcc) -> str:
    """`host/slots` for each helper, in the order of the node set; empty if there is none."""
    if options.helpers is None:
        return ""
    return " ".join(f"{host}/{options.slots}" for host in NodeSet(options.helpers))
