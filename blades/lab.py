"""The lab: a whole cluster of simulated blades on this machine, apart from it.

The headnode of the lab is a node (`headnode.node`) with a network of its own, in which a bridge
lies; every blade is a node over an overlay root, with its own address on that bridge. Nothing leads
out of the bridge, so no traffic can leave the lab. All of it lives in the PID namespace of the
lab's headnode: ending that one process ends the lab, and it ends with the process that put the lab
up unless told to stay. What is left on disk is one folder::

    <lab>/lab.json        what is up: process numbers, addresses
    <lab>/nodes/<name>/   each node's overlay; `pid` is its process number as the lab's headnode
                          sees it, and its start time
    <lab>/enter           runs a shell line in a node, from the lab's headnode (transport `exec`)
    <lab>/hosts           every name and address, as /etc/hosts of every node
    <lab>/state/          the state folder of the lab's headnode
    <lab>/cluster.toml    its configuration
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any

from blades.setup import mode_of
from config.portage import Rendered
from headnode.errors import NodeError
from headnode.files import locked, remove_tree, write_atomic
from headnode.node.running import Node, enter_argv, start, start_all
from headnode.node.spec import NODE_PATH, Bind, Life, NodeSpec, empty_in_upper, write_upper
from headnode.process import run
from headnode.provision import environment_binds, provide_emerge

NETWORK = IPv4Network("10.77.0.0/16")
BRIDGE = "02:00:00:00:00:01"  # locally administered (IEEE 802)
HEADNODE = "headnode"
UPSTREAM = "upstream"
LOCK = ".lock"
IP_TIMEOUT_S = 60.0
# The machine's own resolvers are asked over sockets in its files, and would ask outside.
RESOLVERS = (Path("/run/nscd"), Path("/run/systemd/resolve"), Path("/run/dbus"))
# What a blade starts without, whatever the machine has there.
OWN_FOLDERS = ("/etc/portage", "/var/cache/binpkgs", "/var/cache/distfiles", "/var/cache/edb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A lab that is up: its folder and its nodes by name, the headnode among them."""

    folder: Path
    nodes: Mapping[str, Node]

    @property
    def headnode(self) -> Node:
        """The node that the lab's headnode runs in."""
        return self.nodes[HEADNODE]

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            NodeError: there is none, or it is not up.
        """
        node = self.nodes.get(name)
        if node is None:
            raise NodeError(f"The lab has no node {name!r}.", remedy=f"It has {_known(self)}.")
        if not node.alive():
            raise NodeError(f"{name} is not up.", remedy="Put the lab up anew: headnode lab up.")
        return node


def _known(lab: Lab) -> str:
    names = sorted(lab.nodes)
    return ", ".join(names if len(names) < 8 else [*names[:3], "…", *names[-3:]])


def addresses(blades: Sequence[str]) -> dict[str, IPv4Address]:
    """The address of every node: the headnode first, the upstream, then the blades. Pure."""
    return dict(zip([HEADNODE, UPSTREAM, *blades], NETWORK.hosts(), strict=False))


def hosts_text(known: Mapping[str, IPv4Address]) -> str:
    """An /etc/hosts with every node. Pure."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in known.items())]
    return "\n".join(lines) + "\n"


def bridge_batch(pids: Mapping[str, int], address: IPv4Address) -> str:
    """What `ip -batch` does in the headnode's network: the bridge, and a cable to each node. Pure.

    `pids` are the nodes' process numbers. The bridge has an address of its own for the cable's
    layer: it would else take the lowest of its ports', and another one when that node goes, and no
    answer would find the headnode until every other node has asked again who it is
    (br_stp_recalculate_bridge_id of Linux).
    """
    lines = [
        f"link add br0 address {BRIDGE} type bridge",
        f"address add {address}/{NETWORK.prefixlen} dev br0",
        "link set br0 up",
    ]
    cables = [cable_batch(pid, f"port{number}") for number, pid in enumerate(pids.values())]
    return "\n".join(lines) + "\n" + "".join(cables)


def addresses_in(hosts: str) -> dict[str, IPv4Address]:
    """The address of each name in what `hosts_text` wrote. Pure."""
    pairs = (line.split() for line in hosts.splitlines())
    return {name: IPv4Address(address) for address, name in pairs}


def cable_batch(pid: int, port: str) -> str:
    """A cable from the bridge to process `pid`, which finds its end as `eth0`. Pure."""
    return f"link add {port} type veth peer name eth0 netns {pid}\nlink set {port} master br0 up\n"


