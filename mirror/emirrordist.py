"""Portage's emirrordist: every distfile of one repository, from the addresses in its ebuilds.

The command line and the failure log are here, and the call. What emirrordist 3.0.83 does not do,
and `mirror.full` does: it exits 0 whatever it could not fetch; checks one digest only; removes a
file of the wrong size before there is another; asks no mirror of distfiles; keeps no file for older
trees (so it is never told to --delete).

Source: emirrordist(1); portage._emirrordist.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import MirrorError
from headnode.process import require, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A line of the failure log: an ebuild, its file (empty: all of them), and why."""

    cpv: str
    filename: str
    why: str


def build_argv(
    repo: str, repos_conf: str, *, distfiles: Path, temp: Path, log: Path, jobs: int, tries: int
) -> list[str | Path]:
    """The command line for one repository. Pure."""
    return [
        sys.executable,
        Path(sysconfig.get_path("scripts")) / "emirrordist",
        *("--mirror", "--ignore-default-opts", "--repo", repo),
        *("--repositories-configuration", repos_conf),
        *("--distfiles", distfiles, "--temp-dir", temp, "--failure-log", log),
        *("--jobs", str(jobs), "--tries", str(tries)),
    ]


def repos_conf(repos: Mapping[str, Path]) -> str:
    """A repos.conf with `repos`, the main one first. Pure. Source: portage(5)."""
    sections = "".join(
        f"[{name}]\nlocation = {path}\nauto-sync = no\n" for name, path in repos.items()
    )
    return f"[DEFAULT]\nmain-repo = {next(iter(repos))}\n{sections}"


def parse_failures(log: str) -> list[Failure]:
    """Read a failure log: `cpv<TAB>file<TAB>why` a line. Pure."""
    failures = []
    for line in log.splitlines():
        cpv, _, rest = line.partition("\t")
        filename, _, why = rest.partition("\t")
        failures.append(Failure(cpv=cpv, filename=filename, why=why))
    return failures


def mirror_repo(
    repo: str,
    repos: Mapping[str, Path],
    *,
    distfiles: Path,
    scratch: Path,
    jobs: int,
    tries: int,
    timeout_s: float,
) -> list[Failure]:
    """Have emirrordist bring what `distfiles` (with a layout.conf) lacks of `repo`; give failures.

    `scratch` is an empty folder on the file system of `distfiles`.

    Raises:
        MirrorError: emirrordist itself failed.
        CommandError: it took longer than `timeout_s`.
        EnvironmentLacksError: there is no wget, which it fetches with.
    """
    require("wget")
    log, temp = scratch / "failures", scratch / "temp"
    temp.mkdir()
    prefix = _prefix(scratch)
    argv = build_argv(
        repo, repos_conf(repos), distfiles=distfiles, temp=temp, log=log, jobs=jobs, tries=tries
    )
    env = {
        "PORTAGE_OVERRIDE_EPREFIX": str(prefix),
        "PORTAGE_CONFIGROOT": str(prefix),
        "PORTAGE_USERNAME": "root",
        "PORTAGE_GRPNAME": "root",
    }
    done = run(argv, timeout_s=timeout_s, check=False, env=env)
    if done.code or not log.is_file():
        raise MirrorError(
            f"emirrordist failed for {repo} with exit code {done.code}:\n{done.tail}\n",
            remedy="What was there is still served. Put that right, then sync again.",
        )
    return parse_failures(log.read_text())


def _prefix(scratch: Path) -> Path:
    """A prefix of its own, with the environment's global configuration: no make.conf is read."""
    prefix = scratch / "prefix"
    (prefix / "etc/portage").mkdir(parents=True)
    (prefix / "share/portage").mkdir(parents=True)
    (prefix / "share/portage/config").symlink_to(Path(sys.prefix) / "share/portage/config")
    return prefix
