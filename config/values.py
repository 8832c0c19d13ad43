"""The values that options of cluster.toml take: each type, its check, and its name in the manual.

A check raises ValueError with the whole sentence that the administrator reads; `config.load` adds
file, line and option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, ip_network
from pathlib import Path
from typing import Annotated

from ClusterShell.NodeSet import NodeSet, NodeSetException
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

RESERVED_RINGS = frozenset({"pool", "generations"})
LABEL_CHARACTERS = 63  # RFC 1035, 2.3.4
MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")

# PMS, "Names and versions": what Portage drops from a set without a word if it is not so.
_VERSION = r"\d+(?:\.\d+)*[a-z]?(?:_(?:alpha|beta|pre|rc|p)\d*)*(?:-r\d+)?"
_NAME = rf"[A-Za-z0-9_][A-Za-z0-9+_.-]*/(?!\S*-{_VERSION}(?:[:\[]|$))[A-Za-z0-9_][A-Za-z0-9+_-]*"
_NAMED = rf"[A-Za-z0-9_][A-Za-z0-9+_.-]*/[A-Za-z0-9_][A-Za-z0-9+_-]*?-{_VERSION}"
_SLOT = r"(?::[A-Za-z0-9_][A-Za-z0-9+_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9+_.-]*)?=?|:[=*])?"
_REPO, _USE = r"(?:::[A-Za-z0-9_][A-Za-z0-9_-]*)?", r"(?:\[[^\[\]\s]+\])?"
ATOM = re.compile(
    rf"@[A-Za-z0-9_+-]+|(?:{_NAME}|(?:[<>]=?|=|~){_NAMED}|={_NAMED}\*){_SLOT}{_REPO}{_USE}"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a type is called in the manual: `one` of it, and `many`."""

    one: str
    many: str


def misplaced(text: str, *at: str) -> PydanticCustomError:
    """An error about the key `at` (relative to where it is raised), for the line number's sake."""
    return PydanticCustomError("misplaced", "{text}", {"text": text, "at": at})


def _check_nodes(text: str) -> str:
    try:
        nodes = NodeSet(text)
    except NodeSetException as error:
        raise ValueError(f"not a node set: {error}") from error
    if not nodes:
        raise ValueError("an empty node set")
    for name in nodes:
        if not MACHINE.fullmatch(name):
            raise ValueError(
                f"{name!r} is no machine's name: those have letters, digits, '.', '_' and '-', and "
                "start with a letter or digit; sets are written as in blade[01-58],login"
            )
    return text


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise ValueError(
            "a name has letters, digits, '.', '_' and '-', and starts with a letter or digit"
        )
    return text


