"""patch(1), as it is run on a kernel's source, and what it means by what it says. No I/O."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# What unpacks a patch, by its suffix.
UNPACK = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}


def patch_argv(patch: PurePosixPath, tree: PurePosixPath) -> list[str]:
    """The command line that applies a patch to a tree, as `eapply` does it (PMS, "eapply")."""
    return [
        *("patch", "-p1", "-f", "-g0", "--no-backup-if-mismatch"),
        *("--directory", str(tree), "--input", str(patch)),
    ]


FILE = re.compile(r"(?:patching|checking) file '?(?P<file>[^']+?)'?$")
FAILED = re.compile(r"Hunk #(?P<hunk>\d+) FAILED at (?P<line>\d+)")
LOST = re.compile(r"can't find file to patch at input line (?P<line>\d+)")
NAMED = re.compile(r"\|(?:---|\+\+\+) (?P<file>\S+)")
BROKEN = re.compile(r"patch: \*\*\*\* (?P<why>.+)")


def explain_patch(said: str) -> list[str]:
    """What patch(1) could not do, a line each: the file and the hunk, or the file it misses.

    Source: GNU patch 2.7.
    """
    found, file, line = [], "", ""
    for text in said.splitlines():
        if match := FILE.match(text):
            file = match["file"]
        elif match := FAILED.match(text):
            found.append(f"{file}: hunk {match['hunk']}, at line {match['line']}, does not fit")
        elif match := LOST.match(text):
            line = match["line"]
        elif line and (match := NAMED.match(text)):
            found.append(f"{match['file']}: there is no such file (line {line} of the patch)")
            line = ""
        elif match := BROKEN.match(text):
            found.append(match["why"])
    return found
