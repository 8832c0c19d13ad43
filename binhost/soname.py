"""Libraries by the names that the loader is asked for, as package index entries have them. Pure.

A soname is written as Portage writes it, `x86_64: libblade.so.1`: the machine, then the name. A
package that requires one that nothing provides any more links to a preserved library: one that a
machine keeps only because something still uses it, and that a blade does not get.

Source: portage(5), "PROVIDES" and "REQUIRES" of a binary package; portage.dep.soname.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from binhost.index import cp_of, field


def parse(text: str) -> frozenset[str]:
    """The sonames of a PROVIDES or REQUIRES: `x86_64: liba.so.1 libb.so.2 x86_32: libc.so.1`."""
    found, machine = set(), ""
    for word in text.split():
        if word.endswith(":"):
            machine = word
        else:
            found.add(f"{machine} {word}")
    return frozenset(found)


def provided(entry: str) -> frozenset[str]:
    """What a package brings."""
    return parse(field(entry, "PROVIDES") or "")


def required(entry: str) -> frozenset[str]:
    """What a package needs."""
    return parse(field(entry, "REQUIRES") or "")


def unprovided(entries: Iterable[str], root: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """What each package (CPV) requires that neither another brings nor the `root` has."""
    entries = list(entries)
    there = root.union(*map(provided, entries))
    lacking = {
        str(field(entry, "CPV")): tuple(sorted(required(entry) - there)) for entry in entries
    }
    return {cpv: sonames for cpv, sonames in lacking.items() if sonames}


def left_behind(chosen: Iterable[str], known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The packages of `chosen` that were built against a library's earlier build, and its sonames.

    That earlier build is among `known`; the present one, in `chosen`, has another soname, and is
    younger than the package. A package that was built since is not named, whatever it requires:
    building it again would not help.
    """
    chosen = list(chosen)
    brought = frozenset[str]().union(*map(provided, chosen))
    builds = {_key(entry): entry for entry in chosen}
    former: dict[str, set[str]] = {}
    for entry in known:
        for soname in provided(entry) - brought:
            former.setdefault(soname, set()).add(_key(entry))
    found = {}
    for entry in chosen:
        moved = tuple(
            soname
            for soname in sorted(required(entry) & former.keys())
            if any(_is_younger(builds.get(key), entry) for key in former[soname])
        )
        if moved:
            found[str(field(entry, "CPV"))] = moved
    return found


def _key(entry: str) -> str:
    """Package and slot, without sub-slot: what an update replaces."""
    slot = (field(entry, "SLOT") or "0").partition("/")[0]
    return f"{cp_of(str(field(entry, 'CPV')))}:{slot}"


def _is_younger(library: str | None, user: str) -> bool:
    return library is not None and _built(library) > _built(user)


def _built(entry: str) -> int:
    return int(field(entry, "BUILD_TIME") or 0)


def soname_provided(root: frozenset[str]) -> str:
    """A profile's file `soname.provided`, for what the root has. Source: portage(5)."""
    machines: dict[str, list[str]] = {}
    for soname in sorted(root):
        machine, _, name = soname.partition(" ")
        machines.setdefault(machine, []).append(name)
    # Without the colon, other than in PROVIDES (portage.package.ebuild.config, grabdict).
    return "".join(f"{each.rstrip(':')} {' '.join(names)}\n" for each, names in machines.items())


def replaced(root: Mapping[str, frozenset[str]], entries: Iterable[str]) -> frozenset[str]:
    """What the packages of a root (`cat/name:slot` to what each brings) lose to `entries`."""
    keys = {_key(entry) for entry in entries}
    return frozenset[str]().union(*(brings for key, brings in root.items() if key in keys))
