"""A blade to try a generation on: a lab of one, with a headnode that serves candidates.

::

    build/<class>/gate/
        rings/<ring>/upper   the overlay of the ring's blade, kept so that the next publish pulls
                             only what changed
        rings/<ring>/kept.json  which generation it is at; there only while nothing works on it
        state/               the state folder that the lab's `headnode serve` serves: the rings'
                             candidates, and the real pool and images, which are bound in
        lab/                 the lab (blades.lab), empty when none is up
        walked/              which ways between generations a blade went (schedules.walked)

Everything on it is real: HTTP, rsync, the pull, emerge. Only the headnode's address is the lab's.
"""

from __future__ import annotations

import hashlib
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from binhost import root_libraries, soname
from binhost.builder import root_digest
from binhost.publish import Binhost
from binhost.records import Generation, Record, read, save
from blades import lab as labs
from blades.boot import TREE_PATH
from blades.inventory import Blade, all_blades
from blades.setup import program_files, setup_files
from blades.transport import Outcome
from config import template
from config.blade import blade_json
from config.model import Cluster, Loader, Pull, State
from config.portage import ETC, Rendered, http_url
from headnode.errors import CommandError, NodeError, PublishError
from headnode.files import remove_tree, write_atomic
from headnode.node.spec import Bind
from headnode.process import Completed, environment, last_lines, run
from mirror.image import folder_of as images_of
from schedules.rollout import PULL, BladeReport, read_outcome
from schedules.site import Site

START_S = 60.0
COMMAND_S = 900.0
BACK = "way-back"
TREES = PurePosixPath("/var/cache/headnode/trees")  # whole, in the lab's blade
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SONAME_PROVIDED = f"{ETC}/profile/soname.provided"


class Kept(Record):
    """What a kept overlay is at: digests of the generation's state and of the root below it.

    `boot` is the machine's boot: the overlay is not synced to disk, so a power cut ends it.
    """

    state: str
    root: str
    boot: str


def state_digest(generation: Generation) -> str:
    """What tells generations apart that blades would tell apart. Pure."""
    said = generation.model_dump_json(exclude={"number", "parent", "made", "why", "gates"})
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the lab blade of a ring lives, and what it is set up from."""

    site: Site
    class_name: str
    ring: str

    @property
    def folder(self) -> Path:
        """All of the gates' own files of a class."""
        return self.site.state / "build" / self.class_name / "gate"

    @property
    def store(self) -> Path:
        """The overlay of the ring's blade."""
        return self.folder / "rings" / self.ring

    @property
    def state(self) -> Path:
        """What the lab's headnode serves."""
        return self.folder / "state"

    @property
    def root(self) -> Path:
        """The root that the blade is laid over."""
        return self.site.cluster.build.root

    @property
    def blade(self) -> Blade:
        """The first blade of the ring: the lab's is set up as that one is."""
        blades = all_blades(self.site.cluster)
        return next(
            each for each in blades if (each.class_name, each.ring) == (self.class_name, self.ring)
        )

    @property
    def cluster(self) -> Cluster:
        """The cluster as the lab's blade sees it."""
        real = self.site.cluster
        here = {
            "host": labs.HEADNODE,
            "listen": "0.0.0.0",  # noqa: S104 (in the lab)
            "backend_port": 0,  # no nginx is in front there
            "access_log": None,
        }
        return real.model_copy(
            update={
                "state": State(path=self.state, reserve_mib=0),
                "serve": real.serve.model_copy(update=here),
                # Kernels come into its /boot, but it has no loader to switch.
                "kernel": real.kernel.model_copy(update={"loader": Loader.NONE}),
                "pull": Pull(),  # the blade is no real one: none of their checks, nobody on it
            }
        )

    @property
    def binhost(self) -> Binhost:
        """The class's binhost, with rings of its own and the lab's addresses."""
        return replace(
            self.site.binhost(self.class_name),
            folder=self.state / "binhost" / self.class_name,
            pool_url=http_url(self.cluster, f"binhost/{self.class_name}/pool"),
        )

    def blade_text(self, generation: Generation, entries: Mapping[str, str]) -> str | None:
        """What the lab's blade is to be like: as a real one, but for its headnode and its root."""
        if generation.blade is None:
            return None
        return blade_json(
            self.cluster,
            self.class_name,
            self.ring,
            files={**generation.blade.files, **self.provided(entries)},
            links=generation.blade.links,
            atoms=generation.atoms,
            signed=self.site.signs,
        )

    def provided(self, entries: Mapping[str, str]) -> dict[str, str]:
        """The file that tells Portage which libraries the root has that no package brings."""
        libraries = root_libraries.sonames(self.root, entries.values())
        return {SONAME_PROVIDED: soname.soname_provided(libraries)}

    @property
    def pull_text(self) -> str:
        """The pull that a blade is given."""
        return "".join(program_files().values())

    def setup(self, generation: Generation, entries: Mapping[str, str]) -> Rendered:
        """What the lab's blade is given once."""
        keyring = self.site.keyring()
        files = setup_files(self.cluster, self.blade, generation.atoms, keyring)
        return Rendered(files={**files.files, **self.provided(entries)}, links=files.links)


