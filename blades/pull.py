"""Bring this blade to what its ring has. Started on blades as /usr/local/sbin/headnode-pull.

It asks the headnode which deployment its ring has; is that what was applied last, it is done
without starting emerge. Else it checks the deployment (`blades.order`), takes the tree that the
packages were built from, and brings the blade to exactly that state from binary packages alone:
updates, downgrades, and what the generation no longer has goes. Then it looks whether every package
of the generation is really there: emerge ends well also when the binhost cannot be reached (Portage
3.0.83: "Nothing to merge", exit code 0).

    /etc/headnode/pull.json         where the headnode is, and which ring this blade is in
    /etc/headnode/keys.asc          the public keys that are trusted
    /var/lib/headnode/applied.json  the last deployment that was applied whole
    /var/lib/headnode/applying      there while one is being applied, and if that was cut or failed
    /var/lib/headnode/seen.json     the highest sequence that was seen, by class and ring
    /var/lib/headnode/synced        the snapshot set that the tree is at, by rsync; none while it is
                                    synced, and where trees come as images (`blades.tree`)
    /var/lib/headnode/index/        the index of the deployment, as it was checked
    /var/lib/headnode/etc/portage/  /etc/portage, but with that index as the only binhost
    /var/log/headnode-pull.log      what emerge said the last time

With --trees it brings the trees alone, for plain emerge on a blade that was just set up.

The last line it prints is a report in JSON. Exit codes: 0 up to date or updated, 1 failed, 2 not
set up. Only the standard library, emerge and gpg: the blade may have nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blades.grub import KernelError
from blades.kernel import settle_into
from blades.order import Order, OrderError, check_signature, check_terms, fetch_order, read_json

SETTINGS = Path("/etc/headnode/pull.json")
KEYS = Path("/etc/headnode/keys.asc")
KEYRING = Path("/etc/portage/gnupg")
TRUST = "/usr/local/sbin/headnode-trust"
TREE = "/usr/local/sbin/headnode-tree"
STATE = Path("/var/lib/headnode")
LOG = Path("/var/log/headnode-pull.log")
LOCK = Path("/run/headnode-pull.lock")
VDB = Path("/var/db/pkg")
ETC = Path("/etc/portage")
REPOS = Path("/var/db/repos")
# Where Portage keeps its copy of an index that came from file:///<index>, for ever: it would be
# taken for newer than the next one after a move to another ring (Portage 3.0.83).
CACHED = Path("/var/cache/edb/binhost")
TAIL_LINES = 20

EMERGE = ("emerge", "--color=n", "--nospinner", "--quiet")
UPDATE = (
    *(*EMERGE, "--ask=n"),
    *("--getbinpkgonly", "--binpkg-respect-use=y", "--with-bdeps=n"),
    *("--update", "--deep", "--newuse"),
    "@blade",
)
DEPCLEAN = (*EMERGE, "--ask=n", "--depclean", "--with-bdeps=n")
SYNC = (*EMERGE, "--sync")


class PullError(Exception):
    """The pull cannot go on; the text says why."""


class NotSetUpError(Exception):
    """The blade lacks something that it is given once; the text says what."""


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


def expected(packages: Mapping[str, str]) -> dict[str, str]:
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


def run(argv: tuple[str, ...], **environment: str) -> None:
    """Run a program with its output in the log, or raise a PullError with the end of it."""
    with LOG.open("a+", encoding="utf-8", errors="replace") as log:
        print(f"--- {' '.join(argv)}", file=log, flush=True)
        start = log.tell()
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                check=False,
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


def read_state(name: str) -> dict[str, Any]:
    """A JSON file of the state folder; empty if there is none, or it is damaged."""
    try:
        return dict(json.loads((STATE / name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def bring_trees(says: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Bring the trees to those of a deployment, in the way that it says."""
    image = says.get("image")
    if image is None:
        if settings.get("tree", "rsync") != "rsync":
            raise NotSetUpError(
                "its trees come by rsync now, and its files are for images: on the headnode, "
                f"headnode blades config {settings['blade']} has what it needs"
            )
        if (STATE / "tree").is_symlink():
            run((TREE, "leave"))
        sync(says["snapshots"])
        return
    name = f"images/{image['sha256']}.squashfs"
    # What differs from the image that is here comes by rsync.
    delta = ("--delta", f"{settings['rsync']}/{name}") if "rsync" in settings else ()
    url = f"{settings['headnode']}/{name}"
    (STATE / "synced").unlink(missing_ok=True)
    run((TREE, "use", *delta, url, image["sha256"], str(image["size_bytes"]), *says["repos"]))


