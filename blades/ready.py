"""Whether now is the time for a pull: room on the disk, nobody in the way. Part of the pull.

A pull that is put off changes nothing, says why, and comes again the next night.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from blades import places
from blades.brought import fields_of
from blades.merging import shell

UTMP = Path("/run/utmp")
# struct utmp of glibc, 384 bytes on every architecture that Gentoo has x86 binaries for: utmp(5).
RECORD = struct.Struct("hi32s4s32s256shhiii4i20x")
USER_PROCESS = 7
MARK = Path("/etc/headnode/drain")
# A package is unpacked beside where it goes, and was fetched before that.
TIMES = 4


def needed_bytes(index: str, there: Mapping[str, str], reserve_mib: int) -> int:
    """The free space that an index's packages take which are not installed yet."""
    total = 0
    for fields in fields_of(index):
        if there.get(fields.get("CPV", "")) != fields.get("BUILD_ID", ""):
            total += int(fields.get("SIZE", 0))
    return TIMES * total + (reserve_mib << 20)


def too_full(need_bytes: int) -> str:
    """Which file system has less than that free, in words; empty if none."""
    for name in ("usr", "var/tmp", "var/cache"):
        path = places.ROOT / name
        if path.is_dir() and (free := shutil.disk_usage(path).free) < need_bytes:
            return (
                f"the file system of {path} has {free >> 20} MiB free, and the pull needs "
                f"{need_bytes >> 20} MiB"
            )
    return ""


def who_is_in(utmp: bytes) -> list[str]:
    """Who is logged in, by what /run/utmp holds."""
    names = set()
    for start in range(0, len(utmp) - RECORD.size + 1, RECORD.size):
        kind, _, _, _, name, *_ = RECORD.unpack_from(utmp, start)
        if kind == USER_PROCESS:
            names.add(name.split(b"\0")[0].decode("utf-8", "replace"))
    return sorted(names)


def why_drained(said: object, now: datetime) -> str | None:
    """Why the headnode's list says of a blade that it is drained; None: it is not, or not now."""
    if not isinstance(said, dict):
        return None
    why = str(said.get("why", ""))
    try:
        end = datetime.fromisoformat(said["until"])
        if end <= now:
            return None
    except (KeyError, TypeError, ValueError):  # no end, or none that can be told
        return why
    until = f"until {end:%Y-%m-%d %H:%M} UTC"
    return f"{why} ({until})" if why else until


def reasons(limits: Mapping[str, Any], drained: str | None) -> Iterator[str]:
    """Why the pull is to be put off; `limits` are the options of [pull]."""
    if drained is not None:
        yield f"drained: {drained}" if drained else "drained"
    if MARK.exists():
        yield f"drained on the blade itself ({MARK} is there)"
    load, cores = os.getloadavg()[1], os.cpu_count() or 1
    if limits["defer_load"] and load / cores > limits["defer_load"]:
        yield f"the load is {load:.1f} on {cores} cores"
    if limits["defer_users"] and UTMP.exists() and (names := who_is_in(UTMP.read_bytes())):
        yield f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} logged in"
    if limits["defer_command"] and _is_busy(limits["defer_command"], limits["defer_timeout_s"]):
        yield f"busy: `{limits['defer_command']}` says so"


def _is_busy(line: str, limit_s: float) -> bool:
    return shell(line, limit_s)[0] in (0, None)