class Trial:
    """A lab that is up, with one blade over the kept overlay of a ring."""

    def __init__(
        self, ground: Ground, lab: labs.Lab, setup: Rendered, trees: Mapping[str, Path]
    ) -> None:
        self.ground = ground
        self._lab = lab
        self._trees = trees
        self._setup = setup
        self._name = ground.blade.name

    @property
    def at(self) -> str | None:
        """The state that the kept overlay is at; None if it is worth nothing."""
        try:
            kept = read(self.ground.store / "kept.json", Kept)
        except PublishError:
            return None
        same = (kept.root, kept.boot) == (root_digest(self.ground.root), BOOT_ID.read_text())
        return kept.state if same else None

    def start(self, *, fresh: bool) -> None:
        """Bring up the blade, from the root alone if `fresh`."""
        (self.ground.store / "kept.json").unlink(missing_ok=True)
        upper = self.ground.store / "upper"
        if self._name in self._lab.nodes:
            self._lab.node(self._name).stop()
        remove_tree(upper if fresh else upper / ETC.lstrip("/"))
        self._join(store=self.ground.store)

    def _join(self, **where: Path | tuple[Path, ...]) -> None:
        """Bring up the blade, and do what it does at boot."""
        spec = labs.blade_spec(
            self._lab.folder,
            self._name,
            self.ground.root,
            self._setup,
            hidden=(self.ground.site.state,),
            binds=tuple(
                Bind(source=path, target=TREES / name) for name, path in self._trees.items()
            ),
            **where,  # type: ignore[arg-type]  # store, beneath
        )
        self._lab = labs.join(self._lab, spec)
        self.run([TREE_PATH, "restore"])  # if it fails, so does the pull, which says why

    def go_apart(self) -> None:
        """From here on work in a throw-away layer: the kept overlay stays as it is."""
        self._lab.node(self._name).stop()
        self._name = BACK
        upper = self.ground.store / "upper"
        if not upper.is_relative_to(self.ground.root.resolve()):
            self._join(beneath=(upper,))
            return
        # overlayfs takes no layer that lies within another (ELOOP, "overlapping layers").
        store = self._lab.folder / "nodes" / BACK
        store.mkdir(parents=True)
        copy: list[str | Path] = ["cp", "-a", "--reflink=auto", upper, store / "upper"]
        run(copy, timeout_s=COMMAND_S)
        self._join()

    def keep(self, generation: Generation) -> None:
        """Note that the overlay is at a generation, so that the next trial can start there."""
        kept = Kept(
            state=state_digest(generation),
            root=root_digest(self.ground.root),
            boot=BOOT_ID.read_text(),
        )
        save(self.ground.store / "kept.json", kept)

    def bring(
        self, generation: Generation, entries: Mapping[str, str], now: datetime
    ) -> BladeReport:
        """Put a generation in front of the lab's ring, and have the blade pull it."""
        binhost = self.ground.binhost
        signer = binhost.signer
        binhost.ring(self.ground.ring).deploy(
            generation,
            entries,
            repos=binhost.repos_of(generation.snapshots),
            image=binhost.image_of(generation.snapshots),
            pool_url=binhost.pool_url,
            now=now,
            valid=binhost.valid,
            # Each trial gives the blade the keys of now; the lab's ring may know others (`setup`).
            signer=replace(signer, by_hand=True) if signer else None,
            blade=self.ground.blade_text(generation, entries),
        )
        limit = self.ground.site.cluster.publish.pull_timeout_s
        try:
            done = self.run([PULL, "--brief"], timeout_s=limit)
        except CommandError as error:
            outcome = Outcome(blade=self._name, code=None, output=error.tail, seconds=limit)
        else:
            outcome = Outcome(
                blade=self._name,
                code=done.code,
                output=done.output + done.errors,
                seconds=done.seconds,
            )
        return read_outcome(self.ground.blade, outcome)

    def run(self, command: list[str], *, timeout_s: float = COMMAND_S) -> Completed:
        """Run a command on the blade, whatever its exit code.

        Raises:
            CommandError: it takes too long.
        """
        return self._lab.node(self._name).run(command, timeout_s=timeout_s, check=False)

    def run_with_ebuilds(self, command: list[str], *, timeout_s: float = COMMAND_S) -> Completed:
        """Run a command that sees the whole trees: the blade's own may have no ebuilds.

        Source: portage(5), PORTAGE_REPOSITORIES.
        """
        sections = [f"[{name}]\nlocation = {TREES / name}\n" for name in self._trees]
        main = self.ground.site.cluster.mirror.main_repo
        text = "".join([f"[DEFAULT]\nmain-repo = {main}\n", *sections])
        return self.run(["env", f"PORTAGE_REPOSITORIES={text}", *command], timeout_s=timeout_s)


