from dataclasses import replace

import pytest

from distcc.identity import Identity, difference, parse_identity

# As `gcc -v` of Debian 12 has them, the lines between left out.
GCC12 = """Using built-in specs.
COLLECT_GCC=gcc
Target: x86_64-linux-gnu
Configured with: ../src/configure -v --with-pkgversion='Debian 12.2.0-14+deb12u1' --target=x
Thread model: posix
gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\x20
"""
ASSEMBLER = """ as -v --64 -o /tmp/distccd_a21fe03b.o /tmp/ccjGHM9c.s
GNU assembler version 2.40 (x86_64-linux-gnu) using BFD version (GNU Binutils for Debian) 2.40
"""
GCC11 = GCC12.replace("12.2.0-14+deb12u1", "11.3.0-12").replace("12.2.0", "11.3.0")
CLANG = """Debian clang version 14.0.6
Target: x86_64-pc-linux-gnu
Thread model: posix
"""
OURS = Identity(
    target="x86_64-linux-gnu",
    version="gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)",
    assembler="2.40 (x86_64-linux-gnu) using BFD version (GNU Binutils for Debian) 2.40",
    digest="d1",
)


def test_gcc_says_target_version_and_assembler() -> None:
    assert parse_identity(GCC12 + ASSEMBLER, "d1") == OURS


def test_of_two_compilers_the_last_is_meant_since_the_first_only_preprocessed() -> None:
    assert parse_identity(GCC12 + GCC11 + ASSEMBLER, "d").version == (
        "gcc version 11.3.0 (Debian 11.3.0-12)"
    )


def test_clang_says_target_and_version_and_has_no_assembler() -> None:
    assert parse_identity(CLANG, "d") == Identity(
        target="x86_64-pc-linux-gnu",
        version="Debian clang version 14.0.6",
        assembler="",
        digest="d",
    )


@pytest.mark.parametrize("said", ["", "sh: gcc: not found", "Target: x86_64-linux-gnu\n"])
def test_what_is_no_compiler_has_no_identity(said: str) -> None:
    with pytest.raises(ValueError, match="in what the compiler says of itself"):
        parse_identity(said, "d")


def test_the_same_compiler_is_no_difference() -> None:
    assert difference(OURS, OURS) == ""


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            {"target": "aarch64-unknown-linux-gnu"},
            "it compiles for aarch64-unknown-linux-gnu, the builder for x86_64-linux-gnu",
        ),
        (
            {"version": "gcc version 12.2.0 (Gentoo 12.2.0 p1)"},
            "it has gcc version 12.2.0 (Gentoo 12.2.0 p1), "
            "the builder gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)",
        ),
        (
            {"assembler": "2.41"},
            "it has the assembler 2.41, the builder 2.40 (x86_64-linux-gnu) using BFD version "
            "(GNU Binutils for Debian) 2.40",
        ),
        (
            {"digest": "d2"},
            "its gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) makes another object than the "
            "builder's, of the same file with the same flags",
        ),
    ],
)
def test_the_first_thing_that_differs_is_said(theirs: dict[str, str], said: str) -> None:
    assert difference(replace(OURS, **theirs), OURS) == said
