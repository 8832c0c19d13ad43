"""What a status is: facts about a cluster at one moment, frozen, as they go out as JSON.

None, or an empty tuple, is "never": it did not happen yet, or nobody keeps a record of it. Times
are aware and UTC, durations in seconds. Text is made plain (`headnode.status.plain`) as it comes
in, wherever it is from: a `Line` is one line, a `Text` several, a `Log` the end of many.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from headnode.status.plain import plain, plain_line, plain_log

Line = Annotated[str, AfterValidator(plain_line)]
Text = Annotated[str, AfterValidator(plain)]
Log = Annotated[str, AfterValidator(plain_log)]


class Fact(BaseModel):
    """A part of a status."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Health(StrEnum):
    """How a blade is; the first that holds, from the top."""

    DRAINED = "drained"  # taken out of rollouts by the administrator
    PULLING = "pulling"  # at it just now
    FAILED = "failed"  # its last pull failed
    UNREACHED = "unreached"  # it did not answer, or not in time
    BEHIND = "behind"  # it has another generation than its ring
    GOOD = "good"  # it has what its ring has
    NEVER = "never"  # nothing was ever heard of it


class Pull(Fact):
    """One pull of a blade: when it ended, `result` in the rollout's words, what came of it.

    `generation` is the one that the blade was to have, `changes` what came (`+…`) and went (`-…`),
    `source_builds` how many of those were not the headnode's packages.
    """

    at: datetime
    result: Line
    good: bool
    generation: int | None = None
    packages: int | None = None
    source_builds: int | None = None
    fetched_bytes: int | None = None
    seconds: float = 0.0
    changes: tuple[Line, ...] = ()
    error: Line = ""


class Blade(Fact):
    """A blade: `generation` is what it has, as far as is known, `wanted` what its ring has.

    `seen` is when it last answered, `kernel` what it runs and `kernel_due` what it is to boot
    (`reboot_pending`: another), `note` why it is as it is.
    """

    name: Line
    class_name: Line
    ring: Line
    health: Health
    generation: int | None = None
    wanted: int | None = None
    seen: datetime | None = None
    kernel: Line = ""
    kernel_due: Line = ""
    reboot_pending: bool = False
    note: Line = ""


class BladeDetail(Fact):
    """Everything about one blade: its pulls, newest first, and the log of the last one."""

    blade: Blade
    pulls: tuple[Pull, ...]
    log: Log


class Ring(Fact):
    """A ring: what is in front of it since when, and how many of its blades have it.

    `pulled` are the blades that have it, `issued` is when its deployment was made, which a renewal
    does anew, `expires` when blades would refuse that (None: nothing is signed, or the ring has
    nothing).
    """

    class_name: Line
    name: Line
    nodes: Text
    generation: int | None
    sequence: int | None
    since: datetime | None
    issued: datetime | None
    expires: datetime | None
    blades: int
    pulled: int


class Gate(Fact):
    """What one gate said of a generation; `waived` is why it was let through all the same."""

    name: Line
    passed: bool
    waived: Line
    report: Text


class Counts(Fact):
    """How many packages differ from the generation before, by what became of them."""

    added: int = 0
    removed: int = 0
    up: int = 0
    down: int = 0
    rebuilt: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.added + self.removed + self.up + self.down + self.rebuilt


class Generation(Fact):
    """A generation in short. `changes` is against `before` (None: it is the first that is kept)."""

    class_name: Line
    number: int
    made: datetime
    why: Line
    packages: int
    rings: tuple[Line, ...]
    tags: tuple[Line, ...]
    before: int | None
    changes: Counts
    news: tuple[Line, ...]  # the first few of the packages that differ, as `name old → new`
    gates: tuple[Gate, ...]


class Change(Fact):
    """A package that differs between two generations; `kind` in the words of `binhost.diff`."""

    name: Line
    slot: Line
    kind: Line
    old: Line
    new: Line
    why: tuple[Line, ...]


class FileChange(Fact):
    """A file of the configuration that differs, with its unified diff."""

    path: Line
    kind: Line
    text: Text


