"""What is looked at when emerge is done: edited files, replaced libraries, the site's checks.

Part of the pull on a blade.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from blades import merging, places
from blades.places import PullError

PROC = Path("/proc")
TAIL_CHARS = 500
RESTART_S = 120.0


def protected() -> list[str]:
    """The folders in which Portage leaves alone what somebody edited, without a slash at the end.

    Source: env-update(1) gathers CONFIG_PROTECT of packages into /etc/profile.env.
    """
    known = {"/etc"}
    try:
        text = (places.ROOT / "etc/profile.env").read_text(errors="replace")
    except FileNotFoundError:
        return sorted(known)
    if found := re.search(r"^export CONFIG_PROTECT=['\"]([^'\"]*)", text, re.MULTILINE):
        known |= {path.rstrip("/") for path in found[1].split()}
    return sorted(known)


def edited(packages: Iterable[str], folders: Sequence[str]) -> list[str]:
    """Files of installed `packages` in `folders` that are not as the package brought them."""
    starts = tuple(f"obj {folder}/" for folder in folders)
    found = []
    for package in packages:
        contents = places.VDB / package / "CONTENTS"
        for line in contents.read_text(errors="surrogateescape").splitlines():
            if line.startswith(starts):
                # obj <path> <md5> <mtime>: the path may have spaces. Source: portage(5).
                name, digest, _ = line[4:].rsplit(" ", 2)
                if _md5(places.ROOT / name.lstrip("/")) not in ("", digest):
                    found.append(name)
    return sorted(found)


def _md5(path: Path) -> str:
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return ""


def proposed(folders: Sequence[str]) -> list[str]:
    """New versions of edited files that wait for somebody: `._cfg0000_NAME` beside each."""
    found = set()
    for folder in folders:
        for path, _, names in os.walk(places.ROOT / folder.lstrip("/")):
            found |= {
                f"/{(Path(path) / name[10:]).relative_to(places.ROOT)}"
                for name in names
                if name.startswith("._cfg") and name[9:10] == "_"
            }
    return sorted(found)


def stale_processes() -> dict[int, tuple[str, list[str]]]:
    """Processes that run or map files which are no longer there: number to name and files.

    Only programs and libraries count, mapped to be executed. Source: proc(5), maps.
    """
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            lines = (folder / "maps").read_text(errors="replace").splitlines()
            name = (folder / "comm").read_text(errors="replace").strip()
        except OSError:  # it has ended
            continue
        gone = {
            words[5].removesuffix(" (deleted)")
            for words in (line.split(maxsplit=5) for line in lines)
            if len(words) == 6 and words[5].endswith(" (deleted)") and "x" in words[1]
        }
        gone = {path for path in gone if path.startswith(("/usr", "/lib", "/bin", "/sbin", "/opt"))}
        if gone and int(folder.name) != os.getpid():
            found[int(folder.name)] = (name, sorted(gone))
    return found


def service_of(pid: int) -> str:
    """The service that a process belongs to, by its control group; empty if by that to none.

    systemd and OpenRC both name the group after the service.
    """
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        last = line.rpartition(":")[2].rstrip("/").rpartition("/")[2]
        if last.endswith(".service"):
            return last.removesuffix(".service")
        if last.startswith("openrc."):
            return last.removeprefix("openrc.")
    return ""


def restart_argv(service: str) -> tuple[str, ...]:
    """The command that restarts a service under this blade's init."""
    if Path("/run/systemd/system").is_dir():
        return ("systemctl", "restart", service)
    return ("rc-service", service, "restart")


def refresh(services: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Restart those of `services` that still map what the pull replaced.

    What was restarted, which other processes are left (`name (number): files`), and what went
    wrong.
    """
    stale = stale_processes()
    due = [each for each in services if any(_is_of(pid, stale[pid][0], each) for pid in stale)]
    done, wrong = [], []
    for service in due:
        try:
            merging.run(restart_argv(service), RESTART_S)
            done.append(service)
        except (PullError, places.NotSetUpError) as error:
            wrong.append(f"{service} could not be restarted: {error}")
    left = stale_processes() if done else stale
    return done, [f"{name} ({pid}): {', '.join(gone)}" for pid, (name, gone) in left.items()], wrong


def _is_of(pid: int, name: str, service: str) -> bool:
    return service_of(pid) == service or name == service


def failures(lines: Sequence[str], limit_s: float) -> list[str]:
    """Why each shell command of `lines` that does not succeed does not."""
    return [why for line in lines if (why := _failure(line, limit_s))]


def _failure(line: str, limit_s: float) -> str:
    code, said = merging.shell(line, limit_s)
    if code is None:
        return f"`{line}` did not end within {limit_s:g} s"
    tail = said.strip()[-TAIL_CHARS:]
    return f"`{line}` failed with exit code {code}" + (f": {tail}" if tail else "") if code else ""