def lacks_trees(says: Mapping[str, Any]) -> bool:
    """Whether the trees of an image are gone, after a boot that did not bring them back."""
    return says.get("image") is not None and not all(
        (REPOS / repo / "profiles").is_dir() for repo in says["repos"]
    )


def sync(snapshots: str) -> None:
    """Bring the trees to a snapshot set by rsync, if they are not there already.

    Portage takes no tree that is older than the one it has ("SERVER OUT OF DATE"), which is what a
    rollback brings; it asks metadata/timestamp.chk, and a tree without one is always synced.
    """
    synced = STATE / "synced"
    try:
        if synced.read_text() == snapshots:
            return
        synced.unlink()
    except FileNotFoundError:
        pass
    for stamp in REPOS.glob("*/metadata/timestamp.chk"):
        stamp.unlink()
    run(SYNC)
    write(synced, snapshots)


def believe(order: Order, settings: Mapping[str, Any]) -> None:
    """Check a deployment that is not the applied one, and note its number and its keys."""
    if settings["signed"]:
        run((TRUST,))
        check_signature(order, KEYRING)
    where, seen = f"{settings['class']}/{settings['ring']}", read_state("seen.json")
    highest = max(int(seen.get(where, 0)), order.says["sequence"])
    write(STATE / "seen.json", json.dumps({**seen, where: highest}) + "\n")
    if settings["signed"] and order.names("keys.asc"):
        keys = order.file("keys.asc").decode()
        if keys != KEYS.read_text():
            write(KEYS, keys)
            run((TRUST,))


def put_index(order: Order) -> None:
    """Put the deployment's index, which names every package by its digest, before emerge."""
    index = STATE / "index"
    shutil.rmtree(index, ignore_errors=True)
    write(index / "Packages", order.file("Packages").decode())
    shutil.rmtree(CACHED / str(index).lstrip("/"), ignore_errors=True)


@contextlib.contextmanager
def configuration(signed: bool) -> Iterator[dict[str, str]]:
    """The environment in which emerge sees /etc/portage, but only the deployment's own index.

    What it fetches from the binhost over HTTP is not signed, and `frozen` in binrepos.conf does not
    keep it from that when its copy is gone (Portage 3.0.83).
    """
    etc = STATE / "etc/portage"
    shutil.rmtree(STATE / "etc", ignore_errors=True)
    etc.mkdir(parents=True)
    for path in ETC.iterdir():
        if path.name != "binrepos.conf":
            (etc / path.name).symlink_to(path)
    lines = ["[headnode]", f"sync-uri = file://{STATE / 'index'}"]
    lines += ["location = /var/cache/binhost/headnode", f"verify-signature = {signed}".lower()]
    (etc / "binrepos.conf").write_text("\n".join(lines) + "\n")
    try:
        yield {"PORTAGE_CONFIGROOT": f"{STATE}/"}
    finally:
        shutil.rmtree(STATE / "etc", ignore_errors=True)


def apply(order: Order, settings: Mapping[str, Any]) -> int:
    """Bring the blade to a deployment, and say how many packages it has, all looked for."""
    url = f"{order.folder}/generation.json"
    wanted = expected(read_json(order.file("generation.json"), url, "packages")["packages"])
    put_index(order)
    bring_trees(order.says, settings)
    write(ETC / "sets/blade", "".join(f"{atom}\n" for atom in sorted(order.says["atoms"])))
    with configuration(settings["signed"]) as environment:
        run(UPDATE, **environment)
        if installed().keys() - wanted.keys():
            run(DEPCLEAN, **environment)
    there = installed()
    lacking = [name for name, number in wanted.items() if there.get(name) != number]
    if lacking:
        raise PullError(f"emerge ended well, but did not install {', '.join(sorted(lacking))}")
    return len(wanted)


