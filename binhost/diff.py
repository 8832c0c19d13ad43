"""What lies between two generations: packages, trees, configuration, atoms. Pure."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from binhost.index import field
from binhost.reasons import EbuildChanged, cpv_of_entry, reasons
from binhost.records import Configuration, Generation

PATCHES = "/etc/portage/patches/"


class Kind(StrEnum):
    """What became of a package (of one slot)."""

    ADDED = "added"
    REMOVED = "removed"
    UP = "up"
    DOWN = "down"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageChange:
    """A package of one slot; `old` and `new` are `version-build id`, "" where there is none."""

    name: str
    slot: str
    kind: Kind
    old: str
    new: str
    why: tuple[str, ...] = ()

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel or its sources."""
        return self.name.startswith("sys-kernel/")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file or a link of the configuration; `text` is its unified diff."""

    path: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeChange:
    """A repository that moved from one snapshot to another; "" where there is none."""

    repo: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that lies between generation `old` (0: nothing) and `new`."""

    old: int
    new: int
    packages: tuple[PackageChange, ...]
    trees: tuple[TreeChange, ...]
    configuration: tuple[FileChange, ...]
    atoms_added: tuple[str, ...]
    atoms_removed: tuple[str, ...]

    @property
    def kernels(self) -> tuple[PackageChange, ...]:
        """The kernels among the packages."""
        return tuple(each for each in self.packages if each.is_kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A generation with its entries and the snapshot (stamp) of each repository."""

    generation: Generation
    entries: Mapping[str, str]
    stamps: Mapping[str, str]


def compare(
    old: State | None, new: State, ebuild_changed: EbuildChanged = lambda cpv, repo: None
) -> Difference:
    """Everything that differs; with `old` None everything is new."""
    before = old.generation if old else None
    configuration = before.configuration if before else Configuration(files={}, links={})
    atoms = set(before.atoms) if before else set()
    patched = _patched(configuration, new.generation.configuration)
    return Difference(
        old=before.number if before else 0,
        new=new.generation.number,
        packages=tuple(
            compare_packages(old.entries if old else {}, new.entries, patched, ebuild_changed)
        ),
        trees=tuple(_trees(old.stamps if old else {}, new.stamps)),
        configuration=tuple(_files(configuration, new.generation.configuration)),
        atoms_added=tuple(each for each in new.generation.atoms if each not in atoms),
        atoms_removed=tuple(sorted(atoms - set(new.generation.atoms))),
    )


def compare_packages(
    old: Mapping[str, str],
    new: Mapping[str, str],
    patched: Iterable[str],
    ebuild_changed: EbuildChanged,
) -> Iterable[PackageChange]:
    """The packages (entries by pool name) that are not the same, by name and slot."""
    before = _by_slot(old[path] for path in old if path not in new)
    after = _by_slot(new[path] for path in new if path not in old)
    for name, slot in sorted(before.keys() | after.keys()):
        # One slot has one package, but for builds of one version side by side.
        for one, two in zip_longest(before[name, slot], after[name, slot]):
            yield _change(name, slot, one, two, patched, ebuild_changed)


def _by_slot(entries: Iterable[str]) -> defaultdict[tuple[str, str], list[str]]:
    from portage.versions import cpv_getkey

    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        slot = (field(entry, "SLOT") or "0").partition("/")[0]
        found[cpv_getkey(cpv_of_entry(entry)), slot].append(entry)
    return found


def _version(entry: str) -> str:
    from portage.versions import cpv_getversion

    return str(cpv_getversion(cpv_of_entry(entry)))


def _shown(entry: str | None) -> str:
    return f"{_version(entry)}-{field(entry, 'BUILD_ID') or '0'}" if entry else ""


def _change(
    name: str,
    slot: str,
    old: str | None,
    new: str | None,
    patched: Iterable[str],
    ebuild_changed: EbuildChanged,
) -> PackageChange:
    kind = _kind(old, new)
    why: tuple[str, ...] = ()
    if kind is Kind.REBUILT and old and new:
        why = tuple(reasons(old, new, patched, ebuild_changed))
    return PackageChange(name=name, slot=slot, kind=kind, old=_shown(old), new=_shown(new), why=why)


def _kind(old: str | None, new: str | None) -> Kind:
    from portage.versions import vercmp

    if old is None or new is None:
        return Kind.REMOVED if new is None else Kind.ADDED
    order = vercmp(_version(new), _version(old)) or 0
    return Kind.UP if order > 0 else Kind.DOWN if order < 0 else Kind.REBUILT


def _patched(old: Configuration, new: Configuration) -> list[str]:
    """The user patches that differ, as paths below the folder of patches."""
    paths = sorted(path for path in {**old.files, **new.files} if path.startswith(PATCHES))
    differ = (path for path in paths if old.files.get(path) != new.files.get(path))
    return [path.removeprefix(PATCHES) for path in differ]


def _trees(old: Mapping[str, str], new: Mapping[str, str]) -> Iterable[TreeChange]:
    for repo in sorted(old.keys() | new.keys()):
        if old.get(repo) != new.get(repo):
            yield TreeChange(repo=repo, old=old.get(repo, ""), new=new.get(repo, ""))


def _files(old: Configuration, new: Configuration) -> Iterable[FileChange]:
    for ours, theirs in ((old.files, new.files), (old.links, new.links)):
        for path in sorted(ours.keys() | theirs.keys()):
            before, after = ours.get(path), theirs.get(path)
            if before != after:
                yield FileChange(
                    path=path,
                    kind="added" if before is None else "removed" if after is None else "changed",
                    text=_unified(path, before, after),
                )


def _unified(path: str, old: str | None, new: str | None) -> str:
    lines = difflib.unified_diff(
        (old or "").splitlines(),
        (new or "").splitlines(),
        "/dev/null" if old is None else f"a{path}",
        "/dev/null" if new is None else f"b{path}",
        lineterm="",
    )
    return "\n".join(lines)
