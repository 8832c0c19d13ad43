"""The programs that headnode runs: are they there, are they new enough, what is known of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path

from config.model import DistccMode
from headnode.doctor.findings import Finding, good, problem, warning
from headnode.errors import CommandError, EnvironmentLacksError
from headnode.process import PACKAGES, environment, run
from schedules.site import Site

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, how it is asked for its version, and what it is needed for.

    Below `least` something that we rely on is not there; `needed` is whether all is lost without.
    """

    name: str
    argv: tuple[str, ...]
    use: str
    least: Version = ()
    needed: bool = True


PROGRAMS = (
    # 3.1.0 brought --info=progress2, which the progress is read from (rsync's NEWS).
    Program(name="rsync", argv=("rsync", "--version"), use="mirrors the trees", least=(3, 1)),
    # 2.1.17 brought --quick-generate-key with a usage (GnuPG's NEWS).
    Program(name="gpg", argv=("gpg", "--version"), use="signs", least=(2, 1, 17)),
    Program(name="git", argv=("git", "--version"), use="mirrors git repositories", needed=False),
    Program(name="distccd", argv=("distccd", "--version"), use="spreads compiling", needed=False),
    Program(name="ssh", argv=("ssh", "-V"), use="reaches blades", needed=False),
    Program(name="nginx", argv=("nginx", "-v"), use="may serve in our place", needed=False),
)
# What is known of Portage, and what it means here. Source: its NEWS, and found out by running it.
LEAST_PORTAGE: Version = (3, 0, 77)
OBSERVABLE: Version = (3, 0, 82)
# Source: bintree.py of 3.0.83: USER_PATCHES is among _pkgindex_keys and has no value in
# _pkgindex_default_pkg_data, so that no entry of the index is ever found to be as it was.
SLOW_EMAINT: Version = (3, 0, 83)


EMAINT = (
    "emaint binhost --fix reads every package again each time (USER_PATCHES has no default in its "
    "index); headnode does not use it, so leave headnode's folders to headnode"
)
# Source: found out by running distcc 3.4 in Portage 3.0.83's sandbox: the build succeeds, and no
# helper has got anything (docs/distcc.md).
SANDBOXED = (
    "within Portage's network-sandbox nothing reaches a helper, and the build does not say so: "
    "name them in [distcc] helpers; headnode leaves that sandbox off then, and counts what was sent"
)
# Source: distcc's ebuild (no pump since Python 2 went); Debian 12's include server ends with
# "PY_SSIZE_T_CLEAN macro must be defined", and distcc goes on without it.
PUMPS = ("usr/bin/distcc-pump", "usr/bin/pump")
PUMPLESS = 'set [distcc] mode = "plain": Gentoo\'s distcc has none any more'
PUMP_FAILS = (
    "Debian 12's does not work (PY_SSIZE_T_CLEAN): headnode distcc probe tries it, or set "
    '[distcc] mode = "plain"'
)


def distcc(site: Site) -> Iterator[Finding]:
    """What is known to go wrong with distcc, and without a word."""
    for name, cls in site.cluster.classes.items():
        if "distcc" in cls.make_conf.get("FEATURES", "").split():
            yield warning(f"class {name} has FEATURES=distcc in make_conf", SANDBOXED)
    options, root = site.cluster.distcc, site.cluster.build.root
    if options.mode is DistccMode.PUMP:
        there = next((path for path in PUMPS if (root / path).exists()), None)
        if there is None:
            yield warning(f"[distcc] mode is pump, and {root} has no pump", PUMPLESS)
        elif (root / "etc/debian_version").exists():
            yield warning(f"[distcc] mode is pump, by {root / there} of Debian", PUMP_FAILS)
    if not options.helpers:
        yield good("no helpers are named; packages are compiled here")
    elif not any((root / path).exists() for path in ("usr/bin/distcc", "usr/local/bin/distcc")):
        yield warning(f"[distcc] helpers are named, and {root} has no distcc", "install it there")
    else:
        yield good("headnode distcc probe asks the helpers to compile")


def parse_version(text: str) -> Version:
    """The first dotted number in `text`; empty if there is none. Pure."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def dotted(version: Version) -> str:
    """A version as it is written. Pure."""
    return ".".join(map(str, version))


def programs(site: Site) -> Iterator[Finding]:
    """Whether the programs are there."""
    for program in PROGRAMS:
        if shutil.which(program.argv[0], path=environment()["PATH"]) is None:
            say = problem if program.needed else warning
            package = PACKAGES.get(program.name, "a package of the same name")
            yield say(f"no {program.name}: it {program.use}", f"install {package}")
            continue
        try:
            done = run(program.argv, timeout_s=20, check=False)
        except (CommandError, EnvironmentLacksError) as error:
            yield problem(f"{program.name} does not run: {error}")
            continue
        found = parse_version(f"{done.output}\n{done.errors}")
        if done.code and not found:
            yield problem(f"{program.name} does not run: exit code {done.code}", "install it anew")
        elif found < program.least:
            need = dotted(program.least)
            yield problem(f"{program.name} {dotted(found)} is too old", f"{need} or newer")
        else:
            yield good(f"{program.name} {dotted(found)}")


def portage(site: Site) -> Iterator[Finding]:
    """Which Portage builds, and what is known of it."""
    ours = parse_version(installed_version("portage"))
    yield _judge("the environment's Portage", ours)
    root = site.cluster.build.root
    if not root.is_dir():
        yield problem(f"[build] root {root} is not there", "unpack a stage3 there")
        return
    found = [path.name for path in Path(root, "var/db/pkg/sys-apps").glob("portage-[0-9]*")]
    if found:
        yield _judge(f"{root}'s Portage", parse_version(found[0]))
    elif not (root / "etc/gentoo-release").exists():
        yield warning(
            f"{root} is no Gentoo: packages are built with its compiler and libraries",
            "for real blades, unpack a Gentoo stage3 and name it in [build] root",
        )


def _judge(what: str, version: Version) -> Finding:
    text = f"{what} is {dotted(version)}"
    if version < LEAST_PORTAGE:
        return warning(text, f"this was tried with 3.0.83; update to {dotted(LEAST_PORTAGE)}")
    if version < OBSERVABLE:
        return warning(text, f"before {dotted(OBSERVABLE)} a build does not show its phases")
    if version == SLOW_EMAINT:
        return replace(good(text), remedy=f"known of it: {EMAINT}")
    return good(text)
