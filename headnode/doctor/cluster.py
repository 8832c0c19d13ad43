"""The cluster: how old the trees are, what rings have, and what blades have of what they need."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from blades.inventory import Blade, all_blades, fold
from blades.setup import PULL_PATH, setup_files
from blades.transport import Outcome, run_on
from config.load import atoms_of
from config.values import native_flag
from headnode.doctor.findings import Finding, good, problem, warning
from mirror.status import warnings
from schedules.site import Site

LOOK_S = 60.0
# make.conf's variables that decide what a class is; they belong to options of their own.
OWN_OPTIONS = {
    "CHOST": "chost",
    "USE": "use",
    "CFLAGS": "cflags",
    "ACCEPT_LICENSE": "accept_license",
}
# What headnode writes itself, whatever a class says. Source: config.portage.
WRITTEN = ("BINPKG_FORMAT", "DISTDIR", "EMERGE_DEFAULT_OPTS", "GENTOO_MIRRORS", "PKGDIR")


def mirror(site: Site) -> Iterator[Finding]:
    """Whether the trees are there, and new."""
    options = site.cluster.mirror
    stale = warnings(site.state, options.repos, options.stale_h, datetime.now(UTC))
    yield from (warning(each, "headnode mirror sync, or mirror status for why") for each in stale)
    if not stale:
        yield good(f"{len(options.repos)} repositories")


def make_conf(site: Site) -> Iterator[Finding]:
    """Whether the headnode's own make.conf would mislead: packages are built with the class's."""
    path = site.cluster.build.root / "etc/portage/make.conf"
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    text = "\n".join(each.read_text(errors="replace") for each in files if each.is_file())
    if flag := native_flag(re.sub("[\"']", " ", text)):
        yield warning(
            f"{path} has {flag}: what it built traps on blades with another CPU",
            "packages are built with the class's own flags; programs of this root run in builds",
        )
    for name, cls in site.cluster.classes.items():
        yield from _at_odds(name, cls.make_conf)
    yield good("classes have their own configuration")


def _at_odds(name: str, make_conf: Mapping[str, str]) -> Iterator[Finding]:
    """Which of a class's variables are at odds with the binhost. Pure."""
    for variable in sorted(OWN_OPTIONS.keys() & make_conf.keys()):
        yield warning(
            f"class {name} sets {variable} in make_conf",
            f"set {OWN_OPTIONS[variable]} instead: the index and the gates go by that",
        )
    for variable in sorted({*WRITTEN} & make_conf.keys()):
        yield warning(
            f"class {name} sets {variable} in make_conf, which is as headnode writes it",
            "leave it out: blades and builder have another value than it says",
        )
    if "PORTAGE_BINHOST" in make_conf:
        yield warning(
            f"class {name} sets PORTAGE_BINHOST in make_conf",
            "leave it out: blades would take packages from there that no gate has seen; headnode "
            "import takes packages over",
        )


def deployments(site: Site) -> Iterator[Finding]:
    """Whether each ring has something, and blades would still take it."""
    now = datetime.now(UTC)
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            current = site.binhost(class_name).ring(ring).current()
            if current is None:
                yield warning(f"ring {ring} of {class_name} has nothing", "headnode publish")
            elif current.keys and current.expires <= now:
                yield problem(
                    f"ring {ring} of {class_name}: blades refuse what it has since "
                    f"{current.expires:%Y-%m-%d %H:%M} UTC",
                    "start headnode serve, which renews it",
                )
            else:
                yield good(f"ring {ring} of {class_name} has generation {current.generation}")


def blades(site: Site) -> Iterator[Finding]:
    """Whether blades are reached, and have the files that they were given."""
    known = all_blades(site.cluster)
    options = site.cluster.rollout.model_copy(update={"timeout_s": LOOK_S})
    keyring = site.keyring()
    wanted = {blade.name: _wanted(site, blade, keyring) for blade in known}
    paths = sorted({path for files in wanted.values() for path in files})
    line = f"sha256sum -- {shlex.join(paths)} 2>/dev/null; true"
    outcomes = run_on([blade.name for blade in known], line, options) if known else {}
    silent = [blade.name for blade in known if not _answered(outcomes.get(blade.name))]
    enrolled: dict[str, Outcome] = {}
    if silent and site.wallet.key.exists():  # that key may do nothing there but the pull's part
        options = site.rollout.model_copy(update={"timeout_s": LOOK_S})
        enrolled = run_on(silent, f"{PULL_PATH} status", options)
    by_key = {name for name, each in enrolled.items() if _answered(each)}
    yield from judge(known, wanted, {**outcomes, **enrolled}, by_key)


def _answered(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.code == 0


def _wanted(site: Site, blade: Blade, keyring: str | None) -> dict[str, str]:
    files = setup_files(site.cluster, blade, atoms_of(site.klass(blade.class_name)), keyring).files
    return {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}


def judge(
    known: list[Blade],
    wanted: dict[str, dict[str, str]],
    outcomes: dict[str, Outcome],
    by_key: Container[str] = (),
) -> Iterator[Finding]:
    """What the answers of blades come to: `wanted` digests by blade and path. Pure.

    Those that answered to the headnode's own key alone, `by_key`, say nothing of their files.
    """
    silent = [blade for blade in known if not _answered(outcomes.get(blade.name))]
    enrolled = [blade for blade in known if blade.name in by_key]
    bare, other = [], []
    for blade in known:
        outcome = outcomes.get(blade.name)
        if outcome is None or blade in silent or blade in enrolled:
            continue
        has = _digests(outcome.output)
        differing = [path for path, digest in wanted[blade.name].items() if has.get(path) != digest]
        if len(differing) == len(wanted[blade.name]):
            bare.append(blade)
        elif differing:
            other.append((blade, differing))
    setup = "headnode blades config BLADE --tar | ssh BLADE tar -x -C /"
    if silent:
        yield problem(
            f"{fold(silent)}: not reached ({_why(silent, outcomes)})",
            "are they on, and may this user enter by ssh without a password?",
        )
    if bare:
        yield warning(f"{fold(bare)}: not set up", setup)
    for blade, differing in other:
        yield warning(f"{blade.name}: {_list(differing)} differ from what it was given", setup)
    if enrolled:
        yield good(f"{fold(enrolled)}: enrolled; their pulls look after their files")
    fine = len(known) - len(silent) - len(bare) - len(other) - len(enrolled)
    if fine:
        yield good(f"{fine} of {len(known)} blades are as they should be")


def _why(silent: Iterable[Blade], outcomes: dict[str, Outcome]) -> str:
    for blade in silent:
        outcome = outcomes.get(blade.name)
        if outcome and outcome.output.strip():
            return outcome.output.strip().splitlines()[-1]
    return "no answer"


def _digests(output: str) -> dict[str, str]:
    """What sha256sum(1) said. Pure."""
    lines = (line.partition("  ") for line in output.splitlines())
    return {path: digest for digest, _, path in lines if path.startswith("/")}


def _list(paths: list[str]) -> str:
    shown = ", ".join(paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
