"""A node: processes with a root, a network and process numbers of their own, on this machine.

The builder and every simulated blade are nodes. A node is held up by one process that does nothing;
it is the first in its PID namespace, so when it ends, however it ends, the kernel ends all others
and takes the mounts and the network with them. Only the folder `store` is left::

    <store>/upper/    what the node has written (kept for a builder, dropped with a blade)
    <store>/work/     overlayfs's own
    <store>/root/     where the root is put together; empty for everyone but the node
    <store>/start.log why it did not come up

The namespaces are made by unshare(1) and entered by nsenter(1), since Python has no call for them
before 3.12. The set-up within is a small shell script: it is the one place where headnode writes
one, and every word in it is quoted.

Source: overlayfs (kernel, Documentation/filesystems/overlayfs.rst), namespaces(7), pivot_root(2).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from headnode.errors import EnvironmentLacksError, NodeError
from headnode.files import remove_tree
from headnode.process import PACKAGES, PINNED, Completed, environment, run

START_TIMEOUT_S = 60.0
NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FRESH_IN_NODES = (Path("/dev"), Path("/run"), Path("/tmp"))  # noqa: S108 (a mount point)
# File systems that overlayfs takes no upper folder on (overlayfs.rst, "Upper and Lower"): a
# container engine's own root, and what lacks whiteouts or trusted.* attributes.
NO_UPPER = frozenset({"9p", "cifs", "exfat", "nfs", "nfs4", "overlay", "vfat"})
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


class Life(StrEnum):
    """How long a node stays up."""

    WITH_STARTER = "with-starter"  # until the process that started it ends, whatever ends it
    UNTIL_STOPPED = "until-stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder of the machine that the node sees at `target`."""

    source: Path
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a node is made of.

    `lower` is the root it is laid over and never writes to; None gives it the machine's own root as
    it is (the lab's headnode: a network of its own, but the real state folder). `hidden` folders
    are empty in the node, but for what is bound below them. `throwaway` lets overlayfs skip syncing
    to disk, for an upper that is worth nothing after a power cut. `beneath` are uppers of nodes
    that are down: they lie between the node's own upper and `lower`, the uppermost first, and are
    only read.
    """

    name: str
    store: Path
    lower: Path | None
    binds: tuple[Bind, ...] = ()
    hidden: tuple[Path, ...] = ()
    throwaway: bool = False
    beneath: tuple[Path, ...] = ()

    @property
    def upper(self) -> Path:
        """Where the node's own files are."""
        return self.store / "upper"


def _words(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def _overlay_script(spec: NodeSpec, lower: Path) -> list[str]:
    options = ",".join(
        [
            f"lowerdir={':'.join(str(layer) for layer in (*spec.beneath, lower))}",
            f"upperdir={spec.upper}",
            f"workdir={spec.store / 'work'}",
            # What lets the lower change between two mounts (overlayfs.rst, "Changes to underlying
            # filesystems"): a kernel may have them on by default.
            "redirect_dir=off,metacopy=off,index=off",
            *(["volatile"] if spec.throwaway else []),
        ]
    )
    return [
        _words("mount", "-t", "overlay", "-o", options, "overlay", spec.store / "root"),
        _words("cd", spec.store / "root"),
        "mkdir -p dev proc sys run tmp",
        "mount -t proc proc proc",
        "mount -t sysfs -o ro sysfs sys",
        "mount -t tmpfs -o mode=755 tmpfs dev",
        *(f": > dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES),
        "mkdir dev/pts dev/shm",
        "mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts",
        "mount -t tmpfs -o mode=1777 tmpfs dev/shm",
        "ln -s pts/ptmx dev/ptmx",
        "ln -s /proc/self/fd dev/fd",
        "for n in 0 1 2; do set -- stdin stdout stderr; shift $n; "
        "ln -s /proc/self/fd/$n dev/$1; done",
        "mount -t tmpfs -o mode=755 tmpfs run",
        "mount -t tmpfs -o mode=1777 tmpfs tmp",
    ]


def _bind_script(bind: Bind, root: str) -> list[str]:
    at = f"{root}{bind.target}"
    if bind.source.is_dir():
        lines = [_words("mkdir", "-p", at)]
    else:
        quoted = shlex.quote(at)
        lines = [
            _words("mkdir", "-p", f"{root}{bind.target.parent}"),
            f"[ -e {quoted} ] || : > {quoted}",
        ]
    lines.append(_words("mount", "--bind", bind.source, at))
    if not bind.writable:
        lines.append(_words("mount", "-o", "remount,bind,ro", at))
    return lines


def _hide_script(folder: Path, root: str) -> list[str]:
    at = f"{root}{folder}"
    mount = _words("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", at)
    return [f"[ ! -d {shlex.quote(at)} ] || {mount}"]


def _cover_script(spec: NodeSpec, root: str) -> list[str]:
    """What is bound and hidden, the outer before the inner, so that none covers another up."""
    covers = [(bind.target.parts, 0, _bind_script(bind, root)) for bind in spec.binds]
    covers += [(folder.parts, 1, _hide_script(folder, root)) for folder in spec.hidden]
    covers.sort(key=lambda cover: (len(cover[0]), cover[1]))
    return [line for _, _, lines in covers for line in lines]


def setup_script(spec: NodeSpec, life: Life) -> str:
    """The shell script that becomes the node's first process. Pure.

    Its first line of output is its own process number as the machine sees it.
    """
    # Commands of one line each: `set -e` does not see one fail that has && after it, and a node
    # whose pivot_root failed would go on in the machine's own root.
    lines = ["set -eu", "read -r pid rest < /proc/self/stat"]
    own = [
        f"echo {shlex.quote(spec.name)} > /proc/sys/kernel/hostname",
        "ip link set lo up",
    ]
    if spec.lower is None:
        lines += ["mount -t proc proc /proc", *_cover_script(spec, ""), *own]
    else:
        root = str(spec.store / "root")
        lines += [
            *_overlay_script(spec, spec.lower),
            *_cover_script(spec, root),
            *own,
            "mkdir -p .old",
            "pivot_root . .old",
            "umount -l .old",
            "rmdir .old",
        ]
    stay = "cat <&3" if life is Life.WITH_STARTER else "sleep infinity"
    lines += [
        "cd /",
        'echo "$pid"',
        "exec 3<&0 > /dev/null",
        f"{stay} &",
        "wait",  # for any child: the shell reaps what the node orphans, too
    ]
    return "\n".join(lines)


def check_spec(spec: NodeSpec) -> None:
    """Refuse a spec that overlayfs would misread or that needs what is not there.

    Raises:
        NodeError: naming the path.
    """
    for path in (spec.store, *spec.beneath, *([spec.lower] if spec.lower else [])):
        if any(mark in str(path) for mark in ',:\\"'):
            raise NodeError(
                f"overlayfs cannot take the path {path}.",
                remedy="Use a folder whose path has no comma, colon, backslash or quotation mark.",
            )
    if spec.lower is not None and not spec.lower.is_dir():
        raise NodeError(f"{spec.name}: the root {spec.lower} is not a folder.")
    for layer in spec.beneath:
        if not layer.is_dir():
            raise NodeError(f"{spec.name}: the layer {layer} is not a folder.")
    for bind in spec.binds:
        if not bind.source.exists():
            raise NodeError(f"{spec.name}: {bind.source} is not there to be bound in.")
    _, kind = mount_of(spec.store, Path("/proc/self/mountinfo").read_text())
    if spec.lower is not None and kind in NO_UPPER:
        raise NodeError(
            f"{spec.name}: {spec.store} lies on {kind}, which overlayfs cannot write to.",
            remedy="Use a folder on a local file system such as ext4, xfs, btrfs or tmpfs.",
        )


def mount_of(path: Path, mountinfo: str) -> tuple[Path, str]:
    """The mount that `path` lies on, its folder and its type, from proc_pid_mountinfo(5). Pure."""
    found = (Path("/"), "")
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        folder = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
        # A later mount on the same folder covers the earlier.
        if path.is_relative_to(folder) and len(folder.parts) >= len(found[0].parts):
            found = (folder, rest.split()[0])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is up. `pid` is its first process, `started` that process's start time.

    The start time (field 22 of proc_pid_stat(5), in clock ticks after boot) tells the process from
    a later one that got the same number.
    """

    name: str
    pid: int
    started: int
    store: Path

    def alive(self) -> bool:
        """Whether the node is still up."""
        return start_time(self.pid) == self.started

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` in the node."""
        return enter_argv(self.pid, command)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout_s: float,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `command` in the node (see `headnode.process.run`)."""
        return run(self.argv(command), timeout_s=timeout_s, check=check, on_line=on_line)

    def stop(self) -> None:
        """End the node and everything in it, and wait until it is gone."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name} (process {self.pid}) does not end.")
            time.sleep(0.01)
        if holder := _KEPT.pop(self.pid, None):
            _finish(holder)


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks after boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def enter_argv(pid: int, command: Sequence[str | Path]) -> list[str]:
    """The command line that runs `command` in the namespaces of process `pid`. Pure."""
    clean = {
        **PINNED,
        "PATH": NODE_PATH,
        "HOME": "/root",
        "TERM": "dumb",
        "USER": "root",
        "LOGNAME": "root",
    }
    return [
        *("nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid"),
        *("env", "-i", *(f"{key}={value}" for key, value in clean.items())),
        *(str(word) for word in command),
    ]


def prepare_store(spec: NodeSpec) -> None:
    """Make the folders of `spec.store`, and drop what a killed node left of overlayfs's own."""
    remove_tree(spec.store / "work")
    for name in ("upper", "work", "root"):
        (spec.store / name).mkdir(parents=True, exist_ok=True)


def start(spec: NodeSpec, *, inside: int | None = None, life: Life = Life.WITH_STARTER) -> Node:
    """Bring up one node; see `start_all`."""
    return start_all([spec], inside=inside, life=life)[0]


def start_all(
    specs: Iterable[NodeSpec], *, inside: int | None = None, life: Life = Life.WITH_STARTER
) -> list[Node]:
    """Bring up nodes side by side, and return them when all are up.

    With `inside`, they live in the PID namespace of that process (a lab's first): ending it ends
    them all.

    Raises:
        NodeError: one did not come up, or cannot; those that did are ended.
        EnvironmentLacksError: the rights or the programs for it are missing.
    """
    require_namespaces()
    specs = list(specs)
    for spec in specs:
        check_spec(spec)
    holders: list[subprocess.Popen[str]] = []
    try:
        for spec in specs:
            prepare_store(spec)
            holders.append(_launch(spec, inside, life))
        nodes = [_await(spec, holder) for spec, holder in zip(specs, holders, strict=True)]
    except BaseException:
        _kill(holders)
        raise
    _KEPT.update({node.pid: holder for node, holder in zip(nodes, holders, strict=True)})
    return nodes


TOOLS = ("ip", "mount", "nsenter", "pivot_root", "umount", "unshare")


def require_namespaces() -> None:
    """Check for what a node needs: root, a few programs, namespaces and overlayfs in the kernel.

    Raises:
        EnvironmentLacksError: naming exactly what is missing.
    """
    release = os.uname().release
    modules = Path("/lib/modules", release, "modules.dep")
    kinds = Path("/proc/filesystems").read_text()
    missing = lacking(
        uid=os.geteuid(),
        programs=[tool for tool in TOOLS if shutil.which(tool, path=NODE_PATH)],
        namespaces=os.listdir("/proc/self/ns"),  # noqa: PTH208 (names)
        # A module that is not loaded yet is loaded by the first mount.
        overlayfs="\toverlay\n" in kinds
        or (modules.exists() and "/overlay.ko" in modules.read_text()),
    )
    if missing:
        raise EnvironmentLacksError("This machine cannot run builder or lab nodes:", missing)


def lacking(
    *, uid: int, programs: Container[str], namespaces: Container[str], overlayfs: bool
) -> list[str]:
    """What a machine with these facts lacks to run nodes, each with how to get it. Pure."""
    kinds = {"ipc": "IPC_NS", "mnt": "NAMESPACES", "net": "NET_NS", "pid": "PID_NS"}
    return [
        *(["root's rights: run it as root (sudo)"] if uid else []),
        *(f"{tool}: {PACKAGES[tool]}" for tool in TOOLS if tool not in programs),
        *(
            f"{name} namespaces in the kernel: CONFIG_{option}=y"
            for name, option in {**kinds, "uts": "UTS_NS"}.items()
            if name not in namespaces
        ),
        *(
            []
            if overlayfs
            else ["overlayfs in the kernel: modprobe overlay, or CONFIG_OVERLAY_FS=y"]
        ),
    ]


def _launch(spec: NodeSpec, inside: int | None, life: Life) -> subprocess.Popen[str]:
    unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
    enter = ["nsenter", f"--target={inside}", "--pid"] if inside else []
    with (spec.store / "start.log").open("w") as log:
        return subprocess.Popen(
            [*enter, *unshare, "sh", "-c", setup_script(spec, life)],
            stdin=subprocess.PIPE if life is Life.WITH_STARTER else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment({"PATH": NODE_PATH}),
            cwd="/",
            start_new_session=True,
        )


# By the node's process number. Their stdin is what keeps Life.WITH_STARTER nodes up.
_KEPT: dict[int, subprocess.Popen[str]] = {}


def _await(spec: NodeSpec, holder: subprocess.Popen[str]) -> Node:
    assert holder.stdout is not None  # noqa: S101 (asked for a pipe)
    ready, _, _ = select.select([holder.stdout], [], [], START_TIMEOUT_S)
    line = holder.stdout.readline().strip() if ready else ""
    holder.stdout.close()
    pid = int(line) if line.isdigit() else 0
    started = start_time(pid) if pid else None
    if started is None:
        silent = "it gave no reason" if ready else f"no answer within {START_TIMEOUT_S:g} s"
        said = (spec.store / "start.log").read_text(errors="replace").strip()
        raise NodeError(f"Node {spec.name} did not come up: {said or silent}.")
    return Node(name=spec.name, pid=pid, started=started, store=spec.store)


def _kill(holders: Sequence[subprocess.Popen[str]]) -> None:
    """End nodes that may not be up yet: a holder and its first process are one process group."""
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + START_TIMEOUT_S
    for holder in holders:
        _finish(holder)
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(holder.pid, 0)
                time.sleep(0.01)


def _finish(holder: subprocess.Popen[str]) -> None:
    for pipe in (holder.stdin, holder.stdout):
        if pipe is not None:
            pipe.close()
    holder.wait()  # else its starter keeps it as a zombie


def write_upper(spec: NodeSpec, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    """Put text files (absolute path in the node -> content) into the node before it starts."""
    for name, content in files.items():
        path = spec.upper / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)


def empty_in_upper(spec: NodeSpec, folder: str) -> None:
    """Make `folder` start empty in the node, whatever the lower has there (an opaque folder)."""
    path = spec.upper / folder.lstrip("/")
    path.mkdir(parents=True, exist_ok=True)
    os.setxattr(path, "trusted.overlay.opaque", b"y")
