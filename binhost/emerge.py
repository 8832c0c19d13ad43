"""emerge, as the builder runs it: its command lines, and what its output means. No I/O.

Source: emerge(1) of Portage 3.0.83; the output formats are tested on captured real output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

# --binpkg-respect-use: without it emerge takes a binary of other USE flags, which is no match.
# --binpkg-changed-deps: an ebuild whose dependencies were edited in place is built anew.
QUIET = ("--color=n", "--nospinner")
BINARIES = ("--usepkg", "--getbinpkg", "--binpkg-respect-use=y", "--binpkg-changed-deps=y")


class Kind(StrEnum):
    """Where emerge would take a package from."""

    EBUILD = "ebuild"
    BINARY = "binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One package of a plan. `build_id` is known for binaries only."""

    kind: Kind
    cpv: str
    repo: str
    build_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A package that did not build or install.

    `phase` is empty where emerge does not say it (a failed download); `log` is the path in the
    builder, empty if there is none.
    """

    package: str
    phase: str
    log: str


def closure_argv(set_name: str) -> list[str]:
    """Ask what a blade with nothing installed would install, binaries first. Pure."""
    return [
        *("emerge", *QUIET, "--pretend", "--verbose", "--emptytree", "--with-bdeps=n"),
        *BINARIES,
        set_name,
    ]


def sources_argv(set_name: str) -> list[str]:
    """Ask for everything that building a set from nothing takes, build tools included. Pure."""
    return [
        *("emerge", *QUIET, "--pretend", "--verbose", "--emptytree", "--with-bdeps=y"),
        set_name,
    ]


def plan_argv(atom: str) -> list[str]:
    """Ask what installing `atom` in the builder takes, binaries first. Pure."""
    return [
        *("emerge", *QUIET, "--pretend", "--verbose", "--oneshot", "--update"),
        *BINARIES,
        atom,
    ]


def preserved_argv() -> list[str]:
    """Ask what links to libraries that are only kept for it. Pure."""
    return [
        *("emerge", *QUIET, "--pretend", "--verbose", "--oneshot", "--usepkg=n"),
        "@preserved-rebuild",
    ]


def build_argv(cpvs: Iterable[str], *, jobs: int, anew: Sequence[str] = ()) -> list[str]:
    """Build these packages even where they are installed; what they need may come as a binary.

    `anew` are names (`category/name`) that are built although there are binaries of them.
    """
    return [
        *("emerge", *QUIET, "--quiet-build=y", f"--jobs={jobs}", f"--load-average={jobs + 1}"),
        *("--keep-going", "--oneshot"),
        *("--update", "--deep", "--selective=n", "--with-bdeps=y"),
        *BINARIES,
        *([f"--usepkg-exclude={' '.join(anew)}"] if anew else []),
        *(f"={cpv}" for cpv in cpvs),
    ]


STEP = re.compile(
    r"^\[(?P<kind>ebuild|binary)\b[^\]]*\] (?P<cpv>[^\s:]+)(?::(?P<slot>[^\s:]+))?::(?P<repo>\S+)"
)


def parse_plan(output: str) -> list[Step]:
    """The packages of a `--pretend --verbose` run, in order.

    A binary is shown as `category/name-version-buildid` under binpkg-multi-instance.
    """
    steps = []
    for found in filter(None, map(STEP.match, output.splitlines())):
        kind, cpv, build_id = Kind(found["kind"]), found["cpv"], None
        if kind is Kind.BINARY:
            cpv, _, number = cpv.rpartition("-")
            build_id = int(number)
        steps.append(Step(kind=kind, cpv=cpv, repo=found["repo"], build_id=build_id))
    return steps


FAILED = re.compile(r"^>>> Failed to (?:emerge|install) (?P<package>[^\s,]+)", re.MULTILINE)
PHASE = re.compile(r"ERROR: (?P<package>\S+?)::\S+ failed \((?P<phase>\w+) phase\)")


def parse_failures(output: str) -> list[Failure]:
    """The packages that an emerge run could not build or install, each with phase and log."""
    phases = {found["package"]: found["phase"] for found in PHASE.finditer(output)}
    packages = dict.fromkeys(found["package"] for found in FAILED.finditer(output))
    return [
        Failure(package=package, phase=phases.get(package, ""), log=_log_of(package, output))
        for package in packages
    ]


def _log_of(package: str, output: str) -> str:
    # Its path comes lines later, after what other jobs print: it is known by its name.
    name = re.escape(package.replace("/", ":"))
    found = re.search(rf"'(?P<log>/[^']*/{name}:[^'/]*\.log)'", output)
    return found["log"] if found else ""


UNFETCHED = re.compile(r"Couldn't download '(?P<file>[^']+)'")


def unfetched(log: str) -> tuple[str, ...]:
    """The distfiles that a package's log says could not be had."""
    return tuple(dict.fromkeys(found["file"] for found in UNFETCHED.finditer(log)))


