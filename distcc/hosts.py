"""The helpers as DISTCC_HOSTS. Pure. Source: distcc(1), HOST SPECIFICATIONS."""

from __future__ import annotations

from collections.abc import Sequence

from ClusterShell.NodeSet import NodeSet

from config.model import Distcc, DistccMode
from distcc.slots import cpp_slots

DEFAULT_PORT = 3632


def helper_names(options: Distcc) -> list[str]:
    """Every helper, in the order of the node set."""
    return [str(name) for name in NodeSet(options.helpers or "")]


def host_spec(options: Distcc, name: str, mode: DistccMode, slots: int | None = None) -> str:
    """One helper: `host[:port]/slots[,features]`. pump needs compression."""
    port = f":{options.port}" if options.port != DEFAULT_PORT else ""
    features = ",cpp,lzo" if mode is DistccMode.PUMP else ""
    return f"{name}{port}/{slots or options.slots}{features}"


def name_of(spec: str) -> str:
    """The helper of a host specification, as distcc's log has it."""
    name = spec.partition(",")[0].partition("/")[0]
    return name.partition(":")[0]


def hosts_line(options: Distcc, helpers: Sequence[str], mode: DistccMode = DistccMode.PLAIN) -> str:
    """`host/slots` for each helper, and the headnode's own slots if it has any."""
    specs = [host_spec(options, name, mode) for name in helpers]
    if specs and options.local_slots:
        specs.append(f"localhost/{options.local_slots}")
    return " ".join(specs)


def distcc_hosts(
    options: Distcc, helpers: Sequence[str], *, cores: int, mode: DistccMode = DistccMode.PLAIN
) -> str:
    """DISTCC_HOSTS for a build: the helpers, and how much the headnode does at once itself.

    `--localslots` is for what no helper takes (links, and files whose helper failed), and
    `--localslots_cpp` for preprocessing. distcc's own defaults know nothing of the cores.
    """
    limits = f"--localslots={cores} --localslots_cpp={cpp_slots(cores)}"
    return f"{limits} {hosts_line(options, helpers, mode)}"
