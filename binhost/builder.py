"""The builder: an overlay node with a class's configuration, in which emerge builds packages.

::

    <state>/build/<class>/
        upper/ work/ root/   the node's overlay over build.root (headnode.node)
        root.json            which root the upper belongs to; another one drops the upper
        staging/             PKGDIR: packages that no generation has yet
        logs/                one log for each package, and emerge's own
        run/                 which package is in which phase, while emerge runs
        index/Packages       everything in the pool, as a binhost for this builder
        result.json          the last build that was good

The node has a network of its own with nothing in it but, in a build with helpers, a way to each
one's distccd: sources come from the mirror's folder. What is built is decided by one question:
which packages of @blade, from nothing, have no binary yet? emerge answers it
(`binhost.emerge.closure_argv`), before and after.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from binhost import build_ids
from binhost.emerge import (
    Step,
    closure_argv,
    explain_no_plan,
    parse_plan,
    plan_argv,
    sources_argv,
    unknown_atom,
)
from binhost.entry import SUFFIXES, name_of
from binhost.index import HEADER_KEYS, field, render
from binhost.pool import Pool, package_names, remove_package
from config.portage import (
    BUILDER_MIRROR,
    BUILDER_POOL,
    BUILDER_POOL_INDEX,
    ETC,
    LOGDIR,
    PKGDIR,
    REPOS,
    RUN,
    Rendered,
    is_program,
)
from headnode.errors import BuildError
from headnode.files import remove_tree, write_atomic
from headnode.node.running import Node, start
from headnode.node.spec import Bind, NodeSpec, empty_in_upper, write_upper
from headnode.process import Completed
from headnode.provision import environment_binds, provide_emerge

PLAN_TIMEOUT_S = 900.0
PROVIDE_TIMEOUT_S = 60.0
PROFILE = "/etc/portage/profile"
REMEDY = "Correct `packages` (or the world file, USE, keywords) of the class in cluster.toml"
CACHES = ("/var/cache/binhost", "/var/cache/edb", "/var/tmp/portage")  # noqa: S108 (in the node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What a builder is set up from.

    `repos` are the snapshots (name -> folder), `distfiles` the mirror's, `pool` the class's;
    `configuration` is what the builder itself has in /etc/portage, `blade` what blades have.
    """

    folder: Path
    state: Path
    root: Path
    repos: Mapping[str, Path]
    distfiles: Path
    pool: Pool
    configuration: Rendered
    blade: Rendered | None = None

    @property
    def staging(self) -> Path:
        """Unpublished packages."""
        return self.folder / "staging"

    @property
    def logs(self) -> Path:
        """Build logs."""
        return self.folder / "logs"

    @property
    def observed(self) -> Path:
        """What emerge tells observers while it runs (FEATURES=observability)."""
        return self.folder / "run"


def root_digest(root: Path) -> str:
    """Which software `root` has: a digest that changes when a package of it does."""
    seen = hashlib.sha256(str(root).encode())
    for name in ("etc/os-release", "var/lib/dpkg/status"):
        file = root / name
        seen.update(file.read_bytes() if file.is_file() else b"-")
    for folder in sorted((root / "var/db/pkg").glob("*/*")):
        seen.update(f"{folder.parent.name}/{folder.name} {folder.stat().st_mtime_ns}\n".encode())
    return seen.hexdigest()


def _mark(root: Path) -> str:
    return json.dumps({"root": str(root), "digest": root_digest(root)})


def check_root(shop: Workshop) -> None:
    """Check that the builder's root is still the one that the build started over.

    overlayfs does not say what a node sees when its lower root changes under it, so nothing that
    was built meanwhile is used (overlayfs.rst, "Changes to underlying filesystems"). After a build
    that failed or was killed, the next one sees to that.

    Raises:
        BuildError: software was installed, updated or removed there; the upper is dropped with the
            next build.
    """
    kept = shop.folder / "root.json"
    if kept.read_text() != _mark(shop.root):
        _drop_built_since(shop)
        raise BuildError(
            f"The software of {shop.root} changed while packages were built over it; what was "
            "built meanwhile is not used.",
            remedy="Run headnode build again when that is done.",
        )
    os.utime(kept)  # what is staged by now was built over this root


