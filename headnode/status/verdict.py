"""What a status comes to: one sentence, and what wants a look, with what to do about it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from ClusterShell.NodeSet import NodeSet

from headnode.status.model import (
    Advisory,
    Blade,
    Generation,
    Health,
    Level,
    Point,
    Repo,
    Ring,
    Rollout,
    Run,
    Unread,
    Verdict,
)
from headnode.wording import counted

PULLED = frozenset({Health.GOOD, Health.BEHIND, Health.PULLING})
ORDER = tuple(reversed(Level))  # worst first
LATE = timedelta(hours=36)  # behind its ring for longer than a night and a day is no waiting
EXPIRES_SOON = timedelta(hours=48)  # or with a quarter of its time left, if that is later
MOST_ADVISORIES = 3  # named in a sentence
MOST_NAMES = 48  # letters of a node set in a sentence; a longer one is only counted there
RUN_ENDS = {"failed": (Level.BAD, "failed"), "cut off": (Level.WARN, "was cut off")}
_ENDS = {"stopped": "was stopped", "interrupted": "was interrupted"}
FIRST_STEPS = "headnode mirror sync && headnode build && headnode publish"


def judge(
    *,
    now: datetime,
    blades: Sequence[Blade],
    rings: Sequence[Ring],
    generations: Sequence[Generation],
    repos: Iterable[Repo],
    runs: Sequence[Run] = (),
    rollout: Rollout | None = None,
    advisories: Sequence[Advisory] = (),
    unread: Sequence[Unread] = (),
    problems: Iterable[Point] = (),
) -> Verdict:
    """The verdict on what was gathered; `problems` are what could not be."""
    points = [
        *problems,
        *_of_blades(blades, rings, now),
        *_of_rings(rings, now),
        *_of_repos(repos),
        *_of_runs(runs),
        *_of_rollout(rollout),
        *_of_publishing(generations),
        *_of_advisories(advisories),
        *_of_unread(unread),
    ]
    points.sort(key=lambda point: ORDER.index(point.level))
    level = points[0].level if points else Level.GOOD
    return Verdict(
        level=level, headline=_headline(blades, rings, generations), points=tuple(points)
    )


def _headline(
    blades: Sequence[Blade], rings: Sequence[Ring], generations: Sequence[Generation]
) -> str:
    total = len(blades)
    if not generations:
        return "Nothing was published yet."
    if all(each.health is Health.NEVER for each in blades):
        return f"No blade has reported yet; there are {total}."
    having = sum(each.generation is not None and each.generation == each.wanted for each in blades)
    offered = {each.generation for each in rings}
    what = f"generation {offered.pop()}" if len(offered) == 1 else "what their ring has"
    return (
        f"{'The blade has' if total == 1 else f'All {total} blades have'} {what}."
        if having == total
        else f"{having} of {counted(total, 'blade')} {'has' if having == 1 else 'have'} {what}."
    )


def _of_blades(blades: Sequence[Blade], rings: Iterable[Ring], now: datetime) -> Iterator[Point]:
    since = {(each.class_name, each.name): each.since for each in rings}
    behind = [each for each in blades if each.health is Health.BEHIND]
    late = [each for each in behind if _is_late(since.get((each.class_name, each.ring)), now)]
    waiting = [each for each in behind if each not in late]
    hours = f"{LATE.total_seconds() / 3600:.0f} hours"
    pull, undrain = "headnode rollout run --nodes", "headnode blades undrain"
    for health, level, said, remedy in (
        (Health.FAILED, Level.BAD, "failed to update", pull),
        (Health.UNREACHED, Level.WARN, "not reached", pull),
        (Health.DRAINED, Level.NOTE, "drained", undrain),
    ):
        yield from _point(level, [b for b in blades if b.health is health], said, remedy)
    unheard = [each for each in blades if each.health is Health.NEVER]
    if len(unheard) < len(blades):  # else the headline says it
        yield from _point(Level.NOTE, unheard, "never heard of", pull)
    yield from _point(Level.WARN, late, f"behind the ring for over {hours}", pull)
    yield from _point(Level.NOTE, waiting, "still to take what the ring has", "")
    pending = [each for each in blades if each.reboot_pending and each.health in PULLED]
    yield from _point(Level.NOTE, pending, "reboot pending", "headnode rollout reboot --nodes")


def _point(level: Level, found: Sequence[Blade], said: str, remedy: str) -> Iterator[Point]:
    """One point for all blades that something is to be said of."""
    if not found:
        return
    names = str(NodeSet.fromlist([each.name for each in found]))
    who = names if len(names) <= MOST_NAMES else f"{len(found)} blades"
    yield Point(
        level=level,
        text=f"{who}: {said}{_reasons(found)}.",
        remedy=f"{remedy} {names}" if remedy else "",
    )


def _is_late(since: datetime | None, now: datetime) -> bool:
    return since is not None and now - since > LATE


def _reasons(blades: Sequence[Blade]) -> str:
    """Why, the commonest reason first; without those that only say the same again."""
    notes = Counter(each.note for each in blades if each.note and each.health is not Health.BEHIND)
    if not notes:
        return ""
    (first, _), *others = notes.most_common()
    more = f", and {len(others)} other reasons" if others else ""
    return f" ({first}{more})"


def _is_expiring(ring: Ring, now: datetime) -> bool:
    """Whether a deployment should have been renewed long ago, with half of its time left."""
    if ring.expires is None or ring.issued is None:
        return False
    return ring.expires - now < min(EXPIRES_SOON, (ring.expires - ring.issued) / 4)


def _of_rings(rings: Iterable[Ring], now: datetime) -> Iterator[Point]:
    for ring in rings:
        if ring.expires is not None and _is_expiring(ring, now):
            when = f"{ring.expires:%Y-%m-%d %H:%M} UTC"
            past = ring.expires <= now
            yield Point(
                level=Level.BAD,
                text=f"Blades of the ring {ring.name} refuse its deployment "
                f"{'since' if past else 'from'} {when}{'' if past else ' on'}.",
                remedy="headnode serve renews deployments while it runs: look at what it logs.",
            )


def _of_repos(repos: Iterable[Repo]) -> Iterator[Point]:
    for repo in repos:
        if repo.warning:
            yield Point(
                level=Level.WARN, text=f"{repo.warning}.", remedy="headnode mirror sync --now"
            )


def _of_runs(runs: Sequence[Run]) -> Iterator[Point]:
    """The last run of each job, if it did not end well."""
    seen: set[str] = set()
    for run in runs:
        if run.step or run.job in seen or run.ended is None:
            continue
        seen.add(run.job)
        if run.result in RUN_ENDS:
            level, how = RUN_ENDS[run.result]
            why = f": {run.note.rstrip('.')}" if run.note else ""
            yield Point(
                level=level,
                text=f"The job {run.job} {how} on {run.ended:%Y-%m-%d %H:%M} UTC{why}.",
                remedy=f"headnode schedule run {run.job}",
            )


def _of_rollout(rollout: Rollout | None) -> Iterator[Point]:
    if rollout and rollout.ended and rollout.state != "done":
        said = f" ({rollout.note})" if rollout.note else ""
        yield Point(
            level=Level.BAD,
            text=f"The last rollout {_ENDS.get(rollout.state, rollout.state)}{said}.",
            remedy="headnode rollout status",
        )


def _of_publishing(generations: Sequence[Generation]) -> Iterator[Point]:
    if not generations:
        yield Point(level=Level.NOTE, text="No generation was published yet.", remedy=FIRST_STEPS)
    for each in generations[:1]:
        waived = [gate.name for gate in each.gates if gate.waived]
        if waived:
            yield Point(
                level=Level.NOTE,
                text=f"Generation {each.number} was let through although {', '.join(waived)} "
                "said no.",
                remedy=f"headnode generations show {each.number}",
            )


def _of_advisories(advisories: Sequence[Advisory]) -> Iterator[Point]:
    if advisories:
        names = ", ".join(f"GLSA-{each.name}" for each in advisories[:MOST_ADVISORIES])
        more = ", …" if len(advisories) > MOST_ADVISORIES else ""
        yield Point(
            level=Level.WARN,
            text=f"{counted(len(advisories), 'security advisory', 'security advisories')} about "
            f"what blades have: {names}{more}.",
            remedy="headnode security",
        )


def _of_unread(unread: Sequence[Unread]) -> Iterator[Point]:
    if unread:
        news = sum(each.kind == "news" for each in unread)
        kinds = {
            counted(news, "news item", "news items"): news,
            counted(len(unread) - news, "message of an ebuild", "messages of ebuilds"): len(unread)
            - news,
        }
        what = " and ".join(words for words, count in kinds.items() if count)
        yield Point(level=Level.NOTE, text=f"Unread: {what}.", remedy="headnode security --read")
