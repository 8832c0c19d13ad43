"""What a build, a generation and a deployment say of themselves, as JSON on disk and over HTTP."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ClusterShell.NodeSet import NodeSet
from pydantic import BaseModel, ConfigDict, ValidationError

from headnode.errors import PublishError
from headnode.files import write_atomic
from headnode.wording import counted


class Record(BaseModel):
    """JSON that is read back strictly: a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Configuration(Record):
    """A class's Portage configuration that packages were built with: path -> text, and links."""

    files: dict[str, str]
    links: dict[str, str]


class Distributed(Record):
    """How the compiling of a build was spread over helpers.

    `jobs` are the objects that each helper made, `failures` the jobs that each took and did not
    finish; `left_out` are helpers that were not used, with the reason. `local` objects were made by
    the headnode without asking a helper, `fallbacks` after helpers had failed; `faulty` sources no
    compiler takes. `mode` is `plain` or `pump`, and `pump` why that was asked for and not used;
    `unpumped` objects were preprocessed by the headnode all the same.
    """

    jobs: dict[str, int]
    failures: dict[str, int]
    left_out: dict[str, str]
    local: int
    fallbacks: int
    faulty: int
    mode: str
    pump: str = ""
    unpumped: int = 0
    make_options: str = ""

    @property
    def sent(self) -> int:
        """Objects that helpers made."""
        return sum(self.jobs.values())

    def summary(self) -> str:
        """Who compiled how much, in one line."""
        if not self.jobs:
            return "No helper: the headnode compiled alone."
        each = ", ".join(f"{name} {count}" for name, count in self.jobs.items())
        return (
            f"Compiled by helpers: {self.sent} ({each}); by the headnode: {self.local}, and "
            f"{self.fallbacks} that a helper had failed."
        )

    def warnings(self) -> tuple[str, ...]:
        """What whoever started the build must not miss."""
        found = []
        if self.pump:
            found.append(f"pump mode does not work and was not used: {self.pump}.")
        if self.unpumped:
            found.append(
                f"pump mode: the headnode preprocessed {self.unpumped} of {self.sent} all the same."
            )
        if not self.jobs and self.left_out:
            found.append("no helper could be used, the headnode compiled alone.")
        if self.jobs and not self.sent and self.local + self.fallbacks:
            found.append(
                f"{NodeSet.fromlist(list(self.jobs))} could have helped, and not one of "
                f"{counted(self.local + self.fallbacks, 'compile job')} came back from there: look "
                "into the build's logs/distcc/log."
            )
        return tuple(found)


class BuildResult(Record):
    """A finished build: everything that a generation can be made of.

    `packages` are pool names (`cat/pn/pf-id.gpkg.tar`) of the whole closure of @blade, whether
    built just now or before; `built` those of this run. `snapshots` is the id of the snapshot set.
    `distributed` is there where something was built and helpers are configured.
    """

    class_name: str
    snapshots: str
    atoms: tuple[str, ...]
    header: dict[str, str]
    packages: tuple[str, ...]
    built: tuple[str, ...]
    configuration: Configuration
    blade: Configuration | None = None
    finished: datetime
    seconds: float
    distributed: Distributed | None = None


class GateReport(Record):
    """What one gate found, in plain words.

    `warns` is something that whoever publishes must know although it holds nothing up; `waived` is
    why it was let through all the same. `seconds`: how long it took to answer.
    """

    gate: str
    passed: bool
    report: str
    warns: bool = False
    waived: str = ""
    seconds: float = 0.0

    @property
    def lets_through(self) -> bool:
        """Whether it holds nothing up."""
        return self.passed or bool(self.waived)


class Generation(Record):
    """One complete state of what blades of a class install. Immutable once its folder is there.

    `packages` are pool names with the SHA-256 of their content; `entries_sha256` is the digest of
    the file `entries` beside it; `parent` the generation it was made after, if any; `gates` what it
    had to pass. `configuration` is what the packages were built with, `blade` what blades have in
    /etc/portage with them (None: made before generations had it, blades keep theirs).
    """

    number: int
    class_name: str
    parent: int | None
    made: datetime
    why: str
    snapshots: str
    atoms: tuple[str, ...]
    header: dict[str, str]
    packages: dict[str, str]
    configuration: Configuration
    blade: Configuration | None = None
    entries_sha256: str
    gates: tuple[GateReport, ...] = ()


class TreeImage(Record):
    """A snapshot set as blades mount it: /images/<sha256>.squashfs."""

    kind: str
    sha256: str
    size_bytes: int


class Deployment(Record):
    """A generation in front of a ring. What a pull compares with what it has applied.

    `sequence` only grows for a ring; `timestamp` (seconds since the epoch) is the index's. A blade
    refuses it after `expires`, and trusts the `keys` (fingerprints) from it on; none where nothing
    is signed. `repos` names the repositories that go with it, `image` is what blades have them of
    (None: they sync by rsync), `sha256` the digest of each file beside it, `gates` what the ring's
    move to it had to pass, if it was not the first to have it.
    """

    class_name: str
    ring: str
    sequence: int
    generation: int
    issued: datetime
    expires: datetime
    timestamp: int
    keys: tuple[str, ...]
    snapshots: str
    repos: tuple[str, ...]
    image: TreeImage | None = None
    atoms: tuple[str, ...]
    sha256: dict[str, str]
    gates: tuple[GateReport, ...] = ()


AnyRecord = TypeVar("AnyRecord", bound=Record)


def save(path: Path, record: Record) -> None:
    """Write `record` as JSON in one rename."""
    write_atomic(path, to_json(record))


def to_json(record: Record) -> str:
    """The text of `record` as it lies on disk."""
    return record.model_dump_json(indent=1) + "\n"


def read(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """The record at `path`.

    Raises:
        PublishError: it is not there, or is no such record.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PublishError(f"There is no {path}.") from None
    except ValidationError as error:
        raise PublishError(f"{path} is damaged: {error}.") from error