def _ip(lab: Path, node: Node, name: str, batch: str) -> None:
    file = lab / "nodes" / f"{name}.ip"
    file.write_text(batch)
    argv: list[str | Path] = ["nsenter", f"--target={node.pid}", "--net", "ip", "-batch", file]
    run(argv, timeout_s=IP_TIMEOUT_S)


def blade_spec(
    lab: Path,
    name: str,
    lower: Path,
    setup: Rendered,
    *,
    store: Path | None = None,
    beneath: tuple[Path, ...] = (),
    hidden: tuple[Path, ...] = (),
    binds: tuple[Bind, ...] = (),
) -> NodeSpec:
    """A blade of the lab in the folder `lab`, its files written: to be started, or to `join`.

    `store` is where its overlay is, if not in the lab; for `beneath` and further `hidden` folders
    and `binds` see `NodeSpec`.
    """
    spec = NodeSpec(
        name=name,
        store=store or lab / "nodes" / name,
        lower=lower,
        binds=(*environment_binds(root=lower), *binds),
        hidden=(lab, *hidden),
        throwaway=True,
        beneath=beneath,
    )
    provide_emerge(spec)
    for folder in OWN_FOLDERS:
        empty_in_upper(spec, folder)
    files = dict(setup.files)
    files |= {"/etc/hosts": (lab / "hosts").read_text(), "/etc/resolv.conf": ""}
    for mode in {mode_of(path) for path in files}:
        write_upper(spec, {path: files[path] for path in files if mode_of(path) == mode}, mode=mode)
    for link, target in setup.links.items():
        path = spec.upper / link.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    return spec


def _machine_node(lab: Path, name: str, binds: Sequence[Bind] = ()) -> NodeSpec:
    """A node that sees the machine's files, but only the lab's network."""
    hosts = Bind(source=lab / "hosts", target=PurePosixPath("/etc/hosts"))
    store = lab / "nodes" / name
    return NodeSpec(name=name, store=store, lower=None, binds=(hosts, *binds), hidden=RESOLVERS)


def up(
    folder: Path,
    blades: Mapping[str, Rendered],
    *,
    lower: Path = Path("/"),
    life: Life = Life.WITH_STARTER,
    later: Sequence[str] = (),
    binds: Sequence[Bind] = (),
    beneath: tuple[Path, ...] = (),
) -> Lab:
    """Put up a lab of `blades` (name -> files that it starts with) over the root `lower`.

    `later` are names of blades that `join` brings in; `binds` are for the lab's headnode; what is
    in the uppers `beneath`, every blade has (`NodeSpec`).

    Raises:
        NodeError: a lab is up in that folder already, or a node did not come up (then all that
            did are down again), or a blade has the headnode's name.
        BusyError: one is being put up or taken down there just now.
        EnvironmentLacksError: this machine cannot run one, and what it lacks.
    """
    if taken := {HEADNODE, UPSTREAM} & set(blades):
        raise NodeError(f"No blade of a lab can be called {', '.join(sorted(taken))}.")
    folder = folder.resolve()
    with locked(folder / LOCK, "headnode lab up"):
        if (folder / "lab.json").exists() and load(folder).headnode.alive():
            raise NodeError(f"A lab is up in {folder}.", remedy="Take it down: headnode lab down.")
        remove_tree(folder / "nodes")
        (folder / "nodes").mkdir()
        known = addresses([*blades, *later])
        write_atomic(folder / "hosts", hosts_text(known))
        write_atomic(folder / "enter", enter_script(folder), mode=0o755)
        headnode = start(_machine_node(folder, HEADNODE, binds), life=life)
        lab = Lab(folder=folder, nodes={HEADNODE: headnode})
        try:
            _save(lab)  # `down` finds it by this, also when what follows is killed
            return _fill(lab, blades, known, lower, life, beneath)
        except BaseException:
            lab.headnode.stop()
            raise


def _fill(
    lab: Lab,
    blades: Mapping[str, Rendered],
    known: Mapping[str, IPv4Address],
    lower: Path,
    life: Life,
    beneath: tuple[Path, ...],
) -> Lab:
    specs = [_machine_node(lab.folder, UPSTREAM)]
    specs += [
        blade_spec(lab.folder, name, lower, files, beneath=beneath)
        for name, files in blades.items()
    ]
    nodes = {node.name: node for node in start_all(specs, inside=lab.headnode.pid, life=life)}
    full = Lab(folder=lab.folder, nodes={**lab.nodes, **nodes})
    try:
        _connect(full, known)
        _save(full)
    except BaseException:
        for node in nodes.values():
            node.stop()
        raise
    return full


