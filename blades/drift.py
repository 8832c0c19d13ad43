"""/etc/portage of a blade: put as the generation has it; what somebody changed is kept aside.

What decides about packages belongs to the generation: the names of `OWNED`. Anything else there
(gpg's home, hooks) is left alone. A file that is neither what was put last nor what is to be put
now is somebody's edit: it is moved to /var/lib/headnode/edited/<UTC time>/ and reported as drift.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from blades import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any

ETC = "/etc/portage"
OWNED = (
    *("make.conf", "make.profile", "profile", "sets", "binrepos.conf", "repos.conf", "env"),
    *("patches", "package.accept_keywords", "package.accept_restrict", "package.env"),
    *("package.keywords", "package.license", "package.mask", "package.properties"),
    *("package.unmask", "package.use"),
)
RECORD = "portage.json"


def wanted(blade: Mapping[str, Any]) -> dict[str, str]:
    """What belongs below /etc/portage: name to content, or to `-> target` of a link."""
    start = f"{ETC}/"
    files = {name.removeprefix(start): text for name, text in blade["files"].items()}
    links = {name.removeprefix(start): f"-> {to}" for name, to in blade["links"].items()}
    both = {**files, **links}
    for name in both:
        if name.split("/")[0] not in OWNED or ".." in name.split("/"):
            raise ValueError(f"blade.json names {name}, which is no part of {ETC}")
    return both


def digests_of(want: Mapping[str, str]) -> dict[str, str]:
    """The digest of each of `wanted`, as `there` has it."""
    return {name: _digest(text.encode()) for name, text in want.items()}


def there() -> dict[str, str]:
    """What lies below the owned names now: name to digest."""
    found = {}
    for top in OWNED:
        path = places.ETC / top
        below = [path] if path.is_symlink() or path.is_file() else sorted(path.rglob("*"))
        for each in below:
            if each.is_symlink() or not each.is_dir():
                found[str(each.relative_to(places.ETC))] = _digest_of(each)
    return found


def _digest_of(path: Path) -> str:
    if path.is_symlink():
        return _digest(f"-> {path.readlink()}".encode())
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stamps() -> dict[str, list[int]]:
    """What tells cheaply whether anything below the owned names was touched."""
    found: dict[str, list[int]] = {}

    def note(path: str, name: str) -> None:
        try:
            stat = os.lstat(path)
        except FileNotFoundError:
            return
        found[name] = [stat.st_mtime_ns, stat.st_ino, stat.st_size, stat.st_mode]
        if stat.st_mode & 0o170000 == 0o040000:
            for entry in os.listdir(path):  # noqa: PTH208
                note(f"{path}/{entry}", f"{name}/{entry}")

    for top in OWNED:
        note(f"{places.ETC}/{top}", top)
    return found


def untouched() -> bool:
    """Whether /etc/portage is as the last pull left it (or no pull ever put it).

    What an administrator gave the blade since has no stamps: it may be the generation's, or not.
    """
    known = places.read_state(RECORD)
    if "stamps" in known:
        return bool(known["stamps"] == stamps())
    blade = places.read_state("now/blade.json")
    if not blade:
        return True
    digests = digests_of(wanted(blade))
    if there() != digests:
        return False
    places.write_json(places.STATE / RECORD, {"digests": digests, "stamps": stamps()})
    return True


def put(blade: Mapping[str, Any], now: datetime) -> list[str]:
    """Make /etc/portage what `blade` (a blade.json) says; return what was somebody's, in words."""
    want = wanted(blade)
    digests = digests_of(want)
    before = places.read_state(RECORD).get("digests", {})
    have = there()
    aside = places.STATE / "edited" / f"{now:%Y%m%dT%H%M%SZ}"
    drift = []
    for name, digest in have.items():
        if digest == digests.get(name):
            continue
        if digest != before.get(name):
            _keep(name, aside)
            what = "was edited" if name in want else "is not the generation's"
            drift.append(f"{ETC}/{name} {what}; kept as {aside / name}")
        if name not in want:
            (places.ETC / name).unlink()
    if before:
        gone = sorted(name for name in before if name in want and name not in have)
        drift += [f"{ETC}/{name} was removed" for name in gone]
    for name, text in want.items():
        if have.get(name) != digests[name]:
            _put(places.ETC / name, text)
    _drop_empty_folders()
    places.write_json(places.STATE / RECORD, {"digests": digests, "stamps": stamps()})
    return drift


def _keep(name: str, aside: Path) -> None:
    import shutil

    (aside / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(places.ETC / name, aside / name, follow_symlinks=False)


def _put(path: Path, text: str) -> None:
    """Write a file or a link; what is in its way (a file where a folder is to be) was kept."""
    for above in reversed(path.relative_to(places.ETC).parents):
        each = places.ETC / above
        if each != places.ETC and (each.is_symlink() or each.is_file()):
            each.unlink()
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)  # its files were kept, and are gone already
    if not text.startswith("-> "):
        places.write(path, text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.symlink_to(text[3:])
    beside.replace(path)


def _drop_empty_folders() -> None:
    for top in OWNED:
        folder = places.ETC / top
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
