"""Restart this blade into the kernel that is due, and keep that when it was found well.

Part of the pull on a blade; `headnode rollout reboot` asks for each step. Which command restarts
the blade came with its deployment ([pull] reboot_command), as everything did that the headnode's
key may have run here.
"""

from __future__ import annotations

import fcntl

from blades import deadman, places, ready
from blades.grub import KernelError
from blades.kernel import settle, status
from blades.merging import shell
from blades.places import PullError
from blades.update import APPLYING, blade_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

COMMAND_S = 60.0
AGAIN = "headnode-kernel --again on the blade tries it once more"


def standing(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Say which kernel runs and which is due; why not, where that cannot be told."""
    if not settings.get("kernel"):
        return
    try:
        report["kernels"] = status(settings["kernel"])
    except KernelError as error:
        report["error"] = str(error)


def restart(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Have the due kernel booted once, now: `restarting`, or `current`, or `deferred` by jobs.

    Raises:
        PullError: it must not be, or the command for it failed.
    """
    with places.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report["result"], report["error"] = "deferred", "a pull is at work"
            return
        limits = _limits()
        if (places.STATE / APPLYING).exists() or deadman.waiting():
            raise PullError("its last pull is not through: headnode rollout run goes on with it")
        said = _settle(settings, report)
        if not said.get("pending"):
            report["result"] = "current"
        elif said["fell_back"]:
            raise PullError(f"{said['due']} was booted and fell back: {AGAIN}")
        elif why := "; ".join(ready.reasons(limits, None)):
            report["result"], report["error"] = "deferred", why
        else:
            report["error"] = _run(limits["reboot_command"])
            report["result"] = "restarting"


def _run(line: str) -> str:
    """Run the command for a restart; what is odd about it, empty for nothing.

    One that does not end may have begun the restart: the blade can go down at any moment.
    """
    code, text = shell(line, COMMAND_S)
    if code is None:
        return f"`{line}` did not end within {COMMAND_S:g} s"
    if code:
        raise PullError(f"`{line}` failed with exit code {code}: {text.strip()}")
    return ""


def booted(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Take the headnode's word that this kernel is well: it is the default from now on.

    A pull that began with the boot is waited for.

    Raises:
        PullError: another kernel runs than is due, or the loader cannot be told.
    """
    with places.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = _settle(settings, report)
    if said.get("pending"):
        raise PullError(f"{said['running']} runs, and {said['due']} is due")
    report["result"] = "current"


def _settle(settings: Mapping[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    try:
        said = settle(settings)
    except KernelError as error:
        raise PullError(str(error)) from error
    report["kernels"] = said
    return said


def _limits() -> dict[str, Any]:
    now = places.STATE / "now/blade.json"
    limits: dict[str, Any] = blade_of({"blade.json": now.read_text()} if now.exists() else {})[
        "pull"
    ]
    return limits