COLOUR = re.compile(r"\x1b\[[\d;]*m")


def plain(text: str) -> str:
    """Text without terminal colours: logs have them whatever emerge's --color says."""
    return COLOUR.sub("", text)


PROGRESS = re.compile(r"^>>> (?:Emerging|Completed|Failed to (?:emerge|install)) ")


def progress_line(line: str) -> str | None:
    """What of a line is worth showing while emerge works; None for the rest."""
    if not PROGRESS.match(line):
        return None
    return line.removeprefix(">>> ").removesuffix(", Log file:")


def completed(line: str) -> tuple[int, int] | None:
    """Which package of how many is there now, where a line of emerge says so; in any order."""
    found = re.match(r"(?:>>> )?Completed \((\d+) of (\d+)\)", line)
    return (int(found[1]), int(found[2])) if found else None


UNSATISFIED = re.compile(
    r'there are no ebuilds to satisfy "(?P<atom>[^"]+)"'
    r'(?:.*\n+\(dependency required by "(?P<by>[^"]+)")?'
)
NOISE = (
    "!!! Invalid binary package",  # a name that the builder reserved with an empty file
    "!!! Problem with sandbox",
    "Calculating dependencies",
    "Dependency resolution took",
    "Error reading binpkg",
    "For more information, see the MASKED PACKAGES",
    "These are the packages",
    "Total:",
    "man page or refer to the Gentoo Handbook",
)


def explain_no_plan(output: str) -> str:
    """Why emerge found no plan, in its own words without the decoration."""
    lines = (line.strip() for line in output.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(NOISE))


def unknown_atom(output: str) -> tuple[str, str] | None:
    """The atom that no ebuild satisfies, and what needs it; None if that was not the reason.

    emerge stops at the first. Masked packages are another matter.
    """
    found = UNSATISFIED.search(output)
    return (found["atom"], found["by"] or "@blade") if found else None


def lacking(plan: Sequence[Step]) -> list[str]:
    """The packages of a closure for which there is no binary yet."""
    return [step.cpv for step in plan if step.kind is Kind.EBUILD]


def binaries_argv(wanted: str, *, sonames: bool = False) -> list[str]:
    """Ask a blade for what it would install of `wanted` (an atom or a set) from binaries alone.

    It is asked as if nothing were installed. With `sonames`, each library that a package needs must
    come with another. Pure.
    """
    return [
        *("emerge", *QUIET, "--pretend", "--verbose", "--emptytree", "--oneshot"),
        *("--with-bdeps=n", "--getbinpkgonly", "--binpkg-respect-use=y"),
        f"--ignore-soname-deps={'n' if sonames else 'y'}",
        wanted,
    ]


def converged_argv() -> list[str]:
    """Ask a blade what it would still do to be up to date. Pure."""
    return ["emerge", *QUIET, "--pretend", "--verbose", "--update", "--deep", "--newuse", "@world"]


def use_argv(cpv: str) -> list[str]:
    """Ask a blade which USE flags it would build a package with. Pure."""
    return [
        *("emerge", *QUIET, "--ignore-default-opts", "--pretend", "--verbose", "--nodeps"),
        *("--usepkg=n", "--getbinpkg=n", f"={cpv}"),
    ]


LOGGED = re.compile(
    r"^(?P<at>\d+):  (?:=== \(\d+ of \d+\) Compiling/\w+ \((?P<begun>[^:]+)::|"
    r"::: completed emerge \(\d+ of \d+\) (?P<ended>\S+) )"
)


def build_seconds(log: str) -> dict[str, float]:
    """How long the last build of each `category/name-version` took, from emerge.log. Pure.

    Whole seconds, from its first phase until it was installed and packed. What came as a binary, or
    failed, is not in it.
    """
    begun: dict[str, int] = {}
    took: dict[str, float] = {}
    for found in filter(None, map(LOGGED.match, log.splitlines())):
        if found["begun"]:
            begun[found["begun"]] = int(found["at"])
        elif found["ended"] in begun:
            took.pop(found["ended"], None)  # the newest come last
            took[found["ended"]] = float(int(found["at"]) - begun.pop(found["ended"]))
    return took
