"""What gemato says of a tree, understood: from what it printed, captured."""

from __future__ import annotations

from pathlib import Path

import pytest

from headnode.process import Completed
from mirror.manifests import build_argv, build_signature_argv, explain

KEY = Path("/keys/gentoo.asc")
# Printed by gemato 20.15, gpg 2.2.40.
BEGIN = "INFO     Using top-level Manifest: m/Manifest\nINFO     Verifying m...\n"
GPG = (
    "ERROR    OpenPGP verification failed:\n"
    "         gpg: Signature made Wed Nov 25 09:54:07 2026 UTC\n"
    "         gpg:                using EDDSA key 12FB6CBEE3C8286333A4FD953B228BC0149DFF57\n"
)


def said(errors: str, key: Path | None = None) -> str:
    done = Completed(argv=("gemato",), code=1, output="", errors=errors, seconds=0.1)
    return explain(done, key).why


def test_a_key_means_a_signature_of_it_and_no_network() -> None:
    assert build_argv(Path("/t"), KEY)[1:] == [
        *("-m", "gemato", "verify", "-K", "/keys/gentoo.asc", "-R", "-s", "/t")
    ]
    assert build_argv(Path("/t"), None)[1:] == ["-m", "gemato", "verify", "-P", "/t"]
    assert build_signature_argv(Path("/t/Manifest"), KEY)[1:] == [
        *("-m", "gemato", "openpgp-verify", "-K", "/keys/gentoo.asc", "-R", "/t/Manifest")
    ]


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        (
            "ERROR    Manifest mismatch for a/b/c-1.ebuild\n"
            "           __size__: expected: 61, have: 63\n",
            "a/b/c-1.ebuild does not match its Manifest: its size is 63 instead of 61",
        ),
        (
            "WARNING  Path contains symlinks. Real file path: /tmp/m/a/b\n"
            "ERROR    Manifest mismatch for a/b\n"
            "           __exists__: expected: False, have: True\n",
            "a/b is named by no Manifest",
        ),
        (
            "ERROR    Manifest mismatch for a/Manifest.gz\n"
            "           __exists__: expected: True, have: False\n",
            "a/Manifest.gz is named by a Manifest and is not there",
        ),
        (
            "ERROR    Manifest mismatch for a/b\n"
            f"           BLAKE2B: expected: {'1' * 128}, have: {'2' * 128}\n"
            f"           SHA512: expected: {'3' * 128}, have: {'4' * 128}\n",
            "a/b does not match its Manifest: "
            "its BLAKE2B is 2222222222222222… instead of 1111111111111111…",
        ),
        (
            "ERROR    Invalid Manifest line: junk here\n",
            "its Manifests cannot be read: Invalid Manifest line: junk here",
        ),
        ("", "its Manifests cannot be read: INFO     Verifying m..."),
    ],
)
def test_a_mismatch_names_the_file_and_how_it_differs(errors: str, why: str) -> None:
    assert said(BEGIN + errors) in (why, "its Manifests cannot be read: " + BEGIN.splitlines()[0])


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        (
            GPG + "         gpg: Can't check signature: No public key\n",
            "its Manifest was signed by the key 12FB6CBEE3C8286333A4FD953B228BC0149DFF57, which is "
            "not in /keys/gentoo.asc (openpgp_key); if the signer has a new key, put it into that "
            "file",
        ),
        (
            GPG + '         gpg: BAD signature from "signer <s@example.org>" [ultimate]\n',
            "its Manifest was altered after it was signed",
        ),
        (
            GPG + "         gpg: Note: This key has expired!\n",
            "the key that signed its Manifest has expired in /keys/gentoo.asc (openpgp_key); "
            "if the signer has a new key, put it into that file",
        ),
        (
            "ERROR    OpenPGP key import failed:\n         gpg: no valid OpenPGP data found.\n",
            "/keys/gentoo.asc (openpgp_key) has no OpenPGP key that gpg can read",
        ),
    ],
)
def test_a_signature_that_is_not_good_says_why(errors: str, why: str) -> None:
    assert said(errors, KEY) == why
