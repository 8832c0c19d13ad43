"""Publishing: what was built becomes a generation, and a ring gets it.

The order is what makes it safe to be killed anywhere: packages are signed in staging and enter the
pool, then their entries (`binhost.intake`); the gates are asked; then the generation, the
deployment, one rename, and only then is the staging folder emptied. Run again, each step finds what
is there already.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from binhost.gates import NO_WAIVERS, Gates, Move, MoveKind, Waivers, no_gates, pass_gates
from binhost.generations import Generations, same_state
from binhost.intake import take_in
from binhost.keys import Keys
from binhost.pool import Pool, clear_staging, package_names
from binhost.records import BuildResult, Deployment, Generation, TreeImage, read
from binhost.rings import Ring, check_files, is_stale
from binhost.signing import Signer
from headnode.errors import BusyError, PublishError
from headnode.files import locked

log = logging.getLogger(__name__)

ReposOf = Callable[[str], Mapping[str, Path]]
ImageOf = Callable[[str], TreeImage | None]

BladeOf = Callable[[str, Generation], str | None]


def no_image(set_id: str) -> None:
    """What a class has whose blades sync by rsync."""


def no_blade(ring: str, generation: Generation) -> None:
    """Say nothing of what blades are to be like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binhost:
    """A class's folders: what is published (`folder`) and what is built (`build_folder`).

    `pool_url` is where blades find the pool; `repos_of` gives the snapshots (name -> folder) of a
    snapshot set, `image_of` those as one image, which it makes if need be, `blade_of` what the
    blades of a ring are to be like with a generation. With `keys`, packages and deployments are
    signed, and blades refuse a deployment when `valid` is over.
    """

    class_name: str
    folder: Path
    build_folder: Path
    pool_url: str
    repos_of: ReposOf
    image_of: ImageOf = no_image
    keys: Keys | None
    valid: timedelta
    blade_of: BladeOf = no_blade

    @property
    def signer(self) -> Signer | None:
        """What signs; None where nothing is signed.

        Raises:
            PublishError: there is no key to sign with.
        """
        return Signer.of(self.keys) if self.keys else None

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

    @property
    def lock(self) -> Path:
        """What whoever changes anything here holds."""
        return self.folder / ".lock"

    def rings(self) -> list[Ring]:
        """Every ring that anything was ever put in front of, configured or not any more."""
        folders = sorted(self.folder.glob("rings/*"))
        return [self.ring(path.name) for path in folders if path.is_dir()]

    def ring(self, name: str) -> Ring:
        """The ring of that name."""
        return Ring(folder=self.folder / "rings" / name, class_name=self.class_name, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asks for: which ring, why, when, and what has to be passed.

    The deployment's sequence is above `above`, which blades saw before the state folder was lost.
    `earlier` are the rings that a generation comes to first.
    """

    ring: str
    now: datetime
    earlier: tuple[str, ...] = ()
    why: str = ""
    above: int = 0
    gates: Gates = no_gates
    waivers: Waivers = NO_WAIVERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publish came to. `deployment` is the ring's, whether `moved` or as it was.

    `left` is the newest generation, if the ring went back from it and there is nothing newer.
    """

    generation: Generation
    deployment: Deployment
    new_packages: tuple[str, ...]
    moved: bool
    left: int | None = None


def publish(binhost: Binhost, order: Order) -> Published:
    """Make a generation of the last build and put it in front of a ring.

    Nothing changed: nothing is written, and no gate is asked. Nor is a ring given anew what it went
    back from: that is `promote`'s, and somebody's decision.

    Raises:
        PublishError: nothing was built yet, a package is not what it must be, or a gate holds it
            up (GateError); the ring is as it was.
        BusyError: another publish is at work.
    """
    with locked(binhost.folder / ".lock", "headnode publish"):
        result, latest = _last_build(binhost), binhost.generations.latest()
        if (as_it_was := _nothing_new(binhost, order, result, latest)) is not None:
            return as_it_was
        taken = take_in(
            result,
            latest,
            staging=binhost.staging,
            pool=binhost.pool,
            generations=binhost.generations,
            find_signer=lambda: binhost.signer,
        )
        entries, sha256 = taken.entries, taken.stock.sha256
        generation = binhost.generations.propose(
            result, sha256, entries, latest=latest, why=order.why, now=order.now
        )
        present = _present(binhost, order.ring, latest)
        move = _move(binhost, order, MoveKind.PROMOTE, present, generation, entries)
        if latest is None or generation.number != latest.number:
            move = replace(move, kind=MoveKind.PUBLISH, new=frozenset(taken.new))
            with binhost.generations.writing(generation.number, entries) as put:
                reports = pass_gates(move, order.gates, order.waivers)
                generation = generation.model_copy(update={"gates": reports})
                put(generation)
            move = replace(move, generation=generation)
        published = replace(_bring(binhost, order, move, taken.signer), new_packages=taken.new)
        _clear_staging(binhost, sha256)
        return published


def _nothing_new(
    binhost: Binhost, order: Order, result: BuildResult, latest: Generation | None
) -> Published | None:
    """What a publish comes to whose ring has it all, without a look into the pool."""
    ring = binhost.ring(order.ring)
    current = ring.current()
    if latest is None or current is None:
        return None
    if current.generation != latest.number:
        if not same_state(latest, result) or not ring.went_back_from(latest.number):
            return None
        has = binhost.generations.read(current.generation)
        return Published(
            generation=has, deployment=current, new_packages=(), moved=False, left=latest.number
        )
    if not same_state(latest, result) or not _is_good(binhost, ring, current, order.now):
        return None
    if not package_names(binhost.staging).isdisjoint(result.packages):
        return None
    _clear_staging(binhost, ())
    return Published(generation=latest, deployment=current, new_packages=(), moved=False)


def _present(binhost: Binhost, ring: str, latest: Generation | None) -> Generation | None:
    """The generation that a ring has, if it has any."""
    current = binhost.ring(ring).current()
    if current is None:
        return None
    if latest is not None and latest.number == current.generation:
        return latest
    return binhost.generations.read(current.generation)


def _move(
    binhost: Binhost,
    order: Order,
    kind: MoveKind,
    present: Generation | None,
    generation: Generation,
    entries: Mapping[str, str],
) -> Move:
    return Move(
        kind=kind,
        class_name=binhost.class_name,
        ring=order.ring,
        present=present,
        generation=generation,
        entries=entries,
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


def _bring(binhost: Binhost, order: Order, move: Move, signer: Signer | None = None) -> Published:
    """Put a generation in front of a ring, unless the ring has it already.

    It does not have it if its index sends blades to another address than the headnode has now, if
    its trees are to come in another way or its blades are to be otherwise, or if its time is half
    over. What was published just now has passed its gates; any other move is examined here.
    `signer` is the binhost's, if that is at hand.
    """
    ring = binhost.ring(move.ring)
    current = ring.current()
    same = current is not None and current.generation == move.generation.number
    if (
        current is not None
        and same
        and current.sequence > order.above
        and _is_good(binhost, ring, current, order.now)
    ):
        return Published(
            generation=move.generation, deployment=current, new_packages=(), moved=False
        )
    check_files(binhost.pool.folder, _newly_offered(move))
    examined = move.kind is not MoveKind.PUBLISH and not same
    reports = pass_gates(move, order.gates, order.waivers) if examined else ()
    deployment = ring.deploy(
        move.generation,
        move.entries,
        repos=binhost.repos_of(move.generation.snapshots),
        image=binhost.image_of(move.generation.snapshots),
        pool_url=binhost.pool_url,
        gates=reports,
        above=order.above,
        signer=signer or binhost.signer,
        valid=binhost.valid,
        now=order.now,
        blade=binhost.blade_of(move.ring, move.generation),
    )
    return Published(generation=move.generation, deployment=deployment, new_packages=(), moved=True)


def _sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _is_good(binhost: Binhost, ring: Ring, current: Deployment, now: datetime) -> bool:
    trusted = binhost.keys.trusted() if binhost.keys else ()
    return (
        ring.pool_url() == binhost.pool_url
        and current.image == binhost.image_of(current.snapshots)
        and current.sha256.get("blade.json") == _sha256(_blade_now(binhost, ring, current))
        and not is_stale(current, trusted=trusted, valid=binhost.valid, now=now)
    )


def _blade_now(binhost: Binhost, ring: Ring, current: Deployment) -> str | None:
    """What the blades of a ring would be told to be like, were it deployed anew."""
    return binhost.blade_of(ring.name, binhost.generations.read(current.generation))


def renew(binhost: Binhost, order: Order) -> Published | None:
    """Make a ring's deployment anew before blades refuse it; None if the ring has nothing.

    Raises:
        BusyError: a publish is at work.
    """
    with locked(binhost.folder / ".lock", "headnode serve"):
        current = binhost.ring(order.ring).current()
        if current is None:
            return None
        generation = binhost.generations.read(current.generation)
        return _bring_known(binhost, order, MoveKind.PROMOTE, generation)


def _newly_offered(move: Move) -> dict[str, str]:
    """The entries of what the ring does not offer yet; the integrity gate looks at all of them."""
    offered = move.present.packages if move.present else {}
    return {name: move.entries[name] for name in move.generation.packages.keys() - offered.keys()}


def promote(binhost: Binhost, order: Order, number: int | None) -> Published:
    """Put generation `number` (None: the newest) in front of a ring.

    Raises:
        PublishError: there is no such generation, a gate holds it up (GateError), or it is the
            newest, nobody named it, and an earlier ring went back from it.
        BusyError: another publish is at work.
    """
    with locked(binhost.folder / ".lock", "headnode promote"):
        newest = binhost.generations.latest()
        if newest is None:
            raise PublishError("There is no generation yet.", remedy="headnode publish makes one.")
        if number is None:
            _require_nobody_went_back(binhost, newest.number, order)
        generation = newest if number is None else binhost.generations.read(number)
        return _bring_known(binhost, order, MoveKind.PROMOTE, generation)


def _require_nobody_went_back(binhost: Binhost, number: int, order: Order) -> None:
    for name in order.earlier:
        if binhost.ring(name).went_back_from(number):
            raise PublishError(
                f"The newest generation, {number}, is one that the ring {name} went back from.",
                remedy=f"Name the one that {order.ring} is to have: headnode promote GENERATION "
                f"--ring {order.ring}.",
            )


def rollback(binhost: Binhost, order: Order, number: int | None) -> Published:
    """Put an older generation (None: the one that the ring had before) in front of a ring.

    Raises:
        PublishError: there is none, or a gate holds it up (GateError): above all that a blade in
            the lab found no way back.
        BusyError: another publish is at work.
    """
    with locked(binhost.folder / ".lock", "headnode rollback"):
        target = binhost.ring(order.ring).before() if number is None else number
        generation = binhost.generations.read(target)
        return _bring_known(binhost, order, MoveKind.ROLLBACK, generation)


def _bring_known(
    binhost: Binhost, order: Order, kind: MoveKind, generation: Generation
) -> Published:
    entries = binhost.generations.entries(generation)
    present = _present(binhost, order.ring, generation)
    return _bring(binhost, order, _move(binhost, order, kind, present, generation, entries))
