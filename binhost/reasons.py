"""Why what kept its version was built again. Pure.

It is read from what Portage wrote into the index entries: slots and sub-slots that a package was
built against (`dev-libs/x:0/1=`), USE, USER_PATCHES, dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from binhost.index import field

DEPEND_KEYS = ("DEPEND", "BDEPEND", "RDEPEND", "PDEPEND", "IDEPEND")
EBUILD_KEYS = ("EAPI", "SLOT", "KEYWORDS", "IUSE", "LICENSE", "DEFINED_PHASES", "RESTRICT")
# What a binary was built against: an atom with its slot and sub-slot filled in (PMS, "Slot
# operators": Portage records `:=` as `:slot/sub-slot=`).
BINDING = re.compile(
    r"(?P<atom>[A-Za-z0-9+_.-]+/[^\s:\[\]]+):(?P<slot>[^\s/=\[]+)/(?P<sub>[^\s=\[]+)="
)

EbuildChanged = Callable[[str, str], bool | None]
"""Whether the ebuild of a CPV of a repository differs; None where a tree is gone."""


def cpv_of_entry(entry: str) -> str:
    """The package that an entry is of."""
    return field(entry, "CPV") or ""


def reasons(
    old: str, new: str, patched: Iterable[str], ebuild_changed: EbuildChanged
) -> Iterable[str]:
    """Why a version was built again, the surest reasons first."""
    found = [*_sub_slots(old, new), *_use(old, new), *_patches(old, new, patched)]
    found += _ebuild(old, new, ebuild_changed)
    if not found and any(_unbound(old, key) != _unbound(new, key) for key in DEPEND_KEYS):
        found.append("dependencies changed")
    yield from found or ["built again; the index does not say why"]


def _bindings(entry: str) -> dict[tuple[str, str], str]:
    """What a package was built against: (name, slot) -> sub-slot."""
    from portage.versions import cpv_getkey

    found = {}
    for key in DEPEND_KEYS:
        for match in BINDING.finditer(field(entry, key) or ""):
            atom = match["atom"].lstrip("<>=~!")
            name = cpv_getkey(atom.rstrip("*")) or atom
            found[str(name), match["slot"]] = match["sub"]
    return found


def _sub_slots(old: str, new: str) -> Iterable[str]:
    before, after = _bindings(old), _bindings(new)
    by_name = {name: (slot, sub) for (name, slot), sub in before.items()}
    for (name, slot), sub in sorted(after.items()):
        was = before.get((name, slot))
        if was is not None and was != sub:
            yield f"sub-slot of {name}: {slot}/{was} -> {slot}/{sub}"
        elif was is None and name in by_name and (name, by_name[name][0]) not in after:
            yield f"slot of {name}: {'/'.join(by_name[name])} -> {slot}/{sub}"


def _unbound(entry: str, key: str) -> str:
    return BINDING.sub(lambda match: f"{match['atom']}:=", field(entry, key) or "")


def _use(old: str, new: str) -> Iterable[str]:
    before, after = (set((field(each, "USE") or "").split()) for each in (old, new))
    signs = [f"+{flag}" for flag in sorted(after - before)]
    signs += [f"-{flag}" for flag in sorted(before - after)]
    if signs:
        yield f"USE: {' '.join(signs)}"


def _patches(old: str, new: str, patched: Iterable[str]) -> Iterable[str]:
    mine = [path for path in patched if _applies(path, new)]
    if mine:
        yield f"patch: {', '.join(mine)}"
    elif field(old, "USER_PATCHES") != field(new, "USER_PATCHES"):
        yield "patch: user patches differ"


def _applies(path: str, entry: str) -> bool:
    """Whether a patch is one of a package's (portage(5), /etc/portage/patches)."""
    from portage.versions import catpkgsplit

    parts = catpkgsplit(cpv_of_entry(entry))
    if not parts or path.count("/") < 2:
        return False
    category, name, version, revision = parts
    folder = path.split("/")[1]
    base, _, slot = folder.partition(":")
    names = {name, f"{name}-{version}", f"{name}-{version}-{revision}"}
    own_slot = (field(entry, "SLOT") or "0").partition("/")[0]
    return path.startswith(f"{category}/") and base in names and slot in ("", own_slot)


def _ebuild(old: str, new: str, ebuild_changed: EbuildChanged) -> Iterable[str]:
    repos = [field(each, "REPO") or "" for each in (old, new)]
    keys = [key for key in EBUILD_KEYS if field(old, key) != field(new, key)]
    if repos[0] != repos[1]:
        yield f"repository: {repos[0]} -> {repos[1]}"
    elif keys:
        yield f"ebuild changed: {', '.join(keys)}"
    elif ebuild_changed(cpv_of_entry(new), repos[1]):
        yield "ebuild changed"