@contextmanager
def opened(ground: Ground, generation: Generation, entries: Mapping[str, str]) -> Iterator[Trial]:
    """A lab for the block whose headnode serves; its blade is to be started.

    Raises:
        EnvironmentLacksError, NodeError: this machine cannot run one.
    """
    folder = ground.folder / "lab"
    labs.down(folder)
    _prune(ground)
    real, images = ground.site.binhost(ground.class_name), images_of(ground.site.state)
    images.mkdir(parents=True, exist_ok=True)
    binds = (
        Bind(source=real.pool.folder, target=PurePosixPath(ground.binhost.pool.folder)),
        Bind(source=images, target=PurePosixPath(images_of(ground.state))),
    )
    config = ground.folder / "cluster.toml"
    write_atomic(config, template.render(_values(ground)))
    try:
        lab = labs.up(folder, {}, lower=ground.root, later=(ground.blade.name, BACK), binds=binds)
        _serve(lab, config)
        trees = ground.site.repos_of(generation.snapshots)
        yield Trial(ground, lab, ground.setup(generation, entries), trees)
    finally:
        labs.down(folder)


def _prune(ground: Ground) -> None:
    """Drop candidates of earlier trials, but for the newest, which the next one is counted from."""
    ring = ground.binhost.ring(ground.ring)
    for sequence in ring.sequences()[:-1]:
        remove_tree(ring.folder / "deployments" / str(sequence))


def _values(ground: Ground) -> dict[str, object]:
    """What the lab's `headnode serve` must know."""
    cluster = ground.cluster
    rings = dict(cluster.classes[ground.class_name].rings)
    repos = {
        name: each.model_dump(mode="json", exclude_defaults=True)
        for name, each in cluster.mirror.repos.items()
    }
    return {
        "state": {"path": str(ground.state), "reserve_mib": 0},
        "schedule": {"jobs": {}},  # it has no nights of its own
        "serve": cluster.serve.model_dump(mode="json", exclude_none=True),
        "mirror": {"repos": repos},
        "classes": {ground.class_name: {"rings": rings}},
    }


def _serve(lab: labs.Lab, config: Path) -> None:
    """Start `headnode serve` in the lab's headnode; it ends with the lab."""
    log = lab.folder / "serve.log"
    argv = [sys.executable, "-m", "headnode", "--config", str(config), "serve"]
    with log.open("w") as file:
        process = subprocess.Popen(
            lab.headnode.argv(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment(),
            start_new_session=True,
        )
    assert process.stdout is not None  # noqa: S101 (asked for a pipe)
    with process.stdout as said:
        ready, _, _ = select.select([said], [], [], START_S)
        line = said.readline() if ready else ""
    if not line.startswith("Serving"):
        process.kill()
        process.wait()
        tail = last_lines(line + log.read_text())
        raise NodeError(f"The lab's headnode does not serve:\n{tail}")
