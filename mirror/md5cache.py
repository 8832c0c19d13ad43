"""The metadata cache of a tree: whether it is whole, and made with `egencache` where it is not.

Without an entry Portage sources the ebuild each time it looks at it, on the headnode and on each
blade that syncs the tree. rsync upstreams bring their cache; git and local trees have none, and
theirs is made here, once for all. An ebuild is a program: it is read in a node, which sees nothing
of the headnode's state and has no network.

Source: PMS, "Metadata cache" (md5-dict); egencache(1).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from headnode import gentoo
from headnode.files import remove_tree
from headnode.node.running import start
from headnode.node.spec import Bind, NodeSpec, empty_in_upper, write_upper
from headnode.provision import environment_binds, provide_emerge
from mirror.guard import TreeError

CACHE = "metadata/md5-cache"
EGENCACHE_S = 3600.0
REPOS = "/var/db/repos"
SHOWN_LINES = 3


def lacking(tree: Path, masters: Iterable[Path] = ()) -> list[str]:
    """Give the ebuilds of `tree` that have no cache entry of their own, `category/name-version`.

    Those in a category that neither the tree nor its masters name, and those of an EAPI that is not
    known here, are left out: Portage passes them over as well.
    """
    cache, known = tree / CACHE, gentoo.categories([tree, *masters])
    return [
        f"{ebuild.parts[-3]}/{ebuild.stem}"
        for category in sorted(known)
        for ebuild in sorted(tree.glob(f"{category}/*/*.ebuild"))
        if not _is_of(cache / ebuild.parts[-3] / ebuild.stem, ebuild) and gentoo.knows_eapi(ebuild)
    ]


def _is_of(entry: Path, ebuild: Path) -> bool:
    try:
        said = entry.read_bytes()
    except OSError:
        return False
    digest = hashlib.md5(ebuild.read_bytes(), usedforsecurity=False).hexdigest()
    return f"_md5_={digest}".encode() in said.splitlines()


def carry_over(before: Path, tree: Path) -> None:
    """Give `tree` the cache that was made for the tree `before`, as hard links.

    Entries of ebuilds that are gone are left out. egencache writes beside an entry and renames, so
    the older tree keeps its own.
    """
    remove_tree(tree / CACHE)
    for entry in sorted((before / CACHE).glob("*/*")):
        category, version = entry.parts[-2:]
        if any((tree / category).glob(f"*/{version}.ebuild")):
            target = tree / CACHE / category / version
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(entry, target)


def make(tree: Path, name: str, others: Mapping[str, Path], *, root: Path, state: Path) -> None:
    """Make the cache entries that `tree` lacks, with the Portage of a node over `root`.

    `others` are the trees that it may inherit eclasses from; the node's own folder is below
    `state`, of which it sees nothing else.

    Raises:
        TreeError: an ebuild cannot be read; in egencache's words.
        NodeError, EnvironmentLacksError: the node does not come up.
    """
    spec = _spec(tree, name, others, root=root, state=state.resolve())
    conf = repos_conf(name, others, gentoo.read_repo(tree, name).masters)
    try:
        (tree / CACHE).mkdir(parents=True, exist_ok=True)
        said = _egencache(spec, name, conf)
    finally:
        remove_tree(spec.store)
    for path in (tree / CACHE, *(tree / CACHE).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if left := lacking(tree, others.values()):
        raise TreeError(
            f"egencache could make no metadata of {len(left)} ebuilds, such as {left[0]}: {said}"
        )


def _spec(
    tree: Path, name: str, others: Mapping[str, Path], *, root: Path, state: Path
) -> NodeSpec:
    trees = [
        Bind(source=path.resolve(), target=PurePosixPath(REPOS) / other)
        for other, path in others.items()
    ]
    own = Bind(source=tree.resolve(), target=PurePosixPath(REPOS) / name, writable=True)
    return NodeSpec(
        name="egencache",
        store=state / "mirror" / "egencache" / name,
        lower=root,
        binds=(*environment_binds(root=root), *trees, own),
        hidden=(state,),
        throwaway=True,
    )


def _egencache(spec: NodeSpec, name: str, conf: str) -> str:
    """Run it in the node; give its last words. It exits 0 where an ebuild does not parse."""
    empty_in_upper(spec, "/etc/portage")
    write_upper(spec, {"/etc/portage/repos.conf/headnode.conf": conf})
    provide_emerge(spec)
    node = start(spec)
    try:
        done = node.run(
            [
                *("egencache", "--update", "--repo", name, "--jobs", str(os.cpu_count() or 1)),
                *("--strict-manifests", "n"),  # most overlays have thin ones, or none
            ],
            timeout_s=EGENCACHE_S,
            check=False,
        )
    finally:
        node.stop()
    return said_of_ebuilds(done.output + done.errors)


def said_of_ebuilds(said: str) -> str:
    """What egencache printed about ebuilds, on one line, without what it says of the node. Pure."""
    lines = said.splitlines()
    own = [number for number, line in enumerate(lines) if "local privilege escalation" in line]
    told = [line for line in lines[own[-1] + 1 if own else 0 :] if not line.startswith("!!!")]
    words = [" ".join(line.strip(" *").split()) for line in told]
    return "; ".join([each for each in words if each][:SHOWN_LINES]) or "it gave no reason"


def repos_conf(name: str, others: Collection[str], masters: Sequence[str]) -> str:
    """A repos.conf with the tree and those that it may inherit from. Source: portage(5)."""
    known = [master for master in ("gentoo", *masters) if master in {name, *others}]
    main = known[0] if known else name
    sections = [
        f"[{each}]\nlocation = {REPOS}/{each}\nauto-sync = no\n" for each in (*others, name)
    ]
    return "\n".join([f"[DEFAULT]\nmain-repo = {main}\n", *sections])
