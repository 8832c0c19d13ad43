"""Gentoo's security advisories (GLSAs) and news of a tree, as they concern a set of packages.

Which packages an advisory means, and whom a news item is for, is Portage's to say (`portage.glsa`,
which glsa-check(1) is made of, and `portage.news`); it is given the packages of a generation where
it would look at what a machine has installed. So the whole fleet is asked about once, here.

Source: GLEP 42 (news), the GLSA DTD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from binhost.index import field

FOLDER = "metadata/glsa"
NEWS_FOLDER = "metadata/news"
NAMES = re.compile(r"""<package\b[^>]*\bname=["']\s*([^"'\s]+)""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """A GLSA that says something of packages: `affected` of them, `fixed` by these atoms.

    `severity` is its impact: low, minimal, normal or high.
    """

    name: str
    title: str
    severity: str
    announced: str
    affected: tuple[str, ...]
    fixed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A GLSA that could not be read, and why: nobody knows what it would say."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A news item; `posted` is a date as it stands, `text` what it says."""

    name: str
    title: str
    posted: str
    text: str


class Packages:
    """Packages with their slots, asked as `portage.glsa` and `portage.news` ask a dbapi."""

    def __init__(self, slots: Mapping[str, str]) -> None:
        """`slots`: category/name-version to slot."""
        from portage.versions import _pkg_str

        self._known = {cpv: _pkg_str(cpv, slot=slot) for cpv, slot in slots.items()}

    def match(self, atom: Any) -> list[Any]:
        """Those that an atom means."""
        from portage.dep import Atom, match_from_list

        return list(match_from_list(Atom(str(atom)), list(self._known.values())))

    def _pkg_str(self, cpv: Any, repo: object) -> Any:
        return self._known[str(cpv)]


def slots_of(entries: Mapping[str, str]) -> dict[str, str]:
    """Packages and slots of index entries. Pure."""
    values = entries.values()
    return {field(each, "CPV") or "": field(each, "SLOT") or "0" for each in values}


def advisories(
    tree: Path,
    slots: Mapping[str, str],
    arch: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Advisory | Unreadable]:
    """What the GLSAs of a tree say of these packages, the newest first.

    `on_progress` is told how many of how many were read.
    """
    from portage.versions import cpv_getkey

    names = {cpv_getkey(cpv) for cpv in slots}
    packages = Packages(slots)
    paths = sorted((tree / FOLDER).glob("glsa-*.xml"), reverse=True)
    for number, path in enumerate(paths, 1):
        on_progress(number, len(paths))
        text = path.read_text(encoding="utf-8", errors="replace")
        if names.isdisjoint(NAMES.findall(text)):
            continue
        try:
            found = _judge(path, packages, arch)
        except Exception as error:
            yield Unreadable(
                name=path.stem.removeprefix("glsa-"), why=str(error) or type(error).__name__
            )
            continue
        if found is not None:
            yield found


def _judge(path: Path, packages: Packages, arch: str) -> Advisory | None:
    from portage.glsa import Glsa

    glsa = Glsa(str(path), {"ARCH": arch, "GLSA_DIR": str(path.parent)}, packages, packages)
    if not glsa.isVulnerable():
        return None
    rows = [row for rows in glsa.packages.values() for row in rows if _means(row["arch"], arch)]
    return Advisory(
        name=path.stem.removeprefix("glsa-"),
        title=" ".join(glsa.title.split()),
        severity=glsa.impact_type,
        announced=glsa.announced,
        affected=tuple(sorted(set(_vulnerable(rows, packages)))),
        fixed=tuple(sorted({atom for row in rows for atom in row["unaff_atoms"]})),
    )


def _means(arches: str, arch: str) -> bool:
    return arches == "*" or arch in arches.split()


def _vulnerable(rows: Iterable[Mapping[str, Any]], packages: Packages) -> Iterator[str]:
    from portage.glsa import match

    for row in rows:
        safe = {str(each) for atom in row["unaff_atoms"] for each in match(atom, packages)}
        for atom in row["vul_atoms"]:
            yield from (str(each) for each in match(atom, packages) if str(each) not in safe)


def news(tree: Path, slots: Mapping[str, str], arch: str, profile: str) -> Iterator[News]:
    """The news items of a tree that are for these packages, the newest first."""
    from portage.news import NewsItem

    packages = Packages(slots)
    for path in sorted((tree / NEWS_FOLDER).glob("*/*.en.txt"), reverse=True):
        item = NewsItem(str(path), path.parent.name)
        if item.isValid() and item.isRelevant(packages, {"ARCH": arch}, profile):
            text = path.read_text(encoding="utf-8", errors="replace")
            head, _, body = text.partition("\n\n")
            fields = HeaderParser().parsestr(head)
            yield News(
                name=path.parent.name,
                title=str(fields.get("Title", path.parent.name)),
                posted=str(fields.get("Posted", "")),
                text=body.strip("\n"),
            )
