"""Blades held for their restart: drained in `drained.json`, and by a command of the site's.

The reason is `reboot.WHY`: whoever is drained for another is left to who drained him, and stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from blades import drained
from blades.inventory import Blade, fold
from headnode.errors import HeadnodeError
from headnode.process import run
from schedules.reboot import WHY
from schedules.site import Site

COMMAND_S = 120.0  # drain_command and undrain_command


def hold(site: Site, blades: Iterable[Blade]) -> list[str]:
    """Drain blades for their restart; the names of those that nobody else has drained."""
    mine: list[str] = []
    for folder, names in _by_folder(site, blades):
        mine += drained.claim(folder, names, WHY, datetime.now(UTC))
    return mine


def tell_held(site: Site, blades: Sequence[Blade]) -> str:
    """Tell the site's scheduler that these are drained; why that failed, empty if it did not."""
    return _command(site.rollout.drain_command, blades)


def leave_held(site: Site, blade: Blade, came: str) -> None:
    """Leave a blade drained, with what came of its restart as the reason."""
    for folder, names in _by_folder(site, [blade]):
        drained.claim(folder, names, WHY, datetime.now(UTC), came=came)


def let_go(site: Site, blades: Sequence[Blade]) -> str:
    """Undrain blades that were held; why the site's command failed, empty if it did not."""
    for folder, names in _by_folder(site, blades):
        drained.release(folder, names, WHY)
    return _command(site.rollout.undrain_command, blades)


def _by_folder(site: Site, blades: Iterable[Blade]) -> list[tuple[Path, list[str]]]:
    order = sorted(blades, key=lambda blade: blade.class_name)
    return [
        (site.binhost(name).folder, [each.name for each in found])
        for name, found in groupby(order, lambda blade: blade.class_name)
    ]


def _command(line: str, blades: Sequence[Blade]) -> str:
    if not line or not blades:
        return ""
    try:
        nodes = {"HEADNODE_NODES": fold(list(blades))}
        run(["sh", "-c", line], timeout_s=COMMAND_S, env=nodes)
    except HeadnodeError as error:
        return str(error)
    return ""
