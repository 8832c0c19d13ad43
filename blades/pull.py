#!/usr/bin/env python3
"""Bring this blade to what its ring has. Installed on blades as /usr/local/sbin/headnode-pull.

Only the standard library, and emerge. It asks the headnode which deployment its ring has; is that
what was applied last, it is done without starting emerge. Else it takes the tree that the packages
were built from, installs from binary packages alone, and then looks whether every package of the
generation is really there: emerge ends well also when the binhost cannot be reached (Portage
3.0.83: "Nothing to merge", exit code 0).

    /etc/headnode/pull.json       where the headnode is, and which ring this blade is in
    /var/lib/headnode/applied.json  the last deployment that was applied whole
    /var/lib/headnode/synced      the snapshot set that the tree is at; none while it is synced
    /var/log/headnode-pull.log    what emerge said the last time

The last line it prints is a report in JSON. Exit codes: 0 up to date or updated, 1 failed, 2 not
set up.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/headnode/pull.json")
APPLIED = Path("/var/lib/headnode/applied.json")
SYNCED = Path("/var/lib/headnode/synced")
LOG = Path("/var/log/headnode-pull.log")
LOCK = Path("/run/headnode-pull.lock")
VDB = Path("/var/db/pkg")
SET = Path("/etc/portage/sets/blade")
HTTP_TIMEOUT_S = 30.0
TAIL_LINES = 20

EMERGE = (
    "emerge",
    *("--color=n", "--nospinner", "--quiet", "--ask=n"),
    *("--getbinpkgonly", "--binpkg-respect-use=y", "--with-bdeps=n"),
    *("--update", "--deep", "--newuse"),
    "@blade",
)


class PullError(Exception):
    """The pull cannot go on; the text says why."""


class NotSetUpError(Exception):
    """The blade lacks something that it is given once; the text says what."""


def fetch(url: str) -> bytes:
    """The content at `url`, or a PullError that says what is wrong with it."""
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise PullError(f"the headnode has nothing for this ring yet ({url})") from error
        raise PullError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise PullError(f"the headnode does not answer at {url}: {reason}") from error


def read_json(content: bytes, url: str, *keys: str) -> dict[str, Any]:
    """The JSON object that came from `url`, or a PullError if it is none or lacks one of `keys`."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise PullError(f"{url} is no JSON: {error}") from error
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise PullError(f"{url} has no {', '.join(lacking)}")
    return dict(found)


def fetch_deployment(base: str) -> dict[str, Any]:
    """The newest deployment of the ring."""
    url = f"{base}/deployment.json"
    keys = ("atoms", "generation", "sequence", "sha256", "snapshots")
    return read_json(fetch(url), url, *keys)


def fetch_generation(base: str, deployment: dict[str, Any]) -> dict[str, Any]:
    """What the deployment's generation consists of, checked against the deployment's digest."""
    url = f"{base}/deployments/{deployment['sequence']}/generation.json"
    content = fetch(url)
    if hashlib.sha256(content).hexdigest() != deployment["sha256"].get("generation.json"):
        raise PullError(f"{url} is not what deployment.json says it is")
    return read_json(content, url, "packages")


def installed() -> dict[str, str]:
    """What is installed: category/name-version to build id."""
    found = {}
    for folder in VDB.glob("*/*"):
        if not folder.name.startswith("-MERGING-") and (folder / "CONTENTS").exists():
            number = folder / "BUILD_ID"
            found[f"{folder.parent.name}/{folder.name}"] = (
                number.read_text().strip() if number.exists() else ""
            )
    return found


