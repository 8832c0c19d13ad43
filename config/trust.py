#!/usr/bin/env python3
"""Make the keyring against which Portage checks packages. Installed as headnode-trust.

    /etc/headnode/keys.asc   the headnode's public keys, as they came
    /etc/portage/gnupg/      gpg's home made of them, each key trusted ultimately; `keys.sha256` in
                             it says of which keys.asc

Portage runs it before it takes binary packages (PORTAGE_TRUST_HELPER), and the pull before it
checks a deployment. It does what app-portage/getuto does for Gentoo's own keys: Portage runs gpg as
nobody, so everything in the folder is readable by all, and the trust database is there beforehand.
Only the standard library, and gpg. Exit codes: 0 good, 1 not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

KEYS = Path("/etc/headnode/keys.asc")
HOME = Path("/etc/portage/gnupg")
MARK = "keys.sha256"
ULTIMATE = 6  # gpg(1), --export-ownertrust


class TrustError(Exception):
    """The keyring could not be made; the text says why."""


def gpg(home: Path, *words: str, stdin: str = "") -> str:
    """Run gpg in `home` and return what it printed, or a TrustError."""
    argv = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--no-autostart", *words]
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise TrustError("no gpg: install app-crypt/gnupg") from error
    if done.returncode:
        raise TrustError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout


def fingerprints(listing: str) -> list[str]:
    """The fingerprints of the primary keys in what `gpg --with-colons` lists."""
    found, primary = [], False
    for line in listing.splitlines():
        kind, *fields = line.split(":")
        if kind == "pub":
            primary = True
        elif kind == "fpr" and primary:
            found.append(fields[8])
            primary = False
    return found


def make_home(keys: str, home: Path) -> None:
    """Make `home` trust `keys` (armored public keys) and no other, unless it does already.

    Raises:
        TrustError: there is no gpg, or these are no keys.
    """
    digest = hashlib.sha256(keys.encode()).hexdigest()
    mark = home / MARK
    if mark.is_file() and mark.read_text() == digest:
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    beside, before = home.with_name(f".{home.name}.new"), home.with_name(f".{home.name}.old")
    for folder in (beside, before):
        shutil.rmtree(folder, ignore_errors=True)
    beside.mkdir(mode=0o700)
    gpg(beside, "--import", stdin=keys)
    known = fingerprints(gpg(beside, "--list-keys", "--with-colons"))
    gpg(beside, "--import-ownertrust", stdin="".join(f"{key}:{ULTIMATE}:\n" for key in known))
    gpg(beside, "--check-trustdb")
    (beside / MARK).write_text(digest)
    for path in beside.iterdir():
        path.chmod(0o644)
    beside.chmod(0o755)
    if home.exists():
        home.rename(before)
    beside.rename(home)
    shutil.rmtree(before, ignore_errors=True)


def main() -> int:
    """Make the keyring and return the exit code."""
    try:
        with KEYS.open() as keys:
            fcntl.flock(keys, fcntl.LOCK_EX)  # two emerges at once
            make_home(keys.read(), HOME)
    except (TrustError, OSError) as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)  # noqa: PTH119
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
