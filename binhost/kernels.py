"""A flavour worked out in the builder: its source patched, its configuration resolved. Its key.

What this finds wrong costs a minute; make would find it out after an hour, or a blade at night. All
of it happens in the builder's node, since a source tree is a program: `make olddefconfig` runs it.

The key says when a kernel has to be built anew: another source, patch, resolved configuration,
compiler, argument of make, module set or initramfs is another key, and so another revision.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from binhost.patches import UNPACK, explain_patch, patch_argv
from config.flavour import Recipe, lost, merge, requested
from config.load import read_text
from headnode.errors import BuildError
from headnode.files import digests, remove_tree
from headnode.node.running import Node
from headnode.process import Completed, last_lines

WORK = PurePosixPath("/var/cache/headnode/kernel")  # the work folder, as the builder sees it
SOURCES = PurePosixPath("/usr/src")
STEP_S = 1800.0
PROBE = "-headnode-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a flavour is made of, checked and at hand.

    `archive` is the source as the builder sees it, `sources` a folder below /usr/src instead, with
    `source_digest` for either. `patches` are files of the headnode, in order.
    """

    source_digest: str
    archive: PurePosixPath | None = None
    sources: str = ""
    patches: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What came out. `base` is what `uname -r` starts with, before the local version.

    `version` is the package's version, `old` whether this is Linux 2.4.
    """

    version: str
    base: str
    old: bool
    config: str
    compiler: str
    key: str


def inputs_of(recipe: Recipe, materials: Materials, compiler: str) -> str:
    """A digest of all that `resolve` starts from: the same inputs come out the same. Pure."""
    config = recipe.flavour.config
    files = [config.base_file] if config.base_file else []
    said = {
        "flavour": recipe.flavour.model_dump(mode="json", exclude={"about"}),
        "files": [read_text(recipe.beside(file)) for file in (*files, *config.fragments)],
        "source": materials.source_digest,
        "patches": [digests(path, "sha256")["sha256"] for path in materials.patches],
        "compiler": compiler,
    }
    return _digest(said)


def key_of(recipe: Recipe, materials: Materials, config: str, compiler: str) -> str:
    """The key of a kernel. Pure, but for reading patches."""
    flavour = recipe.flavour
    return _digest(
        {
            "source": materials.source_digest,
            "patches": [digests(path, "sha256")["sha256"] for path in materials.patches],
            "config": [line for line in config.splitlines() if "CONFIG_" in line],
            "compiler": compiler,
            "local_version": recipe.local_version,
            "make_args": flavour.make_args,
            "modules": flavour.modules,
            "initramfs": flavour.initramfs,
        }
    )


def _digest(said: object) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def identify_compiler(node: Node, compiler: str) -> str:
    """What the builder's compiler is: name, version, target, and its linker.

    Raises:
        BuildError: there is none of that name.
    """
    lines = []
    for argv in ([compiler, "--version"], [compiler, "-dumpmachine"], ["ld", "--version"]):
        done = node.run(argv, timeout_s=STEP_S, check=False)
        if done.code:
            raise BuildError(
                f"The builder has no compiler {compiler!r}: {last_lines(done.errors, 1)}",
                remedy="Name another one in the flavour (`compiler`), or install it in the root "
                "that is built over ([build] root).",
            )
        lines.append(done.output.partition("\n")[0].strip())
    return "; ".join(lines)


def resolve(
    node: Node, work: Path, recipe: Recipe, materials: Materials, compiler: str
) -> Resolved:
    """Unpack, patch and configure a flavour's source in the builder; nothing of it is kept.

    `work` is the headnode's folder that the builder has at WORK.

    Raises:
        BuildError: the archive cannot be read, a patch does not apply, or symbols that were asked
            for did not survive, each named.
        ConfigError: a file of the flavour cannot be read.
    """
    tree = work / "linux"
    _clear(work)
    tree.mkdir()
    try:
        _unpack(node, recipe, materials)
        for patch in materials.patches:
            _apply(node, work, recipe, patch)
        config = _configure(node, tree, recipe)
        base, version, old = _version(node, tree, recipe)
    finally:
        _clear(work)
    return Resolved(
        version=version,
        base=base,
        old=old,
        config=config,
        compiler=compiler,
        key=key_of(recipe, materials, config, compiler),
    )


def _clear(work: Path) -> None:
    """Empty the folder; it stays itself, since the builder has it mounted."""
    for path in work.iterdir():
        remove_tree(path)


def _run(node: Node, argv: Iterable[str | PurePosixPath]) -> Completed:
    return node.run([str(word) for word in argv], timeout_s=STEP_S, check=False)


def _unpack(node: Node, recipe: Recipe, materials: Materials) -> None:
    if materials.archive is None:
        argv = ["cp", "-a", f"{SOURCES / materials.sources}/.", str(WORK / "linux")]
    else:
        argv = [
            *("tar", "--extract", "--no-same-owner", "--strip-components=1"),
            *("--directory", str(WORK / "linux"), "--file", str(materials.archive)),
        ]
    done = _run(node, argv)
    if done.code:
        what = materials.sources or recipe.flavour.source.file
        raise BuildError(f"{what} cannot be unpacked:\n{done.tail}")


def _apply(node: Node, work: Path, recipe: Recipe, patch: Path) -> None:
    copy = work / patch.name
    copy.write_bytes(patch.read_bytes())
    if tool := UNPACK.get(copy.suffix):
        done = _run(node, [tool, "-d", WORK / copy.name])
        if done.code:
            raise BuildError(f"{patch.name} cannot be unpacked:\n{done.tail}")
        copy = copy.with_suffix("")
    done = _run(node, patch_argv(WORK / copy.name, WORK / "linux"))
    copy.unlink()
    if done.code:
        why = "\n".join(explain_patch(done.output + done.errors)) or done.tail
        raise BuildError(
            f"{patch.name} does not apply to the source of the flavour {recipe.name}:\n{why}",
            remedy="Correct the patch, or the order of the flavour's patches.",
        )


def make_argv(recipe: Recipe, *words: str) -> list[str]:
    """The command line of make in the tree. Pure."""
    flavour = recipe.flavour
    return [
        *("make", "--silent", "--no-print-directory", "-C", str(WORK / "linux")),
        *(f"CC={flavour.compiler}", *flavour.make_args, *words),
    ]


def _make(node: Node, recipe: Recipe, *words: str) -> str:
    done = _run(node, make_argv(recipe, *words))
    if done.code:
        raise BuildError(
            f"make {' '.join(words)} failed for the flavour {recipe.name}:\n{done.tail}",
            remedy="Correct the flavour's configuration, compiler or make_args.",
        )
    return done.output


def _configure(node: Node, tree: Path, recipe: Recipe) -> str:
    base, wanted = recipe.flavour.config, requested(recipe)
    dot_config = tree / ".config"
    if base.base_file:
        dot_config.write_text(read_text(recipe.beside(base.base_file)))
    else:
        _answered(node, tree, recipe, base.base)
    dot_config.write_text(merge(dot_config.read_text(), wanted))
    _answered(node, tree, recipe, "oldconfig" if _is_old(tree) else "olddefconfig")
    resolved = dot_config.read_text()
    if gone := lost(resolved, wanted):
        raise BuildError(
            f"The configuration of the flavour {recipe.name} did not come out as it was asked "
            "for:\n" + "\n".join(gone),
            remedy="Set what these symbols depend on too, or leave them out; `make menuconfig` "
            "in the source shows it ('/', then the symbol).",
        )
    return resolved


def _answered(node: Node, tree: Path, recipe: Recipe, target: str) -> None:
    """Run a target of the configuration; Linux 2.4 asks questions, which the defaults answer."""
    if not _is_old(tree):
        _make(node, recipe, target)
        return
    words = ["sh", "-c", 'yes "" | "$@"', "sh", *make_argv(recipe, target)]
    done = _run(node, words)
    if done.code:
        raise BuildError(f"make {target} failed for the flavour {recipe.name}:\n{done.tail}")


def _is_old(tree: Path) -> bool:
    return not (tree / "scripts" / "kconfig").is_dir()


def _version(node: Node, tree: Path, recipe: Recipe) -> tuple[str, str, bool]:
    parts = makefile_version((tree / "Makefile").read_text(errors="replace"))
    plain = ".".join(parts[name] or "0" for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    rc = re.fullmatch(r"-rc(\d+)", parts["EXTRAVERSION"])
    version = f"{plain}_rc{rc[1]}" if rc else plain
    if _is_old(tree):
        return plain, version, True
    said = _make(node, recipe, f"LOCALVERSION={PROBE}", "kernelrelease").strip()
    return said.removesuffix(PROBE), version, False


def makefile_version(makefile: str) -> Mapping[str, str]:
    """The four parts of a kernel's version, empty where one is not set. Pure.

    Raises:
        BuildError: it is no kernel's Makefile.
    """
    found = dict.fromkeys(("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"), "")
    for line in makefile.splitlines()[:40]:
        name, apart, value = line.partition("=")
        if apart and name.strip() in found:
            found[name.strip()] = value.strip()
    if not found["VERSION"].isdigit():
        raise BuildError(
            "The source is no kernel: its Makefile has no VERSION.",
            remedy="Correct `source` of the flavour.",
        )
    return found


def sources_folder(contents: str) -> str:
    """The folder in /usr/src that a package installed, from its CONTENTS; "" for none. Pure.

    Source: portage(5), /var/db/pkg.
    """
    for line in contents.splitlines():
        kind, _, rest = line.partition(" ")
        path = PurePosixPath(rest)
        if kind == "dir" and path.parent == SOURCES and path.name.startswith("linux-"):
            return path.name
    return ""


def contents_digest(contents: str) -> str:
    """A digest of what a package installed, whenever that was: CONTENTS without its times. Pure."""
    kept = [
        line.rpartition(" ")[0] if line.startswith(("obj ", "sym ")) else line
        for line in contents.splitlines()
    ]
    return hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()


def require_sources(node: Node, atom: str) -> tuple[str, str, str]:
    """Have a sources package in the builder.

    Gives its category/name-version, its folder in /usr/src, and a digest of what it installed.

    Raises:
        BuildError: it does not build, or installs no tree.
    """
    done = _run(node, sources_argv(atom))
    if done.code:
        raise BuildError(f"{atom} could not be installed in the builder:\n{done.tail}")
    cpv = _run(node, ["portageq", "best_version", "/", atom]).output.strip()
    said = _run(node, ["cat", f"/var/db/pkg/{cpv}/CONTENTS"]).output
    if folder := sources_folder(said):
        return cpv, folder, contents_digest(said)
    raise BuildError(f"{atom} installs no tree below {SOURCES}.", remedy="Name another package.")


def sources_argv(atom: str) -> list[str]:
    """The command line that has the newest sources of `atom` in the builder. Pure."""
    return [
        *("emerge", "--color=n", "--nospinner", "--quiet-build=y"),
        *("--oneshot", "--update", "--usepkg", "--getbinpkg", atom),
    ]
