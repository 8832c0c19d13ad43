"""What `headnode patch` and `headnode kernel build --rollout` share: the plan, and the way on."""

from __future__ import annotations

from collections.abc import Sequence

from binhost.publish import Published
from blades.inventory import all_blades
from headnode.commands.context import now
from headnode.commands.rings import show as show_published
from headnode.commands.rollout import exit_code, recorded, show_reports
from headnode.console import Watcher, note, say, show_json
from headnode.errors import ExitCode
from headnode.wording import counted
from schedules.forecast import Forecast
from schedules.site import Site


def show_plan(
    site: Site,
    class_name: str,
    ring: str,
    first: Sequence[str],
    forecast: Forecast,
    *,
    rolls: bool,
) -> None:
    """Say what is going to be done, a line a step, and until when; `first` is before the gates."""
    for number, step in enumerate([*first, *steps_onward(site, class_name, ring, rolls=rolls)], 1):
        note(f"  {number}. {step}")
    note(forecast.line(now()))


def steps_onward(site: Site, class_name: str, ring: str, *, rolls: bool) -> list[str]:
    """What comes after a build, a sentence a step. Pure."""
    steps = [f"pass the gates, and put the new generation in front of the ring {ring}"]
    names = list(site.klass(class_name).rings)
    for name in names[names.index(ring) :] if rolls else ():
        count = sum(
            (each.class_name, each.ring) == (class_name, name) for each in all_blades(site.cluster)
        )
        steps.append(f"have {counted(count, 'blade')} of the ring {name} pull it")
    return steps


def go_on(site: Site, published: Published, *, rolls: bool, as_json: bool, watch: Watcher) -> int:
    """Show what was published and, if `rolls`, bring it through the rings; the exit code."""
    if not rolls:
        show_published(published, as_json)
        return ExitCode.OK
    if not as_json:
        show_published(published, as_json)
    done, reports = recorded(site, None, watch=watch)
    if as_json:
        show_json({"published": published, "rollout": done.phase, "blades": reports})
        return exit_code(reports)
    show_reports(reports)
    if done.why:
        say(f"The rollout {done.phase}: {done.why}")
    return exit_code(reports)
