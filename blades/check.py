#!/usr/bin/env python3
"""Look whether the programs of packages find their libraries. Run on a lab blade, by text.

Only the standard library, and ldd(1). Its arguments are packages, `category/name-version`; it
prints a JSON object: `files`, how many ELF files they have, and `missing`, for each file that lacks
libraries their names. A library that the package brings itself is not missed: a program loads its
plug-ins from folders that only it knows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VDB = Path("/var/db/pkg")
AT_ONCE = 100


def installed_files(package: str) -> list[str]:
    """The regular files of an installed package. Source: portage(5), CONTENTS."""
    lines = (VDB / package / "CONTENTS").read_text(errors="surrogateescape").splitlines()
    # obj <path> <md5> <mtime>: the path may have spaces.
    return [line[4:].rsplit(" ", 2)[0] for line in lines if line.startswith("obj ")]


def is_elf(path: str) -> bool:
    """Whether a file is a program or a library."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def missing_libraries(paths: list[str]) -> Iterator[tuple[str, str]]:
    """Each file of `paths` with each library that ldd does not find for it. Source: ldd(1)."""
    for start in range(0, len(paths), AT_ONCE):
        # A file that is no program besides: ldd says which file it speaks of only of several.
        some = [os.devnull, *paths[start : start + AT_ONCE]]
        done = subprocess.run(["ldd", *some], capture_output=True, text=True, check=False)
        path = ""
        for line in done.stdout.splitlines():
            if not line.startswith("\t"):
                path = line.removesuffix(":")
            elif line.endswith("=> not found"):
                yield path, line.split()[0]


def look(packages: list[str]) -> dict[str, object]:
    """What `main` prints."""
    count = 0
    missing: dict[str, list[str]] = {}
    for package in packages:
        files = installed_files(package)
        own = {Path(path).name for path in files}
        elf = [path for path in files if is_elf(path)]
        count += len(elf)
        for path, library in missing_libraries(elf):
            if library not in own:
                missing.setdefault(path, []).append(library)
    return {"files": count, "missing": missing}


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1:])))
