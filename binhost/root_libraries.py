"""Which libraries a root has: what a blade's loader finds there before any package is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from binhost import soname
from binhost.index import cp_of
from headnode.process import run

LDCONFIG_S = 60.0
LINE = re.compile(r"^\t(?P<name>\S+) \([^)]*\) => (?P<path>/\S+)$")


def sonames(root: Path, entries: Iterable[str]) -> frozenset[str]:
    """The sonames that `root` has and keeps when the packages of `entries` are installed over it.

    A package of the root whose place one of `entries` takes (same name and slot) takes its
    libraries with it.
    """
    listed = run(["ldconfig", "-r", root, "-p"], timeout_s=LDCONFIG_S).output
    packages = {_key(folder): _provides(folder) for folder in root.glob("var/db/pkg/*/*")}
    there = frozenset(_named(root, listed)).union(*packages.values())
    return there - soname.replaced(packages, entries)


def parse(listed: str) -> list[tuple[str, str]]:
    """Name and path of each library in what `ldconfig -p` printed. Pure. Source: ldconfig(8)."""
    return [
        (found["name"], found["path"]) for found in map(LINE.match, listed.splitlines()) if found
    ]


def _named(root: Path, listed: str) -> Iterable[str]:
    for name, path in parse(listed):
        # Within the root: a link in it may be absolute, and then means the root's own.
        if machine := _machine(_within(root, path)):
            yield f"{machine}: {name}"


def _within(root: Path, path: str) -> Path:
    file = root / path.lstrip("/")
    for _ in range(40):  # as many links as the kernel follows
        if not file.is_symlink():
            break
        target = file.readlink()
        file = root / str(target).lstrip("/") if target.is_absolute() else file.parent / target
    return file


def _machine(file: Path) -> str | None:
    """Portage's name of the machine that an ELF file is for (its multilib category)."""
    from portage.dep.soname.multilib_category import compute_multilib_category
    from portage.util.elf.header import ELFHeader

    try:
        with file.open("rb") as stream:
            machine = compute_multilib_category(ELFHeader.read(stream))
    except OSError:
        return None
    return str(machine) if machine else None


def _key(folder: Path) -> str:
    slot = _text(folder / "SLOT").partition("/")[0] or "0"
    return f"{cp_of(f'{folder.parent.name}/{folder.name}')}:{slot}"


def _provides(folder: Path) -> frozenset[str]:
    return soname.parse(_text(folder / "PROVIDES"))


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
