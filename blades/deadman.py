"""The dead man's handle: a blade that nobody reaches after a pull goes back to what it had.

A pull that the headnode started leaves `/var/lib/headnode/unconfirmed`, with a deadline, and a
process that waits for it. `headnode-pull confirm NUMBER`, which the headnode runs when it finds the
blade well, takes the mark away. If it is still there at the deadline, the blade has lost its
headnode, most likely by what it pulled: it goes back to its state before, from the packages that it
fetched for that, and refuses that deployment and its renewals from then on. The headnode has to
move the ring before the blade follows it again. A blade that was switched off meanwhile looks with
its next pull whether the headnode answers.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from blades import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MARK = "unconfirmed"
REFUSED = "refused"
LOOK_S = 1.0


def arm(sequence: int, confirm_s: float) -> bool:
    """Start to wait for the headnode's word on a deployment; False if there is no way back."""
    import subprocess

    if not (places.STATE / "before/Packages").exists():
        return False
    deadline = time.time() + confirm_s
    places.write_json(places.STATE / MARK, {"sequence": sequence, "deadline": deadline})
    subprocess.Popen(
        [places.PULL, "dead-man", str(sequence)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    return True


def waiting() -> dict[str, Any]:
    """The pull that waits for its confirmation: `sequence` and `deadline`; empty if none does."""
    return places.read_state(MARK)


def confirm(sequence: int) -> bool:
    """Take the headnode's word that all is well; False if no such pull waits for it."""
    if waiting().get("sequence") != sequence:
        return False
    with contextlib.suppress(FileNotFoundError):
        (places.STATE / MARK).unlink()
    return True


def disarm() -> None:
    """A new pull: nothing waits any more, or it is armed anew."""
    (places.STATE / MARK).unlink(missing_ok=True)


def is_due(now_s: float) -> bool:
    """Whether a pull was to be confirmed by now, and was not."""
    mark = waiting()
    return bool(mark) and now_s >= mark["deadline"]


def refuse(says: Mapping[str, Any]) -> None:
    """Do not follow the headnode to this deployment again."""
    places.write_json(places.STATE / REFUSED, says)


def is_refused(says: Mapping[str, Any]) -> bool:
    """Whether this blade went back by itself from that deployment, or from what it renews."""
    if not (refused := places.read_state(REFUSED)):
        return False
    from blades.kept import same_state

    return same_state(refused, says)


def follow() -> None:
    """The ring has moved, or somebody says so: nothing is refused any more."""
    (places.STATE / REFUSED).unlink(missing_ok=True)


def wait(sequence: int) -> bool:
    """Wait until the pull is confirmed or another comes (False), or its time is over (True)."""
    while (mark := waiting()).get("sequence") == sequence:
        left = float(mark["deadline"]) - time.time()
        if left <= 0:
            return True
        time.sleep(min(left, LOOK_S))
    return False


def boot_id() -> str:
    """What tells this boot from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kernel() -> str:
    """The kernel that runs."""
    return Path("/proc/sys/kernel/osrelease").read_text().strip()