def _connect(lab: Lab, known: Mapping[str, IPv4Address]) -> None:
    others = {name: node for name, node in lab.nodes.items() if name != HEADNODE}
    cables = bridge_batch({name: node.pid for name, node in others.items()}, known[HEADNODE])
    _ip(lab.folder, lab.headnode, HEADNODE, cables)
    for name, node in others.items():
        _settle(lab, name, node, known[name])


def _settle(lab: Lab, name: str, node: Node, address: IPv4Address) -> None:
    own = f"address add {address}/{NETWORK.prefixlen} dev eth0\nlink set eth0 up\n"
    _ip(lab.folder, node, name, own)
    place = lab.folder / "nodes" / name / "pid"
    write_atomic(place, f"{_inner_pid(node.pid)} {node.started}\n")


def join(lab: Lab, spec: NodeSpec) -> Lab:
    """Bring one more blade into a lab that is up, and return the lab with it.

    Its name was among `later` when the lab was put up. It ends with the lab at the latest.

    Raises:
        NodeError, EnvironmentLacksError: it does not come up.
    """
    node = start(spec, inside=lab.headnode.pid)
    full = Lab(folder=lab.folder, nodes={**lab.nodes, spec.name: node})
    try:
        address = addresses_in((lab.folder / "hosts").read_text())[spec.name]
        _ip(lab.folder, lab.headnode, HEADNODE, cable_batch(node.pid, f"port.{node.pid}"))
        _settle(full, spec.name, node, address)
        _save(full)
    except BaseException:
        node.stop()
        raise
    return full


def _inner_pid(pid: int) -> int:
    """The number that process `pid` has in the PID namespace around its own (the headnode's)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-2])
    raise NodeError(f"The kernel does not tell process {pid}'s namespaces (CONFIG_PID_NS).")


ENTER = """#!/bin/sh
# enter NODE LINE: run a shell line in a node of the lab; exit code 255 (as ssh's) if it is off.
export PATH={path}
off() {{ echo "$1 is off" >&2; exit 255; }}
read -r pid started 2> /dev/null < {nodes}/"$1"/pid || off "$1"
# The number may be another process's by now: the one with that start time is the node.
read -r stat 2> /dev/null < "/proc/$pid/stat" || off "$1"
set -- "$1" "$2" ${{stat##*) }}
[ "$3" != Z ] && [ "${{22}}" = "$started" ] || off "$1"
exec {enter} "$2"
"""


def enter_script(folder: Path) -> str:
    """The script `<lab>/enter NODE LINE`, run in the lab's headnode. Pure."""
    argv = enter_argv(0, ["sh", "-c"])
    words = ['--target="$pid"' if word == "--target=0" else shlex.quote(word) for word in argv]
    nodes = shlex.quote(str(folder / "nodes"))
    return ENTER.format(path=NODE_PATH, nodes=nodes, enter=" ".join(words))


def _save(lab: Lab) -> None:
    nodes = [{**asdict(node), "store": str(node.store)} for node in lab.nodes.values()]
    write_atomic(lab.folder / "lab.json", json.dumps({"nodes": nodes}, indent=1))


def load(folder: Path) -> Lab:
    """The lab that was put up in `folder`, from any process of this machine.

    Raises:
        NodeError: none was.
    """
    folder = folder.resolve()
    try:
        known = json.loads((folder / "lab.json").read_text())["nodes"]
    except FileNotFoundError:
        raise NodeError(f"No lab is up in {folder}.", remedy="headnode lab up, or --lab.") from None
    nodes = [Node(**{**each, "store": Path(each["store"])}) for each in known]
    return Lab(folder=folder, nodes={node.name: node for node in nodes})


def down(folder: Path) -> bool:
    """Take down the lab in `folder`, or what a killed run left of it; whether there was one.

    Raises:
        BusyError: one is being put up or taken down there just now.
    """
    folder = folder.resolve()
    if not folder.exists():
        return False
    # The lock file stays: who waits for one that is removed under him holds nothing.
    with locked(folder / LOCK, "headnode lab down"):
        found = (folder / "lab.json").exists() or (folder / "nodes").exists()
        if (folder / "lab.json").exists():
            lab = load(folder)
            lab.headnode.stop()
            for node in lab.nodes.values():
                node.stop()
        remove_tree(folder / "nodes")
        for name in ("lab.json", "hosts", "enter"):
            for path in [folder / name, *folder.glob(f".{name}.*")]:  # half written, then killed
                path.unlink(missing_ok=True)
    return found


@contextmanager
def running(folder: Path, blades: Mapping[str, Rendered], **options: Any) -> Iterator[Lab]:
    """A lab for the block (see `up`); down again after it, however it ends."""
    lab = up(folder, blades, **options)
    try:
        yield lab
    finally:
        down(folder)
