"""What a machine must have to run nodes: root, a few programs, namespaces, overlayfs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path

from headnode.errors import EnvironmentLacksError
from headnode.node.spec import NODE_PATH
from headnode.process import PACKAGES

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
