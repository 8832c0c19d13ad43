"""Patches of one's own, which Portage applies when it builds a package.

::

    <state>/patches/<class>/<category>/<name or name-version>/<file>.patch

They are what portage(5) calls user patches. The builder has them in /etc/portage/patches, so its
emerge itself says that a binary without them does not fit, and builds the package anew; dropped
again, the one with them does not. A generation keeps them with its configuration. Blades need none:
what was patched in a package is not said in their index (`binhost.rings`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import ConfigError
from headnode.files import write_atomic

SUFFIXES = (".patch", ".diff")
DROPPED = ".dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A patch that is kept: `where` it lies below the class's folder, and what it changes."""

    where: str
    files: tuple[str, ...]


def read_patches(folder: Path) -> dict[str, str]:
    """The patches in a class's folder, by their place in the builder's /etc/portage/patches.

    Raises:
        ConfigError: one is not text in UTF-8.
    """
    found = sorted(path for path in folder.glob("*/*/*") if path.suffix in SUFFIXES)
    return {str(path.relative_to(folder)): _read(path) for path in found}


def _read(path: Path) -> str:
    """The text of a patch as it is: a source with CRLF lines has a patch with such."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"it is not text in UTF-8: {error}.",
            path=path,
            remedy="Write it in UTF-8 (iconv -f latin1 -t utf8), or move it away.",
        ) from error


def list_patches(folder: Path) -> list[Kept]:
    """Every patch in a class's folder."""
    known = read_patches(folder)
    return [Kept(where=where, files=changed_files(text)) for where, text in known.items()]


def changed_files(patch: str) -> tuple[str, ...]:
    """The files that a unified diff changes, without their first folder (patch -p1). Pure."""
    names = (line[4:].split("\t")[0].strip() for line in patch.splitlines() if line[:4] == "+++ ")
    return tuple(dict.fromkeys(name.partition("/")[2] or name for name in names))


def read_new(files: Sequence[Path]) -> dict[str, str]:
    """The patches in `files`, by name.

    Raises:
        ConfigError: one is no patch, or two have one name.
    """
    found: dict[str, str] = {}
    for path in files:
        text = _read(path)
        if not changed_files(text):
            raise ConfigError(
                f"{path} is no patch: it has no line that starts with `+++ `.",
                remedy="Make one with diff -u, or git diff.",
            )
        name = path.name if path.suffix in SUFFIXES else f"{path.name}.patch"
        if name in found:
            raise ConfigError(f"Two patches would be kept as {name}.", remedy="Rename one of them.")
        found[name] = text
    return found


def keep(folder: Path, new: Mapping[str, str]) -> None:
    """Keep patches by their place; one of the same name is replaced."""
    for where, text in new.items():
        write_atomic(folder / where, text)


def kept_of(folder: Path, atom: str) -> dict[str, str]:
    """The patches of a package (`category/name[-version]`), or one of them (`…/file`), by place.

    One that a `drop` set aside, and that was not forgotten since, is among them: the command was
    killed, and is to be run again.

    Raises:
        ConfigError: there is none.
    """
    wanted, known = atom.removeprefix("="), {**_set_aside(folder), **read_patches(folder)}
    found = {
        where: text
        for where, text in known.items()
        if where == wanted or where.startswith(f"{wanted}/")
    }
    if not found:
        raise ConfigError(
            f"There is no patch {atom}.", remedy=f"There is {', '.join(known) or 'none'}."
        )
    return found


def drop(folder: Path, places: Iterable[str]) -> None:
    """Set patches aside; `forget_dropped` lets go of them, `put_back` brings them back."""
    for where in places:
        if (folder / where).exists():
            (folder / where).rename(_aside(folder / where))


def forget_dropped(folder: Path) -> None:
    """Let go of what was dropped: `put_back` cannot bring it back from here any more."""
    for path in folder.glob(f"*/*/.*{DROPPED}"):
        path.unlink()


def put_back(folder: Path, before: Mapping[str, str | None]) -> None:
    """Have the patches at these places be as `before` (None: there was none), and no others.

    What was dropped needs no room for that.
    """
    for where, text in before.items():
        place = folder / where
        if text is None:
            place.unlink(missing_ok=True)
        elif not place.exists() and _aside(place).exists():
            _aside(place).replace(place)
        elif not place.exists() or _read(place) != text:
            keep(folder, {where: text})


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{DROPPED}")


def _set_aside(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob(f"*/*/.*{DROPPED}"))
    places = (path.with_name(path.name[1 : -len(DROPPED)]) for path in found)
    return {
        str(place.relative_to(folder)): _read(path)
        for path, place in zip(found, places, strict=True)
    }
