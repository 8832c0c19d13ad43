"""Whether blades are well after a pull: asked, and confirmed where they are (`blades.deadman`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blades.transport import SSH_FAILED, Outcome, run_on
from config.model import Rollout
from headnode.process import last_lines
from schedules.rollout import PULL, BladeReport, last_report
from schedules.site import Site


def unwell(site: Site, reports: Sequence[BladeReport]) -> dict[str, str]:
    """Which of the blades that pulled are not well, and why; the others are confirmed."""
    options = site.rollout.model_copy(update={"timeout_s": site.rollout.health_timeout_s})
    outcomes = _ask([each.blade for each in reports], f"{PULL} health", options)
    found = {each.blade: why_unwell(outcomes.get(each.blade)) for each in reports}
    well = {each.blade: each for each in reports if not found[each.blade]}
    if site.cluster.pull.confirm_s:
        found |= _confirm(well, options)
    return {name: why for name, why in found.items() if why}


def _ask(names: Sequence[str], line: str, options: Rollout) -> dict[str, Outcome]:
    """Run a line that may be run twice; again, by another way, where a gateway went down under it.

    A blade is not to count as unwell, and its ring to go back, for what befell a gateway.
    """
    outcomes = run_on(names, line, options)
    again = [name for name, each in outcomes.items() if each.way_lost]
    return {**outcomes, **run_on(again, line, options)}


def _confirm(well: Mapping[str, BladeReport], options: Rollout) -> dict[str, str]:
    wrong: dict[str, str] = {}
    # The deployment may have been renewed since the pull that waits.
    waiting = {name: each.unconfirmed or each.sequence for name, each in well.items()}
    for sequence in set(waiting.values()):
        names = [name for name, each in waiting.items() if each == sequence]
        done = _ask(names, f"{PULL} confirm {sequence}", options)
        wrong |= {name: why_unwell(done.get(name)) for name in names}
    return wrong


def why_unwell(outcome: Outcome | None) -> str:
    """Why a blade that was asked for its health is not well; empty if it is. Pure."""
    if outcome is None or outcome.code is None:
        return "it does not answer any more after its pull"
    if outcome.code == SSH_FAILED:
        return f"it cannot be reached any more after its pull: {last_lines(outcome.output, 3)}"
    if outcome.code == 0:
        return ""
    said = last_report(outcome.output)
    return str(said["error"]) if said else last_lines(outcome.output, 3)


def pull_line(site: Site) -> str:
    """The command of a pull that will be confirmed, where pulls are."""
    return f"{PULL} --confirm" if site.cluster.pull.confirm_s else PULL
