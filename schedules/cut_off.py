"""Blades that answer, and say that they cannot reach the headnode: what that comes to. Pure.

It is no failure of a generation, so it stops no rollout and takes none back. Where it is all blades
that answer, it is the headnode.
"""

from __future__ import annotations

from collections.abc import Iterable

from blades.inventory import Blade, fold
from schedules.rollout import BladeReport, Result

SILENT = frozenset({Result.UNREACHED, Result.TIMED_OUT, Result.NOT_TRIED, Result.DRAINED})


def why_cut_off(reports: Iterable[BladeReport]) -> str:
    """What is to be said of blades that cannot reach the headnode; empty if there are none."""
    heard = [each for each in reports if each.cut_off or each.result not in SILENT]
    lost = [each for each in heard if each.cut_off]
    if not lost:
        return ""
    said = lost[0].error.partition("\n")[0].partition(". ")[0].removeprefix("the blade ")
    if len(lost) == len(heard):
        return (
            f"no blade that answers {said.replace('cannot', 'can')}. Is headnode serve down? Start "
            "it (headnode serve), then headnode rollout run"
        )
    names = fold([Blade(name=each.blade, class_name="", ring=each.ring) for each in lost])
    return (
        f"{names} could not pull: {said}. Others can: look at the network there, or headnode serve "
        "was down meanwhile; then headnode rollout run"
    )
