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
    """A package that did not build. `log` is the path in the builder."""

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


def build_argv(cpvs: Iterable[str], *, jobs: int) -> list[str]:
    """Build these packages even where they are installed; what they need may come as a binary."""
    return [
        *("emerge", *QUIET, "--quiet-build=y", f"--jobs={jobs}", "--keep-going", "--oneshot"),
        *("--update", "--deep", "--selective=n", "--with-bdeps=y"),
        *BINARIES,
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


FAILED = re.compile(r"Failed to emerge (?P<package>[^\s,]+)")
LOG = re.compile(r"'(?P<log>/[^']+\.log)'")
PHASE = re.compile(r"ERROR: (?P<package>\S+?)::\S+ failed \((?P<phase>\w+) phase\)")


def parse_failures(output: str) -> list[Failure]:
    """The packages that an emerge run could not build, each with phase and log."""
    phases = {found["package"]: found["phase"] for found in PHASE.finditer(output)}
    failures: dict[str, Failure] = {}
    for found in FAILED.finditer(output):
        package = found["package"]
        log = LOG.search(output, found.end())
        failures[package] = Failure(
            package=package, phase=phases.get(package, "?"), log=log["log"] if log else ""
        )
    return list(failures.values())


PROGRESS = re.compile(r"^>>> (?P<what>Emerging|Completed|Failed to emerge).*")


def progress_line(line: str) -> str | None:
    """What of a line is worth showing while emerge works; None for the rest."""
    return line.removeprefix(">>> ") if PROGRESS.match(line) else None


UNSATISFIED = re.compile(r"there are no (?:ebuilds|binary packages) .*satisfy \"(?P<atom>[^\"]+)\"")


def explain_no_plan(output: str) -> str:
    """Why emerge found no plan, in its own words without the decoration."""
    noise = ("These are the packages", "Calculating dependencies", "Dependency resolution took")
    lines: list[str] = []
    for line in output.splitlines():
        text = line.strip()
        if text and not text.startswith((*noise, "!!! Problem with sandbox", "Total:")):
            lines.append(text)
    return "\n".join(lines)


def lacking(plan: Sequence[Step]) -> list[str]:
    """The packages of a closure for which there is no binary yet."""
    return [step.cpv for step in plan if step.kind is Kind.EBUILD]