def same_state(before: Mapping[str, Any], says: Mapping[str, Any]) -> bool:
    """Whether two deployments come to the same on a blade: one may be the other's renewal."""
    keys = ("class_name", "ring", "generation", "snapshots", "image", "atoms")
    return all(before.get(key) == says.get(key) for key in keys) and (
        before["sha256"].get("generation.json") == says["sha256"].get("generation.json")
    )


def ring_order(settings: Mapping[str, Any]) -> Order:
    """The ring's deployment, which is for this blade and for now; its signature is not checked."""
    where = f"{settings['class']}/{settings['ring']}"
    order = fetch_order(f"{settings['headnode']}/binhost/{where}")
    check_terms(
        order,
        settings["class"],
        settings["ring"],
        int(read_state("seen.json").get(where, 0)),
        datetime.now(UTC),
        signed=settings["signed"],
    )
    return order


def pull_trees(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Bring the trees alone to the ring's deployment: plain emerge has a profile then."""
    order = ring_order(settings)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    believe(order, settings)
    bring_trees(order.says, settings)
    report["result"] = "trees"


def pull(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """One pull; `report` is filled in as it goes."""
    order = ring_order(settings)
    says = order.says
    report["generation"], report["sequence"] = says["generation"], says["sequence"]
    known = read_state("applied.json")
    before = known.get("deployment", {})
    report["packages"] = known.get("packages", 0)
    half_way = (STATE / "applying").exists() or lacks_trees(says)
    if before == says and not half_way:
        report["result"] = "unchanged"
        return
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    believe(order, settings)
    if before and same_state(before, says) and not half_way:
        report["result"] = "unchanged"
    else:
        write(STATE / "applying", f"{says['sequence']}\n")
        report["emerge"] = True
        there = installed()
        try:
            report["packages"] = apply(order, settings)
        finally:
            report["changes"] = differences(there, installed())
        report["result"] = "updated"
    done = {"deployment": says, "packages": report["packages"]}
    write(STATE / "applied.json", json.dumps(done, indent=1) + "\n")
    (STATE / "applying").unlink(missing_ok=True)


def read_settings() -> dict[str, Any]:
    """Where the headnode is and what this blade is, or a NotSetUpError."""
    try:
        settings = json.loads(SETTINGS.read_text())
    except FileNotFoundError as error:
        raise NotSetUpError(f"no {SETTINGS}") from error
    except ValueError as error:
        raise NotSetUpError(f"{SETTINGS} is no JSON: {error}") from error
    wanted = ("headnode", "class", "ring", "blade", "signed")
    lacking = [key for key in wanted if not isinstance(settings, dict) or key not in settings]
    if lacking:
        raise NotSetUpError(f"{SETTINGS} has no {', '.join(lacking)}")
    return dict(settings)


def main() -> int:
    """Pull once (with --trees only the trees), print the report, and return the exit code."""
    started = time.monotonic()
    report: dict[str, Any] = {"result": "failed", "emerge": False, "changes": [], "error": ""}
    code = 1
    try:
        settings = read_settings()
        report |= {"blade": settings["blade"], "ring": settings["ring"]}
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (pull_trees if sys.argv[1:] == ["--trees"] else pull)(settings, report)
            if sys.argv[1:] != ["--trees"]:
                settle_into(settings, report)
        code = 0
    except NotSetUpError as error:
        report["error"] = f"this blade is not set up: {error}"
        code = 2
    except BlockingIOError:
        report["error"] = "another pull is at work on this blade"
    except (PullError, OrderError, KernelError, OSError, ValueError, KeyError, TypeError) as error:
        report["error"] = str(error) or repr(error)
    report["seconds"] = round(time.monotonic() - started, 2)
    print(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