def _drop_built_since(shop: Workshop) -> None:
    """The root is another one: drop what was staged since it was last seen to be as it was."""
    kept = shop.folder / "root.json"
    seen_ns = kept.stat().st_mtime_ns
    for name in package_names(shop.staging):
        if (shop.staging / name).stat().st_mtime_ns > seen_ns:
            remove_package(shop.staging / name)
    kept.unlink()


def _spec(shop: Workshop, more: tuple[Bind, ...]) -> NodeSpec:
    binds = [
        *more,
        *environment_binds(root=shop.root),
        *(
            Bind(source=path, target=PurePosixPath(REPOS, name))
            for name, path in shop.repos.items()
        ),
        Bind(source=shop.distfiles, target=PurePosixPath(BUILDER_MIRROR)),
        Bind(source=shop.pool.folder, target=PurePosixPath(BUILDER_POOL)),
        Bind(source=shop.folder / "index", target=PurePosixPath(BUILDER_POOL_INDEX)),
        Bind(source=shop.staging, target=PurePosixPath(PKGDIR), writable=True),
        Bind(source=shop.logs, target=PurePosixPath(LOGDIR), writable=True),
        Bind(source=shop.observed, target=PurePosixPath(RUN), writable=True),
    ]
    return NodeSpec(
        name="builder",
        store=shop.folder,
        lower=shop.root,
        binds=tuple(binds),
        hidden=(shop.state,),
    )


def _prepare(shop: Workshop, spec: NodeSpec, *, fresh: bool) -> None:
    mark = _mark(shop.root)
    kept = shop.folder / "root.json"
    if kept.exists() and kept.read_text() != mark:
        _drop_built_since(shop)
    if fresh or not kept.exists():
        kept.unlink(missing_ok=True)  # first: half an upper must not pass for a whole one
        remove_tree(spec.upper)
    remove_tree(shop.observed)  # of an emerge that was killed
    parts = (shop.staging, shop.logs, shop.observed, shop.distfiles, shop.pool.folder)
    for folder in (spec.upper, *parts):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, mark)
    _sweep(shop.staging)
    _write_pool_index(shop)
    provide_emerge(spec)
    for name in (ETC, *CACHES):
        remove_tree(spec.upper / name.lstrip("/"))
        empty_in_upper(spec, name)
    for path, text in shop.configuration.files.items():
        write_upper(spec, {path: text}, mode=0o755 if is_program(path) else 0o644)
    for link, target in shop.configuration.links.items():
        (spec.upper / link.lstrip("/")).symlink_to(target)


def _sweep(staging: Path) -> None:
    """Drop what a killed emerge left: empty place-holders, half-written files, its locks."""
    for path in staging.glob("*/*/*"):
        if path.is_file() and (not path.name.endswith(SUFFIXES) or path.stat().st_size == 0):
            path.unlink()


def _write_pool_index(shop: Workshop) -> None:
    """Offer the builder every package of the pool whose file is whole, and reserve other names.

    Portage numbers a build one higher than the highest that it sees and whose name is free. A
    damaged or a never entered package must not be seen, nor may its name be given again; nor one
    that was removed since.
    """
    entries, files = shop.pool.entries(), shop.pool.files()
    whole = {name: entry for name, entry in entries.items() if _is_whole(shop.pool, name, entry)}
    names = entries.keys() | files
    unseen = build_ids.above(shop.pool.build_ids(names), whole)
    for name in names - whole.keys() | _given(shop, unseen):
        (shop.staging / name).parent.mkdir(parents=True, exist_ok=True)
        (shop.staging / name).touch()
    content, _ = render(
        {}, whole.values(), timestamp=int(time.time()), uri=f"file://{BUILDER_POOL}"
    )
    write_atomic(shop.folder / "index" / "Packages", content)


def _given(shop: Workshop, unseen: Mapping[str, Iterable[str]]) -> set[str]:
    """Names that were given, of versions that can be built again: have an ebuild."""
    return {name for cpv, names in unseen.items() if has_ebuild(shop, cpv) for name in names}


def has_ebuild(shop: Workshop, cpv: str) -> bool:
    """Whether a version can be built: is in one of the trees."""
    package, _, _ = name_of(cpv, 0).rpartition("/")
    ebuild = f"{package}/{PurePosixPath(cpv).name}.ebuild"
    return any((repo / ebuild).is_file() for repo in shop.repos.values())