class GenerationDetail(Fact):
    """A generation with everything that differs from the one before it."""

    generation: Generation
    changes: tuple[Change, ...]
    trees: tuple[tuple[Line, Line, Line], ...]  # repository, old snapshot, new snapshot
    configuration: tuple[FileChange, ...]
    atoms_added: tuple[Line, ...]
    atoms_removed: tuple[Line, ...]


class Repo(Fact):
    """A repository of the mirror; `warning` says why it is stale, empty while it is not.

    `age_h` is the tree's, in hours; `percent` how far a sync that runs just now is.
    """

    name: Line
    snapshot: Line | None
    age_h: float | None
    last_good: datetime | None
    last_try: datetime | None
    warning: Line
    percent: int | None = None
    eta_s: int | None = None


class Job(Fact):
    """A package that is being built: its phase in Portage's words, and for how long."""

    package: Line
    phase: Line
    seconds: float | None


class Build(Fact):
    """A class's builder: what it does now, and what the last good build was.

    `holder` is who is at work in it (empty: nobody); `done` of `total` packages and the `jobs` are
    those of the emerge that runs, `lines` its last lines.
    """

    class_name: Line
    holder: Line = ""
    done: int | None = None
    total: int | None = None
    jobs: tuple[Job, ...] = ()
    lines: tuple[Line, ...] = ()
    finished: datetime | None = None
    seconds: float | None = None
    built: int | None = None
    packages: int | None = None


class Run(Fact):
    """Something that was done, by the schedule or by hand; `ended` None: it is at work."""

    id: Line
    job: Line
    step: Line
    started: datetime
    ended: datetime | None
    result: Line
    note: Line = ""


class NextRun(Fact):
    """When a job is due."""

    job: Line
    at: datetime
    note: Line = ""


class Wave(Fact):
    """A wave of a rollout: `pending`, `running` or `done`, and its blades."""

    number: int
    ring: Line
    state: Line
    blades: int
    good: int
    failed: int


class Rollout(Fact):
    """The rollout that runs, or the last one."""

    id: Line
    state: Line
    started: datetime
    ended: datetime | None
    note: Line
    waves: tuple[Wave, ...]


class Helper(Fact):
    """A machine that compiles for the headnode: how many objects of the last build it made.

    `well`: it took part and finished what it took; `note` says why not.
    """

    name: Line
    slots: int
    jobs: int
    well: bool
    note: Line = ""


class Advisory(Fact):
    """A security advisory (GLSA) about what blades have; `nodes` are the blades that have it.

    `severity` is its impact in the advisory's words; of one that cannot be read (`title` says why)
    nobody knows what it affects.
    """

    class_name: Line
    name: Line
    severity: Line
    title: Line
    packages: tuple[Line, ...] = ()
    generations: tuple[int, ...] = ()
    rings: tuple[Line, ...] = ()
    nodes: Line = ""
    fixed: tuple[Line, ...] = ()


class Unread(Fact):
    """A news item of the tree, or what an ebuild said when it was built, that nobody has read.

    `about` is the item's date, or the package. Once for the fleet.
    """

    class_name: Line
    kind: Line  # "news" or "message"
    name: Line
    about: Line
    title: Line
    text: Text


class Level(StrEnum):
    """How urgent something is."""

    GOOD = "good"
    NOTE = "note"
    WARN = "warn"
    BAD = "bad"


class Point(Fact):
    """Something that wants a look, and what to do about it (empty: nothing is to be done)."""

    level: Level
    text: Line
    remedy: Text = ""


class Verdict(Fact):
    """What it comes to: the worst level, one sentence, and the points behind it, worst first."""

    level: Level
    headline: Line
    points: tuple[Point, ...]


class Status(Fact):
    """A cluster at one moment. Generations and runs come newest first."""

    version: Line
    now: datetime
    host: Line
    verdict: Verdict
    classes: tuple[Line, ...]
    blades: tuple[Blade, ...]
    rings: tuple[Ring, ...]
    generations: tuple[Generation, ...]
    repos: tuple[Repo, ...]
    builds: tuple[Build, ...]
    runs: tuple[Run, ...]
    next_runs: tuple[NextRun, ...]
    rollout: Rollout | None
    helpers: tuple[Helper, ...]
    advisories: tuple[Advisory, ...] = ()
    unread: tuple[Unread, ...] = ()
