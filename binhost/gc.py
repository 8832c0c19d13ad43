"""What nothing needs any more is deleted; what a ring, a blade or a person may need is kept.

Kept is a generation that a ring has or had before its present one, that a ring left less than the
grace ago (a blade may still be merging from that index), that a blade reported, that has a tag, or
that is among the newest; a package that a kept generation or the last build names. The newest
generation and a ring's newest deployment always stay: their numbers are what the next ones grow
from. `pool/build-ids` is not touched: a name that is gone is never given again.

Killed anywhere, it leaves nothing offered that lacks its files, and the next one goes on from
there: deployments go before their generations, entries before their digests and these before their
files; a folder is renamed to a name that nobody reads (`.7.gone`) before it is emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from binhost.pool import Pool, remove_package
from binhost.publish import Binhost
from binhost.records import BuildResult, Deployment, read
from binhost.tags import names_of, read_tags
from headnode.files import drop_retired, locked, remove_tree, retire
from headnode.wording import counted

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much is kept: the `newest` generations (at least 1), and what a ring left since `grace`.

    `reported` are the generations that blades last said they have.
    """

    newest: int
    grace: timedelta
    reported: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RingState:
    """A ring as a plan sees it: its deployments, oldest first, and the sequence that it has."""

    name: str
    deployments: tuple[Deployment, ...]
    current: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Everything that there is. `files` are the pool's, name -> bytes; `built` the last build's."""

    generations: Mapping[int, Collection[str]]
    rings: tuple[RingState, ...]
    tags: Mapping[str, int]
    files: Mapping[str, int]
    built: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes, and why each generation that stays does. `deployments` are (ring, sequence).

    `images` are of trees, and the caller's to delete: name -> bytes, as `files` of packages.
    """

    kept: Mapping[int, tuple[str, ...]]
    generations: tuple[int, ...] = ()
    deployments: tuple[tuple[str, int], ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What the files of packages that go come to."""
        return sum(self.files.values())

    def folders(self, binhost: Binhost) -> set[Path]:
        """The folders of the generations and deployments that go."""
        return {
            *(binhost.generations.folder / str(number) for number in self.generations),
            *(
                binhost.ring(ring).folder / "deployments" / str(sequence)
                for ring, sequence in self.deployments
            ),
        }

    def lines(self) -> Iterable[str]:
        """The plan as a person reads it: a line for each thing that stays or goes."""
        for number, reasons in sorted(self.kept.items()):
            yield f"keep generation {number}: {', '.join(reasons)}"
        for ring, sequence in self.deployments:
            yield f"delete deployment {sequence} of ring {ring}"
        for number in self.generations:
            yield f"delete generation {number}"
        for name, size in self.files.items():
            yield f"delete package {name} ({size} bytes)"
        for name, size in self.images.items():
            yield f"delete image {name} ({size} bytes)"
        yield (
            f"{counted(len(self.generations), 'generation')}, "
            f"{counted(len(self.deployments), 'deployment')} and "
            f"{counted(len(self.files), 'package')} ({self.size_bytes} bytes) go; "
            f"{counted(len(self.kept), 'generation')} stay."
        )


def plan(have: Holdings, policy: Policy, *, now: datetime) -> Plan:
    """Decide what goes. Pure."""
    kept = _kept(have, policy, now)
    needed = set(have.built).union(*(have.generations[number] for number in kept))
    return Plan(
        kept=kept,
        generations=tuple(sorted(have.generations.keys() - kept.keys())),
        deployments=tuple(
            (ring.name, each.sequence)
            for ring in have.rings
            for each in ring.deployments[:-1]
            if each.generation not in kept and each.sequence != ring.current
        ),
        files={name: size for name, size in sorted(have.files.items()) if name not in needed},
    )


def _kept(have: Holdings, policy: Policy, now: datetime) -> dict[int, tuple[str, ...]]:
    reasons: dict[int, list[str]] = {number: [] for number in have.generations}

    def keep(number: int, why: str) -> None:
        if number in reasons:
            reasons[number].append(why)

    for ring in have.rings:
        for number, why in _ring_needs(ring, have.generations, policy.grace, now):
            keep(number, why)
    for number in sorted(policy.reported):
        keep(number, "a blade reported it")
    for number in have.generations:
        for name in names_of(have.tags, number):
            keep(number, f"tag {name}")
    for number in sorted(have.generations)[-max(1, policy.newest) :]:
        keep(number, "among the newest")
    return {number: tuple(dict.fromkeys(why)) for number, why in reasons.items() if why}


def _ring_needs(
    ring: RingState, known: Collection[int], grace: timedelta, now: datetime
) -> Iterable[tuple[int, str]]:
    """The generations that a ring needs, each with why."""
    by_sequence = {each.sequence: each for each in ring.deployments}
    if ring.current is not None and (current := by_sequence.get(ring.current)):
        yield current.generation, f"ring {ring.name} has it"
        had = {each.generation for each in ring.deployments}
        older = [each for each in had if each < current.generation and each in known]
        if older:
            yield max(older), f"ring {ring.name} can go back to it"
    for each, following in zip(ring.deployments, ring.deployments[1:], strict=False):
        if now - following.issued < grace:
            yield each.generation, f"ring {ring.name} left it less than the grace ago"
    if ring.deployments:
        yield ring.deployments[-1].generation, f"ring {ring.name}'s newest deployment is of it"


def gc(
    binhost: Binhost,
    policy: Policy,
    *,
    now: datetime,
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Plan:
    """Delete what nothing needs, and return what that was; with `dry_run`, what it would be.

    `on_progress` is told how many packages of how many are gone.

    Raises:
        BusyError: a publish is at work, or a build, which installs from the pool.
        PublishError: a record is damaged, so that it cannot be told what is needed.
    """
    with ExitStack() as held:
        held.enter_context(locked(binhost.lock, "headnode generations gc"))
        held.enter_context(locked(binhost.build_folder / ".lock", "headnode generations gc"))
        decided = plan(holdings(binhost), policy, now=now)
        if not dry_run:
            run(binhost, decided, on_progress)
        return decided


def holdings(binhost: Binhost) -> Holdings:
    """Look at everything that there is.

    Raises:
        PublishError: a record is damaged.
    """
    generations = [binhost.generations.read(each) for each in binhost.generations.numbers()]
    pool = binhost.pool
    named = pool.files() | pool.entries().keys()
    return Holdings(
        generations={each.number: each.packages.keys() for each in generations},
        rings=tuple(_ring_state(binhost, ring.name) for ring in binhost.rings()),
        tags=read_tags(binhost.folder),
        files={name: _size(pool.folder / name) for name in named},
        built=_last_built(binhost),
    )


def _ring_state(binhost: Binhost, name: str) -> RingState:
    ring = binhost.ring(name)
    current = ring.current()
    return RingState(
        name=name,
        deployments=tuple(ring.deployment(each) for each in ring.sequences()),
        current=current.sequence if current else None,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_built(binhost: Binhost) -> frozenset[str]:
    """The packages of the last build: the next publish looks for them."""
    path = binhost.build_folder / "result.json"
    return frozenset(read(path, BuildResult).packages) if path.exists() else frozenset()


def run(
    binhost: Binhost, decided: Plan, on_progress: OnProgress = lambda done, total: None
) -> None:
    """Delete what a plan says. The caller holds the locks."""
    for ring, sequence in decided.deployments:
        retire(binhost.ring(ring).folder / "deployments" / str(sequence))
    for number in decided.generations:
        retire(binhost.generations.folder / str(number))
    for folder in (binhost.generations.folder, *binhost.folder.glob("rings/*/deployments")):
        drop_retired(folder)
        for litter in folder.glob(".*.new"):  # of a publish that was killed
            remove_tree(litter)
    _drop_packages(binhost.pool, decided.files, on_progress)


def _drop_packages(pool: Pool, names: Collection[str], on_progress: OnProgress) -> None:
    pool.index.clear_litter()
    for litter in pool.folder.glob("*/*/.*"):  # of a repair that was killed
        litter.unlink()
    if not names:
        return
    pool.index.drop(set(names))
    for number, name in enumerate(names, 1):
        on_progress(number, len(names))
        remove_package(pool.folder / name)
