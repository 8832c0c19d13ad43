"""A flavour: the recipe of one kernel, read from `<name>.toml`, and what it asks of .config.

::

    <[kernel] flavours>/<name>.toml    the site's own, with the files that it names
    config/flavours/<name>.toml       shipped with headnode

A site's flavour takes the place of a shipped one of its name. Source and patches are named by file
and SHA-256; each lies beside the flavour, or in the mirror's distfiles.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from config.load import read_as, read_text
from config.model import Section
from config.model.base import table
from config.values import Atom, Line, is_flavour, misplaced
from headnode.errors import ConfigError

SHIPPED = Path(__file__).with_name("flavours")


def _check_file_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise ValueError(f"{text!r} is not the name of a file, without a folder")
    return text


def _check_sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{text!r} is not a SHA-256: 64 hex digits, as sha256sum prints them")
    return text


def _check_local_version(text: str) -> str:
    """Part of `uname -r`, of file names in /boot, and of words in GRUB's configuration."""
    if not re.fullmatch(r"-[A-Za-z0-9][A-Za-z0-9._-]{0,31}", text):
        raise ValueError(f"{text!r} is not a '-' and up to 32 letters, digits, '.', '_' and '-'")
    return text


def _check_compiler(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise ValueError(f"{text!r} is not a compiler's name, as in gcc-13")
    return text


def _check_argument(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^'\n]*", text):
        raise ValueError(f"{text!r} is not NAME=value for make")
    if text.partition("=")[0] in OURS:
        raise ValueError(f"{text.partition('=')[0]} is worked out from the flavour")
    return text


def _check_symbol(text: str) -> str:
    if not re.fullmatch(r"[A-Z0-9][A-Za-z0-9_]*", text):
        raise ValueError(f"{text!r} is not a symbol, without CONFIG_, as in BLK_DEV_INITRD")
    return text


def _check_symbol_value(text: str) -> str:
    if not re.fullmatch(r"[ynm]|-?[0-9]+|0x[0-9a-fA-F]+|\"[^\"\n]*\"", text):
        raise ValueError(f"{text!r} is not y, m, n, a number, or text in quotation marks")
    return text


# What make is told by the eclass, and would contradict it.
OURS = frozenset({"CC", "EXTRAVERSION", "INSTALL_MOD_PATH", "LOCALVERSION", "O"})

FileName = Annotated[str, AfterValidator(_check_file_name)]
Sha256 = Annotated[str, AfterValidator(_check_sha256)]
LocalVersion = Annotated[str, AfterValidator(_check_local_version)]
Compiler = Annotated[str, AfterValidator(_check_compiler)]
Argument = Annotated[str, AfterValidator(_check_argument)]
Symbol = Annotated[str, AfterValidator(_check_symbol)]
SymbolValue = Annotated[str, AfterValidator(_check_symbol_value)]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


class Source(Section):
    """Where the kernel's source is from: an archive, or a package that installs it."""

    file: FileName | None = Field(
        None, description="An archive that tar reads, with one folder at its top."
    )
    sha256: Sha256 | None = Field(None, description="SHA-256 of `file`.")
    package: Atom | None = Field(
        None, description="A package that installs a tree in /usr/src, instead of a file."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.file is None) == (self.package is None):
            raise misplaced("needs either `file` or `package`", "file")
        if self.file is not None and self.sha256 is None:
            raise misplaced("a file needs its digest: sha256", "file")
        if self.package is not None and self.sha256 is not None:
            raise misplaced("a package's files are checked by its tree", "sha256")
        return self


class Patch(Section):
    """A patch, plain or compressed (.gz, .bz2, .xz), applied with `patch -p1`."""

    file: FileName = Field(description="A file's name.")
    sha256: Sha256 = Field(description="Its SHA-256.")


class Configuration(Section):
    """What .config is made from, in this order: base, fragments, set."""

    base: Line = Field(
        "defconfig",
        description="A make target that writes a .config, such as defconfig or tinyconfig, or the "
        "name of a whole .config beside the flavour (any name with a dot).",
    )
    fragments: tuple[FileName, ...] = Field(
        (), description="Files beside the flavour with lines of a .config, merged in order."
    )
    set: dict[Symbol, SymbolValue] = Field(
        {}, description='Single symbols, as in `BLK_DEV_INITRD = "y"`; "n" asks for none.'
    )

    @model_validator(mode="after")
    def _base_is_one_of_both(self) -> Self:
        if self.base_file is None and not re.fullmatch(r"[a-z0-9_]*config", self.base):
            text = f"{self.base!r} is neither a make target (…config) nor a file with a dot"
            raise misplaced(text, "base")
        if self.base_file is not None:
            _check_file_name(self.base)
        return self

    @property
    def base_file(self) -> str | None:
        """The file that is the base; None where it is a make target."""
        return self.base if "." in self.base else None


class Flavour(Section):
    """All of `<name>.toml`."""

    about: Line = Field("", description="What it is for, on one line.")
    source: Source = Field(
        description="Where the kernel's source is from: an archive, or a package that installs it."
    )
    patches: tuple[Patch, ...] = Field((), description="Applied in this order.")
    config: Configuration = table()
    local_version: LocalVersion | None = Field(
        None, description="Part of `uname -r` after the version. Not set: '-' and the name."
    )
    compiler: Compiler = Field(
        "gcc", description="The C compiler, by the name that it has in the builder's PATH."
    )
    make_args: tuple[Argument, ...] = Field(
        (), description="Further arguments of every make, as in ARCH=i386."
    )
    initramfs: Line = Field(
        "",
        description="Command that a blade runs to make the initramfs, with {release} and {file} "
        "for the kernel's release and the file to write, as in `dracut --kver {release} {file}`. "
        "Empty: none.",
    )
    modules: tuple[Module, ...] = Field(
        ("all",),
        description="Modules that are installed, with those that they need. `all`: all that were "
        "built. An empty list: none.",
    )

    @model_validator(mode="after")
    def _initramfs_names_its_file(self) -> Self:
        try:
            words = [word.format(release="r", file="\n") for word in shlex.split(self.initramfs)]
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            text = (
                f"the command cannot be read ({error}): it can have {{release}} and {{file}}, and "
                "each other brace twice"
            )
            raise misplaced(text, "initramfs") from error
        if words and not any("\n" in word for word in words):
            raise misplaced("the command has no {file}", "initramfs")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A flavour with its name, the file that it was read from, and the site's `folder` of them."""

    name: str
    path: Path
    folder: Path
    flavour: Flavour

    @property
    def local_version(self) -> str:
        """Part of `uname -r` after the version."""
        return self.flavour.local_version or f"-{self.name}"

    @property
    def shipped(self) -> bool:
        """Whether it came with headnode."""
        return self.path.parent == SHIPPED

    def beside(self, file: str) -> Path:
        """Where a file that it names lies: beside it, else in the site's folder of flavours."""
        here = self.path.parent / file
        return here if here.is_file() else self.folder / file


def names(folder: Path) -> dict[str, Path]:
    """Every flavour there is, the site's in `folder` before the shipped ones: name to file."""
    found = {path.stem: path for path in (*SHIPPED.glob("*.toml"), *folder.glob("*.toml"))}
    return {name: found[name] for name in sorted(found) if is_flavour(name)}


def load_flavour(folder: Path, name: str) -> Recipe:
    """Read the flavour `name`, the site's in `folder` or the shipped one.

    Raises:
        ConfigError: there is none, or it is not as it must be.
    """
    known = names(folder)
    if name not in known:
        raise ConfigError(
            f"There is no flavour {name!r}.",
            remedy=f"There is {', '.join(known)}; a new one would be {folder / name}.toml.",
        )
    return Recipe(name=name, path=known[name], folder=folder, flavour=read_as(known[name], Flavour))


LINE = re.compile(r"(?:CONFIG_(?P<set>\w+)=(?P<value>.*))|(?:# CONFIG_(?P<unset>\w+) is not set)")


def parse_config(text: str) -> dict[str, str]:
    """The symbols of a .config or a fragment, without CONFIG_; `n` for one that is not set. Pure.

    Raises:
        ValueError: a line is neither a symbol nor a comment.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := LINE.fullmatch(line.strip()):
            found[match["set"] or match["unset"]] = match["value"] if match["set"] else "n"
        elif line.strip() and not line.lstrip().startswith("#"):
            raise ValueError(f"line {number} is no line of a .config: {line.strip()!r}")
    return found


def requested(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """What the fragments and `set` ask for: symbol to value and the file that says so.

    Raises:
        ConfigError: a fragment is not there, or a line of it is none of a .config.
    """
    wanted: dict[str, tuple[str, str]] = {}
    for file in recipe.flavour.config.fragments:
        path = recipe.beside(file)
        try:
            found = parse_config(read_text(path))
        except ValueError as error:
            raise ConfigError(f"{error}.", path=path) from error
        wanted |= {symbol: (value, file) for symbol, value in found.items()}
    wanted |= {
        symbol: (value, recipe.path.name) for symbol, value in recipe.flavour.config.set.items()
    }
    # The release's parts come from `local_version` and the revision, and from nowhere else.
    ours = {"LOCALVERSION": ('""', recipe.path.name), "LOCALVERSION_AUTO": ("n", recipe.path.name)}
    return {**wanted, **ours}


def merge(base: str, wanted: Mapping[str, tuple[str, str]]) -> str:
    """A .config with what is wanted in place of what `base` says of those symbols. Pure."""
    kept = []
    for line in base.splitlines():
        match = LINE.fullmatch(line.strip())
        if not match or (match["set"] or match["unset"]) not in wanted:
            kept.append(line)
    lines = [config_line(symbol, value) for symbol, (value, _) in wanted.items()]
    return "\n".join([*kept, *lines]) + "\n"


def config_line(symbol: str, value: str) -> str:
    """The line of a .config that says so. Pure."""
    return f"# CONFIG_{symbol} is not set" if value == "n" else f"CONFIG_{symbol}={value}"


def lost(resolved: str, wanted: Mapping[str, tuple[str, str]]) -> list[str]:
    """What was asked for and did not survive, a sentence each. Pure.

    A symbol that the resolved configuration does not have at all counts as `n`. Text and numbers
    are compared as they are written.
    """
    has = parse_config(resolved)
    return [
        f"{config_line(symbol, value)} ({file}) came out as {config_line(symbol, found)}"
        for symbol, (value, file) in wanted.items()
        if (found := has.get(symbol, "n" if value != '""' else '""')) != value
    ]
