"""The gate `monotonic`: nothing disappears that a blade has, unless the new set says so. Pure.

Packages are compared by name (`category/name`) between what a ring has and what it is to get. One
that is gone is explained where everything that wanted it says so itself:

- an atom of the old set that named it, and that was taken out of the set;
- a package that needed it at run time (RDEPEND, PDEPEND, IDEPEND, as Portage reads them), which is
  still there in another build that needs it no more;
- a package that needed it and is gone too, with an explanation that does not lead back to it.

What is gone without that has lost its ebuild, or its build, or its place in the world file by
accident, and the gate names it with what still wants it or wanted it last. A large share of all
packages is refused even where the set explains it: a truncated world file explains everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from binhost.index import cp_of, field
from binhost.records import GateReport
from config.model import Gate

RUN_TIME = ("RDEPEND", "PDEPEND", "IDEPEND")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What a ring has, or is to get: the set's atoms, and its packages by pool name.

    `read` gives their index entries, which nobody asks for unless something is gone.
    """

    atoms: Collection[str]
    packages: Collection[str]
    read: Callable[[], Mapping[str, str]]


def examine(old: Stand, new: Stand, *, max_gone_percent: int) -> GateReport:
    """Whether all that is gone from `old` to `new` is explained, and is not too much."""
    had = names_of(old.packages)
    replaced = names_of(set(old.packages).difference(new.packages))
    gone = sorted(replaced - names_of(new.packages)) if replaced else []
    wrong = [f"{name} is gone: {why}." for name, why in _unexplained(gone, old, new).items()]
    if max_gone_percent and len(gone) * 100 > max_gone_percent * len(had):
        wrong.append(
            f"{len(gone)} of {len(had)} packages are gone at once ([publish] max_gone_percent is "
            f"{max_gone_percent}): {', '.join(gone)}."
        )
    return GateReport(
        gate=Gate.MONOTONIC,
        passed=not wrong,
        report="\n".join(wrong) if wrong else _good(len(had), gone),
    )


def names_of(packages: Iterable[str]) -> set[str]:
    """The packages' names (`category/name`), which begin their pool names. Pure."""
    return {name.rpartition("/")[0] for name in packages}


def _good(count: int, gone: list[str]) -> str:
    if not count:
        return "The ring has nothing that could disappear."
    if not gone:
        return f"All of the ring's packages ({count}) are there in the new generation."
    return f"{len(gone)} of {count} packages are gone, as the set says: {', '.join(gone)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wants:
    """Who wanted a package that is gone.

    `still` says who wants it all the same, `given_up` whether somebody who is there ceased to,
    `gone` the names of those who are gone themselves.
    """

    still: tuple[str, ...]
    given_up: bool
    gone: frozenset[str]

    @property
    def why(self) -> str:
        """Why nothing explains that it is gone."""
        if self.still:
            return ", ".join(self.still)
        if self.gone:
            return (
                f"only {', '.join(sorted(self.gone))} needed it, and nothing explains that either"
            )
        return "no atom of the old set and no package needed it (perhaps @system did)"


def _unexplained(gone: list[str], old: Stand, new: Stand) -> dict[str, str]:
    if not gone:
        return {}
    wants = _wants(gone, old, new)
    # What is still wanted is named; what only that needed goes with it, and is not.
    grounded = {name for name, each in wants.items() if each.still or each.given_up}
    more = grounded
    while more:
        more = {name for name in gone if wants[name].gone & more} - grounded
        grounded = grounded | more
    return {name: wants[name].why for name in gone if wants[name].still or name not in grounded}


def _wants(gone: list[str], old: Stand, new: Stand) -> dict[str, _Wants]:
    have = _by_name(new)
    names = frozenset(have)
    needed = {name: _needs(entries, frozenset()) for name, entries in _by_name(old).items()}
    needs_now = {name: _needs(have[name], names) for name in needed.keys() & have.keys()}
    wants = {}
    for name in gone:
        users = {user for user, wanted in needed.items() if name in wanted and user != name}
        there = users & have.keys()
        kept = [f"the set has {atom}" for atom in new.atoms if _name_of(atom) == name]
        kept += [f"{user} needs it" for user in sorted(there) if name in needs_now[user]]
        named = any(_name_of(atom) == name for atom in old.atoms)
        wants[name] = _Wants(
            still=tuple(kept),
            given_up=bool(there) or named,
            gone=frozenset(users - there),
        )
    return wants


def _by_name(stand: Stand) -> dict[str, list[str]]:
    """The entries of each package name: several where it has several slots."""
    found: dict[str, list[str]] = {}
    for entry in stand.read().values():
        found.setdefault(cp_of(str(field(entry, "CPV"))), []).append(entry)
    return found


def _needs(entries: Iterable[str], there: frozenset[str]) -> frozenset[str]:
    """The names of the packages that a package needs at run time.

    Of alternatives (`|| ( a b )`) none is needed where one is `there`, except that one.
    """
    from portage.dep import use_reduce

    return frozenset(
        name
        for entry in entries
        for key in RUN_TIME
        for name in _named(
            use_reduce(field(entry, key) or "", matchall=True, opconvert=True), there
        )
    )


def _named(wanted: list[Any], there: frozenset[str]) -> Iterator[str]:
    """The names in a dependency as Portage's use_reduce takes it apart."""
    if wanted[:1] == ["||"]:
        options = [frozenset(_named([option], there)) for option in wanted[1:]]
        met = [option for option in options if option <= there]
        yield from frozenset[str]().union(*(met or options))
        return
    for each in wanted:
        if isinstance(each, list):
            yield from _named(each, there)
        elif not each.startswith("!") and (name := _name_of(each)):
            yield name


def _name_of(atom: str) -> str | None:
    """The package name of an atom; None of a set, and of what Portage does not take for an atom."""
    from portage.dep import Atom
    from portage.exception import InvalidAtom

    if atom.startswith("@"):
        return None
    try:
        return str(Atom(atom, allow_wildcard=True, allow_repo=True).cp)
    except InvalidAtom:  # of a set of before cluster.toml refused it
        return None
