"""Why a blade would not take a package as a binary: asked of emerge, set up as the blade's is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from binhost.gpkg import is_signed
from binhost.index import field, parse_entries
from binhost.rings import Ring
from binhost.why import Kind, Reason, Verdict, explain
from blades.inventory import Blade
from blades.setup import setup_files
from config.load import atoms_of
from config.portage import BINREPOS, REPOS
from headnode.errors import PublishError
from headnode.files import locked, remove_tree
from headnode.node.running import start
from headnode.node.spec import Bind, NodeSpec, empty_in_upper, write_upper
from headnode.provision import environment_binds, provide_emerge
from schedules.site import Site

INDEX = "/var/cache/headnode/index"
ASK_S = 900.0
EMPTY = ("/etc/portage", "/var/cache/binhost", "/var/cache/binpkgs", "/var/cache/edb")


def why_once(site: Site, blade: Blade, atom: str) -> Verdict:
    """Whether `blade` would take `atom` as a binary from what its ring has, and why not.

    Raises:
        PublishError: the ring has nothing yet.
        NodeError, EnvironmentLacksError: this machine cannot run a node.
        BusyError: somebody else is asking just now.
    """
    binhost = site.binhost(blade.class_name)
    ring = binhost.ring(blade.ring)
    if ring.current() is None:
        raise PublishError(
            f"The ring {blade.ring} has nothing yet.",
            remedy="headnode publish or headnode promote puts a generation in front of it.",
        )
    entries = list(_entries(ring).values())
    folder = site.state / "build" / blade.class_name / "gate" / "why"
    with locked(folder / ".lock", "headnode binhost why"):
        spec = _spec(site, blade, ring)
        node = start(spec)
        try:
            verdict = explain(
                atom, entries, lambda argv: node.run(argv, timeout_s=ASK_S, check=False)
            )
        finally:
            node.stop()
            remove_tree(spec.upper)
    if verdict.taken and asks_for_signature(_files(site, blade)[BINREPOS]):
        return without_signature(verdict, unsigned(binhost.pool.folder, entries, verdict.plan))
    return verdict


def _entries(ring: Ring) -> dict[str, str]:
    text = (ring.folder / "current" / "Packages").read_text()
    return parse_entries(text.partition("\n\n")[2])


def _files(site: Site, blade: Blade) -> dict[str, str]:
    atoms = atoms_of(site.klass(blade.class_name))
    return dict(setup_files(site.cluster, blade, atoms, site.keyring()).files)


def _spec(site: Site, blade: Blade, ring: Ring) -> NodeSpec:
    """A node with the blade's own Portage files, its ring's index and tree, and no network."""
    current = ring.current()
    repos = site.repos_of(current.snapshots) if current else {}
    root = site.cluster.build.root
    index = (ring.folder / "current").resolve()
    spec = NodeSpec(
        name=blade.name,
        store=site.state / "build" / blade.class_name / "gate" / "why",
        lower=root,
        binds=(
            *environment_binds(root=root),
            *(Bind(source=path, target=PurePosixPath(REPOS, name)) for name, path in repos.items()),
            Bind(source=index, target=PurePosixPath(INDEX)),
        ),
        hidden=(site.state,),
        throwaway=True,
    )
    remove_tree(spec.upper)
    provide_emerge(spec)
    for name in EMPTY:
        empty_in_upper(spec, name)
    files = _files(site, blade)
    files[BINREPOS] = re.sub(r"(?m)^sync-uri = .*$", f"sync-uri = file://{INDEX}", files[BINREPOS])
    write_upper(spec, {path: text for path, text in files.items() if path.startswith("/etc/")})
    setup = setup_files(site.cluster, blade, (), site.keyring())
    for link, target in setup.links.items():
        path = spec.upper / link.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return spec


def asks_for_signature(binrepos: str) -> bool:
    """Whether a blade's binrepos.conf wants packages signed. Pure. Source: portage(5)."""
    return re.search(r"(?m)^verify-signature\s*=\s*(true|yes|1)\s*$", binrepos) is not None


def unsigned(pool: Path, entries: Iterable[str], plan: Iterable[str]) -> list[str]:
    """The packages of a plan whose files in the pool have no signature."""
    paths = {str(field(entry, "CPV")): str(field(entry, "PATH")) for entry in entries}
    return [cpv for cpv in plan if cpv in paths and not is_signed(pool / paths[cpv])]


def without_signature(verdict: Verdict, packages: list[str]) -> Verdict:
    """The verdict where the blade wants signatures and `packages` have none. Pure."""
    if not packages:
        return verdict
    reasons = tuple(
        Reason(
            kind=Kind.SIGNATURE,
            package=cpv,
            text=f"{cpv}: its package is not signed, and the blade wants a signature.",
        )
        for cpv in packages
    )
    return replace(verdict, taken=None, reasons=reasons)
