"""The headnode itself: what its kernel can do, its disk, its clock."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from headnode.doctor.findings import Finding, good, problem, warning
from headnode.errors import EnvironmentLacksError
from headnode.node.machine import require_namespaces
from headnode.node.spec import NO_UPPER, mount_of
from schedules.site import Site

GIB = 1 << 30
# A tree is about 1 GiB with its snapshots, the sources and packages of a small set about 10.
ROOM_BYTES = 20 * GIB
TIMEX_BYTES = 208  # sizeof(struct timex), 64 bit
TIME_ERROR = 5
FIRST_YEAR = 2026  # of this program: a clock before it was never set


def kernel(site: Site) -> Iterator[Finding]:
    """Whether nodes can run: the builder and the lab's blades."""
    try:
        require_namespaces()
    except EnvironmentLacksError as error:
        yield from (problem(f"no nodes can run: it lacks {each}") for each in error.missing)
    else:
        yield good("namespaces and overlayfs are there")
    site.state.mkdir(parents=True, exist_ok=True)
    where, kind = mount_of(site.state, Path("/proc/self/mountinfo").read_text())
    if kind in NO_UPPER:
        yield problem(
            f"the state folder is on {kind} ({where}), which overlayfs takes no upper folder on",
            "set [state] path to a folder on ext4, xfs or btrfs",
        )


def disk(site: Site) -> Iterator[Finding]:
    """Whether there is room."""
    free = shutil.disk_usage(site.state).free
    reserve = site.cluster.state.reserve_mib << 20
    text = f"{free / GIB:.0f} GiB free in {site.state}"
    if free < reserve:
        yield problem(text, f"free {(reserve - free) / GIB:.1f} GiB: nothing starts below it")
    elif free < reserve + ROOM_BYTES:
        yield warning(text, "trees, sources and packages of a small set take about 20 GiB")
    else:
        yield good(text)
    inodes = os.statvfs(site.state)
    if inodes.f_files and inodes.f_favail < 1_000_000:
        yield warning(
            f"{inodes.f_favail} inodes free",
            "a snapshot of the Gentoo tree takes 170,000 names, though few new files",
        )


def clock(site: Site) -> Iterator[Finding]:
    """Whether the clock is right: deployments are dated, and blades compare with their own."""
    now = datetime.now(UTC)
    if now.year < FIRST_YEAR:
        yield problem(f"the clock says {now:%Y-%m-%d}", "set it, and run chrony or ntpd")
        return
    # adjtimex(2) with no mode reads; TIME_ERROR: the kernel's clock is not synchronized.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if state == TIME_ERROR:
        yield warning(
            "nothing keeps the clock in step",
            "run chrony, ntpd or systemd-timesyncd here and on the blades",
        )
    else:
        yield good(f"{now:%Y-%m-%d %H:%M} UTC, kept in step")
