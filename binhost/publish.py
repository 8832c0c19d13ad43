"""Publishing: what was built becomes a generation, and a ring gets it.

The order is what makes it safe to be killed anywhere: packages into the pool, their entries, the
generation, the deployment, one rename, and only then is the staging folder emptied. Run again, each
step finds what is there already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from binhost.generations import Generations
from binhost.pool import Pool, clear_staging
from binhost.records import BuildResult, Deployment, Generation, read
from binhost.rings import Ring, check_files
from headnode.errors import BusyError, PublishError
from headnode.files import locked

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binhost:
    """A class's folders: what is published (`folder`) and what is built (`build_folder`)."""

    class_name: str
    folder: Path
    build_folder: Path
    pool_url: str

    @property
    def pool(self) -> Pool:
        """Every published package."""
        return Pool(folder=self.folder / "pool")

    @property
    def generations(self) -> Generations:
        """Every generation."""
        return Generations(folder=self.folder / "generations")

    @property
    def staging(self) -> Path:
        """Packages that were built and not published yet."""
        return self.build_folder / "staging"

    def ring(self, name: str) -> Ring:
        """The ring of that name."""
        return Ring(folder=self.folder / "rings" / name, class_name=self.class_name, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publish came to. `deployment` is the ring's, whether `moved` or as it was."""

    generation: Generation
    deployment: Deployment
    new_packages: tuple[str, ...]
    moved: bool


ReposOf = Callable[[str], Mapping[str, Path]]


def publish(
    binhost: Binhost, ring_name: str, *, why: str, now: datetime, repos_of: ReposOf
) -> Published:
    """Make a generation of the last build and put it in front of a ring.

    `repos_of` gives the snapshots (name -> folder) of a snapshot set. Nothing changed: nothing is
    written.

    Raises:
        PublishError: nothing was built yet, or a package is not what it must be; the ring is as it
            was.
        BusyError: another publish is at work.
    """
    with locked(binhost.folder / ".lock", "headnode publish"):
        result = _last_build(binhost)
        known = binhost.pool.entries()
        entries = binhost.pool.add(binhost.staging, result.packages, known)
        generation = binhost.generations.make(result, entries, why=why, now=now)
        published = deploy(binhost, ring_name, generation, now=now, repos_of=repos_of)
        _clear_staging(binhost, entries)
        return Published(
            generation=generation,
            deployment=published.deployment,
            new_packages=tuple(name for name in result.packages if name not in known),
            moved=published.moved,
        )


def _last_build(binhost: Binhost) -> BuildResult:
    path = binhost.build_folder / "result.json"
    if not path.exists():
        raise PublishError("Nothing was built yet.", remedy="Run headnode build first.")
    return read(path, BuildResult)


def _clear_staging(binhost: Binhost, published: Container[str]) -> None:
    """Empty the staging folder, unless emerge is at work in it: the next publish does it then."""
    try:
        with locked(binhost.build_folder / ".lock", "headnode publish"):
            clear_staging(binhost.staging, published)
    except BusyError as error:
        log.info("The staging folder is left as it is: %s", error.what)


def deploy(
    binhost: Binhost, ring_name: str, generation: Generation, *, now: datetime, repos_of: ReposOf
) -> Published:
    """Put a generation in front of a ring, unless the ring has it already.

    It does not have it if its index sends blades to another address than the headnode has now.
    """
    ring = binhost.ring(ring_name)
    current = ring.current()
    same = current is not None and current.generation == generation.number
    if current is not None and same and ring.pool_url() == binhost.pool_url:
        return Published(generation=generation, deployment=current, new_packages=(), moved=False)
    entries = binhost.generations.entries(generation)
    check_files(binhost.pool.folder, entries)
    deployment = ring.deploy(
        generation,
        entries,
        repos=repos_of(generation.snapshots),
        pool_url=binhost.pool_url,
        now=now,
    )
    return Published(generation=generation, deployment=deployment, new_packages=(), moved=True)


def promote(
    binhost: Binhost, ring_name: str, number: int | None, *, now: datetime, repos_of: ReposOf
) -> Published:
    """Put generation `number` (None: the newest) in front of a ring.

    Raises:
        PublishError: there is no such generation.
    """
    with locked(binhost.folder / ".lock", "headnode promote"):
        newest = binhost.generations.latest()
        if newest is None:
            raise PublishError("There is no generation yet.", remedy="headnode publish makes one.")
        generation = newest if number is None else binhost.generations.read(number)
        return deploy(binhost, ring_name, generation, now=now, repos_of=repos_of)