def _is_whole(pool: Pool, name: str, entry: str) -> bool:
    path = pool.folder / name
    return path.is_file() and field(entry, "SIZE") == str(path.stat().st_size)


@contextmanager
def running(shop: Workshop, *, fresh: bool = False, binds: tuple[Bind, ...] = ()) -> Iterator[Node]:
    """The builder node for the block. `fresh` drops what earlier builds installed in it.

    It sees `binds` beside what it always sees.

    Raises:
        NodeError, EnvironmentLacksError: it does not come up.
    """
    spec = _spec(shop, binds)
    _prepare(shop, spec, fresh=fresh)
    node = start(spec)
    try:
        yield node
    finally:
        node.stop()


def closure(node: Node) -> list[Step]:
    """What a blade with nothing installed would install for @blade, and what has no binary yet.

    Raises:
        BuildError: the set cannot be resolved, in emerge's words.
    """
    return _plan(node.run(closure_argv("@blade"), timeout_s=PLAN_TIMEOUT_S, check=False))


def sources(node: Node, provided: Iterable[str] = ()) -> list[Step]:
    """Every package that building @blade from nothing takes; the CPVs `provided` count as there.

    Raises:
        BuildError: the set cannot be resolved, in emerge's words.
    """
    # portage(5), package.provided: in /etc/portage/profile, which the next builder has anew.
    script = 'mkdir -p "$1" && shift && for each; do echo "$each"; done >> "$0"'
    words = (f"{PROFILE}/package.provided", PROFILE, *provided)
    node.run(["sh", "-c", script, *words], timeout_s=PROVIDE_TIMEOUT_S)
    return _plan(node.run(sources_argv("@blade"), timeout_s=PLAN_TIMEOUT_S, check=False))


def plan_of(node: Node, atom: str) -> list[Step]:
    """What would be installed in the builder for `atom`, binaries first.

    Raises:
        BuildError: it cannot be resolved, in emerge's words.
    """
    return _plan(node.run(plan_argv(atom), timeout_s=PLAN_TIMEOUT_S, check=False))


def _plan(done: Completed) -> list[Step]:
    said = done.output + done.errors
    if done.code and (unknown := unknown_atom(said)):
        atom, needed_by = unknown
        raise BuildError(
            f"There is no ebuild for {atom}, which {needed_by} needs.",
            remedy=f"{REMEDY}, or sync the mirror if the package is new.",
        )
    if done.code:
        raise BuildError(
            f"emerge finds no way to install @blade:\n{explain_no_plan(said)}",
            remedy=f"{REMEDY}.",
        )
    return parse_plan(done.output)


def read_header(node: Node) -> dict[str, str]:
    """The index header that Portage would write in this builder, without what changes each time.

    Source: portage.dbapi.bintree, `_update_pkgindex_header`.
    """
    header = _variables(node, HEADER_KEYS)
    expand = header.get("USE_EXPAND_IMPLICIT", "").split()
    more = [*expand, *header.get("USE_EXPAND_UNPREFIXED", "").split()]
    more += [f"USE_EXPAND_VALUES_{name}" for name in expand]
    return header | _variables(node, tuple(dict.fromkeys(more)))


def flags_of(node: Node) -> dict[str, str]:
    """The compilers' flags that packages are built with in this builder: the class's, expanded."""
    return _variables(node, ("CFLAGS", "CXXFLAGS"))


def _variables(node: Node, names: tuple[str, ...]) -> dict[str, str]:
    if not names:
        return {}
    # It exits 1 if any of them is not set; what it warns of goes to stderr.
    done = node.run(["portageq", "envvar", "-v", *names], timeout_s=PLAN_TIMEOUT_S, check=False)
    try:
        return parse_variables(done.output, names)
    except ValueError as error:
        raise BuildError(
            f"portageq says nothing useful of this profile:\n{done.tail}",
            remedy="Correct `profile` of the class in cluster.toml.",
        ) from error


def parse_variables(output: str, names: tuple[str, ...]) -> dict[str, str]:
    """What `portageq envvar -v` printed: the variables that have a value, in one line each. Pure.

    Raises:
        ValueError: one of `names` is not there.
    """
    values = {}
    for word in shlex.split(output):
        name, _, value = word.partition("=")
        values[name] = " ".join(value.split())  # the index has a line a variable
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"no {', '.join(missing)}")
    return {name: values[name] for name in names if values[name]}