def expected(packages: list[str]) -> dict[str, str]:
    """What a generation's pool names (`cat/pn/pf-id.gpkg.tar`) are when installed."""
    found = {}
    for name in packages:
        category, _, file = name.split("/")
        version, _, number = file.removesuffix(".gpkg.tar").rpartition("-")
        found[f"{category}/{version}"] = number
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What came (`+`) and went (`-`), a rebuild as both."""
    gone = [f"-{name}" for name in sorted(before) if after.get(name) != before[name]]
    came = [f"+{name}" for name in sorted(after) if before.get(name) != after[name]]
    return gone + came


def run(argv: tuple[str, ...] | list[str]) -> None:
    """Run a program with its output in the log, or raise a PullError with the end of it."""
    with LOG.open("a+", encoding="utf-8", errors="replace") as log:
        print(f"--- {' '.join(argv)}", file=log, flush=True)
        start = log.tell()
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        except FileNotFoundError as error:
            raise NotSetUpError(f"no {argv[0]}") from error
        if done.returncode:
            log.seek(start)
            tail = "\n".join(log.read().splitlines()[-TAIL_LINES:])
            raise PullError(f"{' '.join(argv)} failed with exit code {done.returncode}:\n{tail}")


def write(path: Path, text: str) -> None:
    """Put a file in place in one rename, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def applied() -> dict[str, Any]:
    """The last deployment that was applied whole; empty if there is none."""
    try:
        return dict(json.loads(APPLIED.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def sync(snapshots: str) -> None:
    """Bring the tree to a snapshot set, if it is not there already."""
    try:
        if SYNCED.read_text() == snapshots:
            return
        SYNCED.unlink()
    except FileNotFoundError:
        pass
    run(["emerge", "--color=n", "--nospinner", "--quiet", "--sync"])
    write(SYNCED, snapshots)


def apply(base: str, deployment: dict[str, Any]) -> int:
    """Bring the blade to `deployment`, and say how many packages it has, all looked for."""
    generation = fetch_generation(base, deployment)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    sync(deployment["snapshots"])
    write(SET, "".join(f"{atom}\n" for atom in sorted(deployment["atoms"])))
    wanted = expected(generation["packages"])
    run(EMERGE)
    there = installed()
    lacking = [name for name, number in wanted.items() if there.get(name) != number]
    if lacking:
        raise PullError(f"emerge ended well, but did not install {', '.join(sorted(lacking))}")
    write(APPLIED, json.dumps({**deployment, "packages": len(wanted)}, indent=1) + "\n")
    return len(wanted)


def pull(settings: dict[str, str], report: dict[str, Any]) -> None:
    """One pull; `report` is filled in as it goes."""
    base = f"{settings['headnode']}/binhost/{settings['class']}/{settings['ring']}"
    deployment = fetch_deployment(base)
    report["generation"] = deployment["generation"]
    report["sequence"] = deployment["sequence"]
    before = applied()
    report["packages"] = before.pop("packages", 0)
    if before == deployment:
        report["result"] = "unchanged"
        return
    report["emerge"] = True
    there = installed()
    try:
        report["packages"] = apply(base, deployment)
    finally:
        report["changes"] = differences(there, installed())
    report["result"] = "updated"


def read_settings() -> dict[str, str]:
    """Where the headnode is and what this blade is, or a NotSetUpError."""
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError as error:
        raise NotSetUpError(f"no {SETTINGS}") from error
    except ValueError as error:
        raise NotSetUpError(f"{SETTINGS} is no JSON: {error}") from error
    wanted = ("headnode", "class", "ring", "blade")
    lacking = [key for key in wanted if not isinstance(settings, dict) or key not in settings]
    if lacking:
        raise NotSetUpError(f"{SETTINGS} has no {', '.join(lacking)}")
    return {key: str(settings[key]) for key in wanted}


def main() -> int:
    """Pull once, print the report, and return the exit code."""
    started = time.monotonic()
    report: dict[str, Any] = {"result": "failed", "emerge": False, "changes": [], "error": ""}
    code = 1
    try:
        settings = read_settings()
        report |= {"blade": settings["blade"], "ring": settings["ring"]}
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pull(settings, report)
        code = 0
    except NotSetUpError as error:
        report["error"] = f"this blade is not set up: {error}"
        code = 2
    except BlockingIOError:
        report["error"] = "another pull is at work on this blade"
    except (PullError, OSError, ValueError, KeyError, TypeError) as error:
        report["error"] = str(error) or repr(error)
    report["seconds"] = round(time.monotonic() - started, 2)
    print(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
