"""What a build, a generation and a deployment say of themselves, as JSON on disk and over HTTP."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from headnode.errors import PublishError
from headnode.files import write_atomic


class Record(BaseModel):
    """JSON that is read back strictly: a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Configuration(Record):
    """A class's Portage configuration that packages were built with: path -> text, and links."""

    files: dict[str, str]
    links: dict[str, str]


class BuildResult(Record):
    """A finished build: everything that a generation can be made of.

    `packages` are pool names (`cat/pn/pf-id.gpkg.tar`) of the whole closure of @blade, whether
    built just now or before; `built` those of this run. `snapshots` is the id of the snapshot set.
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


class GateReport(Record):
    """What one gate found, in plain words.

    `warns` is something that whoever publishes must know although it holds nothing up; `waived` is
    why it was let through all the same.
    """

    gate: str
    passed: bool
    report: str
    warns: bool = False
    waived: str = ""

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


class Deployment(Record):
    """A generation in front of a ring. What a pull compares with what it has applied.

    `sequence` only grows for a ring; `timestamp` (seconds since the epoch) is the index's. A blade
    refuses it after `expires`, and trusts the `keys` (fingerprints) from it on; none where nothing
    is signed. `repos` names the repositories that go with it, `sha256` the digest of each file
    beside it, `gates` what the ring's move to it had to pass, if it was not the first to have it.
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
