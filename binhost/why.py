"""Why a package would not be taken as a binary: emerge's refusal, read and put in plain words.

emerge is asked for the package from binaries alone, with the blade's own configuration and index;
what it prints is the answer, and the index says what there is instead. It stops at the first
package that it cannot have.

Source: _emerge.depgraph (`_show_unsatisfied_dep`) and portage.package.ebuild.getmaskingstatus of
Portage 3.0.83; tested on captured real output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from binhost.emerge import Step, binaries_argv, explain_no_plan, parse_plan, use_argv
from binhost.index import cp_of, field
from headnode.process import Completed
from headnode.wording import counted


class Kind(StrEnum):
    """What a reason is about."""

    VERSION = "version"
    SLOT = "slot"
    LIBRARY = "library"
    USE = "use"
    IUSE = "iuse"
    KEYWORD = "keyword"
    LICENCE = "licence"
    MASK = "mask"
    CHOST = "chost"
    EAPI = "eapi"
    SIGNATURE = "signature"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason against one package (`category/name-version`, or an atom that none meets)."""

    kind: Kind
    package: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether `atom` would be taken as a binary: `taken` is as what, if so, `plan` with what.

    `needed` is the atom that could not be had, the same or one that it needs, and `by` the packages
    that lead there, the nearest first.
    """

    atom: str
    taken: str | None = None
    plan: tuple[str, ...] = ()
    needed: str = ""
    by: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @property
    def text(self) -> str:
        """The verdict in plain words."""
        if self.taken:
            return f"{self.atom} would be taken as a binary: {self.taken}."
        lines = [f"{self.atom} would not be taken as a binary."]
        if self.by:
            lines.append(f"It comes to {self.needed}, which {', which '.join(_chain(self.by))}.")
        return "\n".join([*lines, *(reason.text for reason in self.reasons)])


def _chain(by: tuple[str, ...]) -> list[str]:
    return [f"{each} needs" for each in by]


Ask = Callable[[list[str]], Completed]


def explain(atom: str, entries: Iterable[str], ask: Ask) -> Verdict:
    """Ask a blade's emerge for `atom`; `entries` are of the index that it sees.

    `ask` runs a command on the blade, whatever its exit code.
    """
    done = ask(binaries_argv(atom))
    return judge(atom, done, list(entries), ask)


def judge(atom: str, done: Completed, entries: list[str], ask: Ask) -> Verdict:
    """The verdict of an emerge that was asked for `atom` (`binaries_argv`)."""
    if done.code == 0:
        plan = parse_plan(done.output)
        return Verdict(atom=atom, taken=_taken(atom, plan), plan=tuple(step.cpv for step in plan))
    said = done.output + done.errors
    verdict = read(atom, said, entries)
    if any(reason.kind is Kind.USE and not reason.text for reason in verdict.reasons):
        reasons = [_with_flags(reason, entries, ask) for reason in verdict.reasons]
        verdict = replace(verdict, reasons=tuple(reasons))
    return verdict


def _taken(atom: str, plan: list[Step]) -> str:
    from portage.dep import match_from_list

    if atom.startswith("@"):
        return counted(len(plan), "package")
    for step in plan:
        if match_from_list(_plain(atom), [step.cpv]):
            return f"{step.cpv}, build {step.build_id}"
    return counted(len(plan), "package")


UNSATISFIED = re.compile(
    r'^emerge: there are no (?:binary packages|ebuilds) to satisfy "(?P<atom>[^"]+)"', re.MULTILINE
)
MASKED = re.compile(
    r'^!!! All (?:binary packages|ebuilds) that could satisfy "(?P<atom>[^"]+)" have been masked',
    re.MULTILINE,
)
OTHER_USE = re.compile(
    r"^emerge: there are no (?:binary packages|ebuilds) built with USE flags to satisfy "
    r'"(?P<atom>[^"]+)"',
    re.MULTILINE,
)
CANDIDATE = re.compile(r"^- (?P<cpv>[^\s:]+)\S* \((?P<why>.+)\)$", re.MULTILINE)
REQUIRED_BY = re.compile(
    r'^\(dependency required by "(?P<by>[^":]+)[^"]*" \[\w+\]\)$', re.MULTILINE
)
NO_TREE = "emerge gives another reason"


def read(atom: str, said: str, entries: list[str]) -> Verdict:
    """What emerge's refusal says. A reason of another USE has no text yet: it names no flags."""
    # The atom that was asked for comes last, and says nothing; a set stands for all that it names.
    named = [found["by"] for found in REQUIRED_BY.finditer(said)]
    by = tuple(each for each in named if each != atom or each.startswith("@"))
    if found := OTHER_USE.search(said):
        reasons = [_other_use(each["cpv"], each["why"]) for each in CANDIDATE.finditer(said)]
    elif found := MASKED.search(said):
        reasons = [
            _masked(each["cpv"], why)
            for each in CANDIDATE.finditer(said)
            for why in each["why"].removeprefix("masked by: ").split(", ")
        ]
    elif found := UNSATISFIED.search(said):
        reasons = [_absent(found["atom"], entries)]
    else:
        text = f"{NO_TREE}:\n{explain_no_plan(said)}"
        return Verdict(
            atom=atom, reasons=(Reason(kind=Kind.OTHER, package=atom, text=text),), by=by
        )
    return Verdict(atom=atom, needed=found["atom"], by=by, reasons=tuple(reasons))


