"""Whether a tree is what its Manifests say, and who signed them: asked of `gemato`.

A top-level Manifest names, by digest, every file of the tree (GLEP 74), so a truncated or altered
file, one too many and one too few are all found. Without a top-level Manifest, as in most git
overlays, there is nothing to check, unless a key is configured: then there has to be one, signed.

gemato is run as a program of its own: it forks one process per core, and it is ended when it takes
too long. gpg gets a folder of its own with the configured keys and no others, and no network: keys
are not refreshed, an expired one has to be replaced in its file.

Source: GLEP 74; gemato 20.15.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from headnode.process import Completed, require, run
from mirror.guard import TreeError

VERIFY_S = 1800.0
SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----"
WIDE = {"COLUMNS": "1000"}  # gemato wraps what it says, paths and digests too
NEW_KEY = "if the signer has a new key, put it into that file"


def build_argv(tree: Path, key: Path | None) -> list[str]:
    """Give the command line that checks every file of `tree`, and the signature where `key` is."""
    signature = ["-K", str(key), "-R", "-s"] if key else ["-P"]
    return [sys.executable, "-m", "gemato", "verify", *signature, str(tree)]


def build_signature_argv(manifest: Path, key: Path) -> list[str]:
    """Give the command line that checks the signature of one Manifest."""
    return [sys.executable, "-m", "gemato", "openpgp-verify", "-K", str(key), "-R", str(manifest)]


def verify_tree(tree: Path, key: Path | None) -> None:
    """Check every file of `tree` against its Manifests, and who signed them if `key` is given.

    Raises:
        TreeError: saying which file is not as it must be, and how.
        CommandError: it took longer than half an hour.
        EnvironmentLacksError: there is no gpg, and it is needed.
    """
    manifest = tree / "Manifest"
    if key:
        _require_signed(manifest, key)
    elif not manifest.is_file():
        return
    done = run(build_argv(tree, key), timeout_s=VERIFY_S, check=False, env=WIDE)
    if done.code:
        raise explain(done, key)


def verify_signature(manifest: Path, key: Path) -> None:
    """Check that one of the keys in `key` signed a top-level Manifest.

    Raises:
        TreeError, EnvironmentLacksError: as `verify_tree`.
    """
    _require_signed(manifest, key)
    done = run(build_signature_argv(manifest, key), timeout_s=VERIFY_S, check=False, env=WIDE)
    if done.code:
        raise explain(done, key)


def _require_signed(manifest: Path, key: Path) -> None:
    require("gpg")
    if not key.is_file():
        raise TreeError(f"the file {key} (openpgp_key) is not there")
    if not manifest.is_file():
        raise TreeError("it has no top-level Manifest, and openpgp_key asks for a signed one")
    with manifest.open(errors="replace") as file:
        if file.readline().strip() != SIGNED:
            raise TreeError("its top-level Manifest is not signed, and openpgp_key asks for it")


def explain(done: Completed, key: Path | None) -> TreeError:
    """Say what gemato found wrong, from what it printed. Pure."""
    lines = (done.output + done.errors).splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("ERROR ")]
    said = [line.strip() for line in lines[starts[0] :]] if starts else lines[-3:]
    first = said[0].removeprefix("ERROR").strip() if said else "gemato gave no reason"
    detail = [line for line in said[1:] if line and not line.startswith(("INFO", "WARNING"))]
    if found := re.fullmatch(r"Manifest mismatch for (.*)", first):
        return TreeError(f"{found[1]} {_mismatch(detail)}", passing=True)
    if first.startswith("OpenPGP verification failed"):
        return TreeError(_signature(" ".join(detail), key))
    if first.startswith("OpenPGP key import failed"):
        return TreeError(f"{key} (openpgp_key) has no OpenPGP key that gpg can read")
    return TreeError(f"its Manifests cannot be read: {first}", passing=True)


def _mismatch(detail: list[str]) -> str:
    """How a file differs: `__size__: expected: 61, have: 63` and the like."""
    found = re.match(r"(\w+): expected: (.*), have: (.*)", detail[0] if detail else "")
    if not found:
        return "does not match its Manifest" + (f": {detail[0]}" if detail else "")
    what, expected, have = found.groups()
    if what == "__exists__":
        gone = have == "False"
        return "is named by a Manifest and is not there" if gone else "is named by no Manifest"
    name = what.strip("_")
    shown = [value[:16] + "…" if len(value) > 20 else value for value in (have, expected)]
    return f"does not match its Manifest: its {name} is {shown[0]} instead of {shown[1]}"


def _signature(said: str, key: Path | None) -> str:
    if "No public key" in said:
        by = re.search(r"using \w+ key ([0-9A-F]{8,})", said)
        whose = f"the key {by[1]}, which is" if by else "a key that is"
        return f"its Manifest was signed by {whose} not in {key} (openpgp_key); {NEW_KEY}"
    if "BAD signature" in said:
        return "its Manifest was altered after it was signed"
    if "expired" in said:
        return f"the key that signed its Manifest has expired in {key} (openpgp_key); {NEW_KEY}"
    return f"the signature of its Manifest is not good: {said}"
