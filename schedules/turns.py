"""A class's rings in turn: the blades of one pull; if all is well the next ring gets it, too."""

from __future__ import annotations

from collections import Counter

from blades.inventory import Blade, all_blades, fold
from headnode.errors import RolloutError
from schedules.ledger.recorder import Recorder
from schedules.moving import Asked, promote_once
from schedules.rollout import BladeReport, Result, rollout_once
from schedules.runner import Work

LONGEST = 300  # characters of a blade's error in a message


def roll_out_once(work: Work, class_name: str) -> str:
    """Bring what the first ring has to all rings; what came of it.

    A blade that is off or hangs is not the package's fault and holds nobody up, unless it is so
    with every blade of a ring: then nobody has tried what comes next.

    Raises:
        RolloutError: a pull failed; the rings behind that one keep what they have.
    """
    binhost = work.site.binhost(class_name)
    said: list[str] = []
    generation: int | None = None
    for ring in work.site.klass(class_name).rings:
        current = binhost.ring(ring).current()
        if generation is None and current is None:
            return "nothing is published"
        if generation is not None and (current is None or current.generation != generation):
            asked = Asked(note="rollout")
            promote_once(
                *(work.site, class_name, ring, generation),
                now=work.clock(),
                asked=asked,
                watch=work.watch,
            )
        elif current is not None:
            generation = current.generation
        said.append(_ring(work, class_name, ring))
    return "; ".join(said)


def _ring(work: Work, class_name: str, ring: str) -> str:
    blades = [
        blade
        for blade in all_blades(work.site.cluster)
        if (blade.class_name, blade.ring) == (class_name, ring)
    ]
    with Recorder(work.ledger) as recorder:
        reports = rollout_once(blades, work.site.cluster.rollout)
        for report in reports:
            recorder.pulled(report, work.clock())
    return judge(ring, blades, reports)


def judge(ring: str, blades: list[Blade], reports: list[BladeReport]) -> str:
    """What a ring's pulls came to, in words. Pure.

    Raises:
        RolloutError: one failed, or no blade is well.
    """
    failed = [each for each in reports if each.result is Result.FAILED]
    if failed or not any(each.good for each in reports):
        bad = failed or reports
        lines = "\n".join(f"{each.blade}: {each.error[-LONGEST:]}" for each in bad[:10])
        names = fold([blade for blade in blades if blade.name in {each.blade for each in bad}])
        raise RolloutError(
            f"The rollout stopped in ring {ring}, at {names}:\n{lines}",
            remedy="The rings behind it keep what they have. headnode blades show BLADE has the "
            "log; headnode rollback takes it back.",
        )
    counts = Counter(each.result.value for each in reports)
    return f"{ring}: " + ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