def is_flavour(name: str) -> bool:
    """Whether a flavour may have that name: it becomes part of a package's name (PMS, "Names")."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def _check_flavour(text: str) -> str:
    if text and not is_flavour(text):
        raise ValueError("a flavour's name has small letters, digits and '_', a letter first")
    return text


def _check_address(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError as error:
        raise ValueError(f"{text!r} is not an IPv4 address") from error


def _check_ring(text: str) -> str:
    if text in RESERVED_RINGS:
        raise ValueError(f"{text!r} is no ring's name: its address is taken")
    return text


def _check_variable(text: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", text):
        raise ValueError(f"{text!r} is not the name of a make.conf variable")
    return text


def _check_value(text: str) -> str:
    """It is written between quotation marks on one line of make.conf.

    Portage leaves the whole value empty where a `$` of it is not one that it can replace.
    """
    if re.search(r'["\\\n]', text):
        raise ValueError("a make.conf value has no quotation mark or backslash, and is one line")
    if "$" in re.sub(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", "", text):
        raise ValueError("a '$' in a make.conf value begins a variable's name, as in ${CFLAGS}")
    return text


def native_flag(text: str) -> str:
    """The flag that has `native` as a value (-march=native, target-cpu=native); empty if none has.

    Not the word in native-extensions.
    """
    found = re.search(r"\S*(?<![\w-])native(?![\w-])\S*", text)
    return found[0] if found else ""


def _check_flags(text: str) -> str:
    if native := native_flag(text):
        raise ValueError(
            f"{native} means the CPU that happens to compile: such binaries trap on another, "
            "and distcc helpers would each compile something else; name the oldest CPU of the "
            "class instead, as in -march=x86-64-v2"
        )
    return text


def _check_atom(text: str) -> str:
    if not ATOM.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a package atom (category/name, or with an operator and a version, as "
            "in =category/name-1.2) nor a set (@name)"
        )
    return text


def _check_line(text: str) -> str:
    if "\n" in text:
        raise ValueError(f"{text!r} is more than one line")
    return text


def _check_host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):  # an IPv6 address as URLs have it
        text = text[1:-1]
    if not re.fullmatch(r"[^\s/]+", text):
        raise ValueError(f"{text!r} is not a host name or address alone, without scheme or path")
    if not all(1 <= len(label) <= LABEL_CHARACTERS for label in text.removesuffix(".").split(".")):
        raise ValueError(
            f"{text!r} is no host name: between its dots are 1 to {LABEL_CHARACTERS} characters"
        )
    return text


def _check_network(text: str) -> str:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network, as in 10.0.1.0/24: {error}") from error
    if network.prefixlen == 0:
        raise ValueError(
            f"{text!r} is everybody: whoever reaches distccd runs programs on the machine"
        )
    return text


def _check_user(text: str) -> str:
    if text in ("root", "0") or not re.fullmatch(r"[a-z_][a-z0-9_-]*", text):
        raise ValueError(f"{text!r} is no user other than root that distccd could run as")
    return text


def _check_rsync(text: str) -> str:
    if not re.fullmatch(r"rsync://[^/\s]+/[^/\s]\S*", text):
        raise ValueError(f"{text!r} is not rsync://host/module")
    return text


def _check_upstream(text: str) -> str:
    if text.startswith("rsync:"):
        return _check_rsync(text)
    if not re.fullmatch(r"(git|git\+(https?|ssh|file|git))://\S*[^/\s]\S*", text):
        raise ValueError(
            f"{text!r} is not rsync://host/module nor git+https://host/path (git+ssh, git+file too)"
        )
    return text


def _check_web(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]\S*", text):
        raise ValueError(f"{text!r} is not an http:// or https:// address")
    return text


def _check_fingerprint(text: str) -> str:
    if not re.fullmatch(r"[0-9A-F]{40}", text):
        raise ValueError(
            f"{text!r} is not the fingerprint of a key: 40 hex digits, as gpg --list-keys has it"
        )
    return text


def _check_share(text: str) -> str:
    if not re.fullmatch(r"\d+%?", text) or (text.endswith("%") and int(text[:-1]) > 100):
        raise ValueError(f"{text!r} is neither a number of blades nor a share, 0% to 100%")
    return text


def _as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _check_time(text: str) -> str:
    if text and not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError(f"{text!r} is no time of day, as 02:30 is")
    return text


def _check_wave(text: str) -> str:
    if not _check_share(text).rstrip("%").strip("0"):
        raise ValueError("a wave of no blades")
    return text


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """A relative path is relative to the folder of cluster.toml, where that is known."""
    if "\0" in str(path):
        raise ValueError("a path has no NUL character")
    return info.context["folder"] / path if info.context else path


Name = Annotated[str, AfterValidator(_check_name), Kind("name", "names")]
Ring = Annotated[Name, AfterValidator(_check_ring)]
FlavourName = Annotated[str, AfterValidator(_check_flavour), Kind("flavour", "flavours")]
Address = Annotated[str, AfterValidator(_check_address), Kind("address", "addresses")]
Nodes = Annotated[str, AfterValidator(_check_nodes), Kind("node set", "node sets")]
Atom = Annotated[str, AfterValidator(_check_atom), Kind("package atom", "package atoms")]
Line = Annotated[str, AfterValidator(_check_line), Kind("line", "lines")]
TimeOfDay = Annotated[str, AfterValidator(_check_time), Kind("time of day", "times of day")]
Host = Annotated[str, AfterValidator(_check_host), Kind("host name or address", "hosts")]
Upstream = Annotated[
    str,
    AfterValidator(_check_upstream),
    Kind("rsync:// or git+https:// address", "rsync:// or git+https:// addresses"),
]
Network = Annotated[str, AfterValidator(_check_network), Kind("network", "networks")]
User = Annotated[str, AfterValidator(_check_user), Kind("user", "users")]
Web = Annotated[str, AfterValidator(_check_web), Kind("web address", "web addresses")]
Variable = Annotated[str, AfterValidator(_check_variable), Kind("variable", "variables")]
Value = Annotated[str, AfterValidator(_check_value)]
Flags = Annotated[Value, AfterValidator(_check_flags), Kind("compiler flags", "compiler flags")]
Setting = Annotated[Value, AfterValidator(_check_flags)]
Seconds0 = Annotated[
    float, Field(ge=0, strict=True, allow_inf_nan=False), Kind("number", "numbers")
]
Share = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_check_share),
    Kind("number or share", "numbers or shares"),
]
Wave = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_check_wave),
    Kind("number or share", "numbers or shares"),
]
Fingerprint = Annotated[
    str, AfterValidator(_check_fingerprint), Kind("fingerprint", "fingerprints")
]
Place = Annotated[Path, AfterValidator(_from_folder), Kind("path", "paths")]
Count = Annotated[int, Field(strict=True)]  # strict: "8080" and true are no numbers
Port = Annotated[Count, Field(ge=1, le=65535), Kind("port", "ports")]
Days = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False), Kind("days", "days")]
Minutes = Annotated[
    float, Field(ge=0, strict=True, allow_inf_nan=False), Kind("minutes", "minutes")
]
Hours = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False), Kind("hours", "hours")]
Seconds = Annotated[
    float, Field(gt=0, strict=True, allow_inf_nan=False), Kind("seconds", "seconds")
]
