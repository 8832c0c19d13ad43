"""emerge on a blade: with a time limit and a log, and looked at for what it did. Part of the pull.

emerge ends well also when the binhost cannot be reached (Portage 3.0.83: "Nothing to merge", exit
code 0), so nothing here concludes from its exit code that anything was installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from blades import places
from blades.places import NotSetUpError, PullError

TAIL_LINES = 20
KEPT_LOGS = 5
END_S = 10.0  # between SIGTERM and SIGKILL

EMERGE = ("emerge", "--color=n", "--nospinner", "--quiet")
BINARIES = ("--getbinpkgonly", "--binpkg-respect-use=y", "--with-bdeps=n")
NEWEST = ("--update", "--deep", "--newuse")
UPDATE = (*EMERGE, "--ask=n", *BINARIES, *NEWEST, "@blade")
DEPCLEAN = (*EMERGE, "--ask=n", "--depclean", "--with-bdeps=n")
SYNC = (*EMERGE, "--sync")
PLAN = (*EMERGE, "--ask=n", "--pretend", *BINARIES, *NEWEST, "@world")


def installed() -> dict[str, str]:
    """What is installed: category/name-version to build id."""
    found = {}
    for folder in places.VDB.glob("*/*"):
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


def begin_log() -> None:
    """Begin a new log; those of the last pulls are kept as .1, .2, …"""
    log = places.LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    for number in range(KEPT_LOGS, 0, -1):
        older = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))
    log.write_text("")


def run(argv: tuple[str, ...], limit_s: float = 3600.0, **environment: str) -> str:
    """Run a program with its output in the log, and return what it said.

    Raises:
        PullError: it failed, or did not end in time; with the end of what it said.
    """
    with places.LOG.open("a+", encoding="utf-8", errors="replace") as log:
        print(f"--- {' '.join(argv)}", file=log, flush=True)
        start = log.tell()
        code = _run(argv, limit_s, log.fileno(), environment)
        log.seek(start)
        said = log.read()
        if code == 0:
            return said
        how = f"failed with exit code {code}"
        if code is None:
            how = f"did not end within {limit_s:g} s and was ended"
            print(f"--- {how}", file=log, flush=True)
        tail = "\n".join(said.splitlines()[-TAIL_LINES:])
        raise PullError(f"{' '.join(argv)} {how}:\n{tail}")


def _run(
    argv: tuple[str, ...], limit_s: float, log: int, environment: Mapping[str, str]
) -> int | None:
    """The exit code of a program; None if it took too long. It ends with all that it started."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise NotSetUpError(f"no {argv[0]}") from error
    mark = places.STATE / "emerge.pid"
    try:
        places.write(mark, f"{process.pid} {_started(process.pid)}\n")
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:  # too long, or we are told to stop
            _end(process)
        mark.unlink(missing_ok=True)


def shell(line: str, limit_s: float) -> tuple[int | None, str]:
    """Run a shell line: its exit code (None: it took too long, and was ended), and what it said.

    It says it into a file: what it leaves running in the background would keep a pipe open.
    """
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.returncode is None:
                _end(process)
        out.seek(0)
        return code, out.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _started(pid: int) -> str:
    """When a process was started, in ticks; empty if it has ended. Source: proc(5), stat."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if words[0] == "Z" else words[19]
    except (OSError, IndexError):
        return ""


def end_orphan() -> bool:
    """End the emerge of a pull that was itself killed, if it is still at work; whether it was.

    Two at once would each undo the other's work.
    """
    mark = places.STATE / "emerge.pid"
    try:
        pid, started = mark.read_text().split()
    except (FileNotFoundError, ValueError):
        return False
    # The number may be another process's by now: the one with that start time is it.
    alive = bool(started) and _started(int(pid)) == started
    if alive:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)
    mark.unlink(missing_ok=True)
    return alive


@contextlib.contextmanager
def configuration(signed: bool) -> Iterator[dict[str, str]]:
    """The environment in which emerge sees /etc/portage, but only the deployment's own index.

    What it fetches from the binhost over HTTP is not signed, and `frozen` in binrepos.conf does not
    keep it from that when its copy is gone (Portage 3.0.83).
    """
    etc = places.STATE / "etc/portage"
    shutil.rmtree(places.STATE / "etc", ignore_errors=True)
    etc.mkdir(parents=True)
    for path in places.ETC.iterdir():
        if path.name != "binrepos.conf":
            (etc / path.name).symlink_to(path)
    lines = ["[headnode]", f"sync-uri = file://{places.STATE / 'index'}"]
    lines += [f"location = {places.FETCHED}", f"verify-signature = {signed}".lower()]
    (etc / "binrepos.conf").write_text("\n".join(lines) + "\n")
    try:
        yield {"PORTAGE_CONFIGROOT": f"{places.STATE}/"}
    finally:
        shutil.rmtree(places.STATE / "etc", ignore_errors=True)


def put_index(text: str) -> None:
    """Put a deployment's index, which names every package by its digest, before emerge."""
    index = places.STATE / "index"
    shutil.rmtree(index, ignore_errors=True)
    places.write(index / "Packages", text)
    shutil.rmtree(places.CACHED / str(index).lstrip("/"), ignore_errors=True)


def still_planned(environment: Mapping[str, str], limit_s: float) -> str:
    """What emerge would still do to be up to date, in words; empty if nothing."""
    try:
        said = run(PLAN, limit_s, **environment)
    except PullError as error:
        return f"emerge finds no plan for @world: {str(error).partition(chr(10))[2]}"
    steps = re.findall(r"^\[(?:binary|ebuild|uninstall|blocks)[^\]]*\] (\S+)", said, re.MULTILINE)
    return f"emerge --update --deep --newuse @world still plans {', '.join(steps)}" if steps else ""


def own_world() -> list[str]:
    """What somebody installed on this blade beside @blade: the atoms of its world file, sorted."""
    try:
        lines = (places.ROOT / "var/lib/portage/world").read_text().split()
    except FileNotFoundError:
        return []
    return sorted(line for line in lines if not line.startswith("#"))