MASKS = (
    (re.compile(r"use flag configuration mismatch"), Kind.USE, ""),
    (
        re.compile(r"missing keyword"),
        Kind.KEYWORD,
        "{cpv}: none of its keywords is accepted on the blade (accept_keywords).",
    ),
    (
        re.compile(r"(?P<what>\S+) keyword"),
        Kind.KEYWORD,
        "{cpv}: its keyword {what} is not accepted on the blade (accept_keywords).",
    ),
    (
        re.compile(r"(?P<what>.+) license\(s\)"),
        Kind.LICENCE,
        "{cpv}: its licence {what} is not accepted on the blade (accept_license).",
    ),
    (re.compile(r"package\.mask"), Kind.MASK, "{cpv}: package.mask masks it on the blade."),
    (
        re.compile(r"CHOST: (?P<what>\S+)"),
        Kind.CHOST,
        "{cpv}: it was built for CHOST {what}, which is not the blade's.",
    ),
    (
        re.compile(r"EAPI (?P<what>\S+)"),
        Kind.EAPI,
        "{cpv}: the blade's Portage does not know its EAPI {what}.",
    ),
)


def _masked(cpv: str, why: str) -> Reason:
    for pattern, kind, text in MASKS:
        if found := pattern.fullmatch(why):
            return Reason(kind=kind, package=cpv, text=text.format(cpv=cpv, **found.groupdict()))
    return Reason(kind=Kind.OTHER, package=cpv, text=f"{cpv}: masked by {why}.")


def _other_use(cpv: str, why: str) -> Reason:
    kind, _, flags = why.partition(": ")
    if kind == "Missing IUSE":
        return Reason(
            kind=Kind.IUSE, package=cpv, text=f"{cpv}: it was built without a USE flag {flags}."
        )
    return Reason(kind=Kind.USE, package=cpv, text=f"{cpv}: it was not built with {flags}.")


def _absent(atom: str, entries: list[str]) -> Reason:
    """Why nothing in the index meets an atom, or a soname as in `x86_64: libc.so.6`."""
    from portage.dep import Atom, match_from_list

    if ": " in atom:
        text = f"No package of the ring and no library of the root provides {atom}."
        return Reason(kind=Kind.LIBRARY, package=atom, text=text)
    wanted = Atom(atom, allow_repo=True)
    there = {
        str(field(entry, "CPV")): field(entry, "SLOT") or "0"
        for entry in entries
        if cp_of(str(field(entry, "CPV"))) == wanted.cp
    }
    has = ", ".join(f"{cpv}:{slot}" for cpv, slot in sorted(there.items()))
    if not there:
        text = f"The ring has no {wanted.cp}."
        return Reason(kind=Kind.VERSION, package=atom, text=text)
    if wanted.slot and match_from_list(_plain(atom), sorted(there)):
        text = f"No {wanted.cp} of the ring has the slot that {atom} wants; it has {has}."
        return Reason(kind=Kind.SLOT, package=atom, text=text)
    return Reason(kind=Kind.VERSION, package=atom, text=f"The ring has no {atom}; it has {has}.")


def _plain(atom: str) -> Any:
    """An atom's package and version alone."""
    from portage.dep import Atom

    return Atom(atom, allow_repo=True).without_repo.without_use.without_slot


def _with_flags(reason: Reason, entries: list[str], ask: Ask) -> Reason:
    """Name the flags in which a binary and a blade differ: the blade is asked for its own."""
    if reason.kind is not Kind.USE or reason.text:
        return reason
    done = ask(use_argv(reason.package))
    wanted = blade_flags(reason.package, done.output + done.errors)
    built = [entry for entry in entries if field(entry, "CPV") == reason.package]
    differ = [_differences(entry, wanted) for entry in built] if wanted else []
    how = " or ".join(sorted({" ".join(each) for each in differ if each}))
    text = f"{reason.package}: it was built with other USE flags than the blade has"
    text += f"; the blade wants {how}." if how else "."
    return Reason(kind=Kind.USE, package=reason.package, text=text)


def blade_flags(cpv: str, said: str) -> dict[str, bool]:
    """The USE flags that `use_argv` shows for a package, each with whether it is on."""
    shown = re.search(rf"{re.escape(cpv)}\S*.* USE=\"(?P<flags>[^\"]*)\"(?P<more>.*)", said)
    if not shown:
        return {}
    flags = shown["flags"].split()
    for name, more in re.findall(r'([A-Z0-9_]+)="([^"]*)"', shown["more"]):
        flags += [
            f"{'-' if flag.startswith('-') else ''}{name.lower()}_{flag.lstrip('-')}"
            for flag in more.split()
        ]
    # (flag) is forced or masked, flag* changed, flag% new: Source: emerge(1), --verbose.
    plain = [flag.strip("(){}").rstrip("*%") for flag in flags]
    return {flag.lstrip("-"): not flag.startswith("-") for flag in plain}


def _differences(entry: str, wanted: dict[str, bool]) -> list[str]:
    on = set((field(entry, "USE") or "").split())
    known = {flag.lstrip("+-") for flag in (field(entry, "IUSE") or "").split()}
    return [
        f"{flag if want else f'-{flag}'}"
        for flag, want in sorted(wanted.items())
        if flag in known and want != (flag in on)
    ]
