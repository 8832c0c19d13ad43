"""Which compiler made an object: what `gcc -v` says of itself, and how two of them differ. Pure.

`gcc -v` goes out like any job, and what the helper's compiler says of itself comes back as its
messages. It names the target, the version with the distribution's own, and the assembler, which
comes with binutils and not with the compiler. What they cannot tell (patches, defaults, the CPU
that `native` means there), the object does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TARGET = re.compile(r"^Target: (?P<value>\S+)", re.MULTILINE)
VERSION = re.compile(r"^(?P<value>(?:gcc|.*\bclang) version .*?)\s*$", re.MULTILINE)
# clang has its assembler built in, and names none.
ASSEMBLER = re.compile(r"^GNU assembler version (?P<value>.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A compiler as it shows itself. `digest` is the SHA-256 of the object that it made."""

    target: str
    version: str
    assembler: str
    digest: str


def parse_identity(messages: str, digest: str) -> Identity:
    """The compiler that said `messages`, the last one where several did.

    The headnode's compiler comes first where the file was preprocessed by it.

    Raises:
        ValueError: none names its target and version there.
    """
    return Identity(
        target=_last(TARGET, messages, "Target"),
        version=_last(VERSION, messages, "version"),
        assembler=([found["value"] for found in ASSEMBLER.finditer(messages)] or [""])[-1],
        digest=digest,
    )


def _last(pattern: re.Pattern[str], messages: str, what: str) -> str:
    found = [match["value"] for match in pattern.finditer(messages)]
    if not found:
        raise ValueError(f"no {what} in what the compiler says of itself")
    return found[-1]


def difference(theirs: Identity, ours: Identity) -> str:
    """Why a helper's compiler is another than the builder's; empty if it is the same."""
    if theirs.target != ours.target:
        return f"it compiles for {theirs.target}, the builder for {ours.target}"
    if theirs.version != ours.version:
        return f"it has {theirs.version}, the builder {ours.version}"
    if theirs.assembler != ours.assembler:
        return f"it has the assembler {theirs.assembler}, the builder {ours.assembler}"
    if theirs.digest != ours.digest:
        return (
            f"its {theirs.version} makes another object than the builder's, of the same file with "
            "the same flags"
        )
    return ""
