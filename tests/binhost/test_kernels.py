"""A flavour's patches, key and revisions. The whole way is in tests/test_kernels.py."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from binhost.kernels import (
    Materials,
    Resolved,
    contents_digest,
    inputs_of,
    key_of,
    makefile_version,
    sources_folder,
)
from binhost.patches import explain_patch, patch_argv
from binhost.revisions import Kept, Shelf, keep, revise
from config.flavour import Recipe, load_flavour
from headnode.errors import BuildError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOURCE = f'[source]\nfile = "linux.tar.xz"\nsha256 = "{"a" * 64}"\n'
HUNKS = """\
--- a/kernel/sys.c
+++ b/kernel/sys.c
@@ -1,3 +1,4 @@
+0
 1
 2
 3
@@ -30,5 +31,6 @@
 no
 nor
+this
 is
 what
 there
"""


def recipe(folder: Path, more: str = "") -> Recipe:
    (folder / "site.toml").write_text(f"{more}{SOURCE}")
    return load_flavour(folder, "site")


def applied(folder: Path, patch: str) -> list[str]:
    """What is said of a patch that patch(1) is given, as the builder runs it, over a small tree."""
    (folder / "linux/kernel").mkdir(parents=True)
    (folder / "linux/kernel/sys.c").write_text("".join(f"{n}\n" for n in range(1, 60)))
    (folder / "a.patch").write_text(patch)
    argv = patch_argv(PurePosixPath(folder / "a.patch"), PurePosixPath(folder / "linux"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode
    return explain_patch(done.stdout + done.stderr)


def test_a_hunk_that_does_not_fit_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    assert applied(tmp_path, HUNKS) == ["kernel/sys.c: hunk 2, at line 31, does not fit"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert applied(tmp_path, HUNKS.replace("sys.c", "gone.c")) == [
        "a/kernel/gone.c: there is no such file (line 3 of the patch)"
    ]


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("hello\n", "Only garbage was found in the patch input."),
        (HUNKS.replace(" 3\n", "x\n"), "malformed patch at line 7: x"),
    ],
)
def test_what_is_no_patch_is_said_in_patch_s_own_words(
    tmp_path: Path, patch: str, said: str
) -> None:
    assert applied(tmp_path, patch) == [said]


def test_the_version_is_what_the_makefile_says() -> None:
    makefile = (
        "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION = -rc2\nNAME = x\n"
    )
    assert makefile_version(makefile) == {
        "VERSION": "6",
        "PATCHLEVEL": "1",
        "SUBLEVEL": "192",
        "EXTRAVERSION": "-rc2",
    }
    with pytest.raises(BuildError) as error:
        makefile_version("all:\n")
    assert str(error.value) == (
        "The source is no kernel: its Makefile has no VERSION. Correct `source` of the flavour."
    )


def test_an_installed_tree_is_known_by_its_folder_and_its_content_not_its_times() -> None:
    contents = (
        "dir /usr\ndir /usr/src\ndir /usr/src/linux-6.1.9-gentoo\n"
        "obj /usr/src/linux-6.1.9-gentoo/Makefile 0123456789abcdef0123456789abcdef 1700000000\n"
    )
    assert sources_folder(contents) == "linux-6.1.9-gentoo"
    assert sources_folder("dir /usr/share\n") == ""
    assert contents_digest(contents) == contents_digest(contents.replace("1700000000", "17"))
    assert contents_digest(contents) != contents_digest(contents.replace("0123", "3210"))


def test_whatever_a_kernel_is_made_of_changes_its_key(tmp_path: Path) -> None:
    patch = tmp_path / "a.patch"
    patch.write_text("one")
    materials = Materials(source_digest="s", patches=(patch,))
    plain = recipe(tmp_path)
    keys = [
        key_of(plain, materials, "CONFIG_A=y\n", "gcc 1"),
        key_of(plain, replace(materials, source_digest="t"), "CONFIG_A=y\n", "gcc 1"),
        key_of(plain, replace(materials, patches=()), "CONFIG_A=y\n", "gcc 1"),
        key_of(plain, materials, "CONFIG_A=m\n", "gcc 1"),
        key_of(plain, materials, "CONFIG_A=y\n", "gcc 2"),
        key_of(recipe(tmp_path, "make_args = ['A=b']\n"), materials, "CONFIG_A=y\n", "gcc 1"),
        key_of(recipe(tmp_path, "modules = []\n"), materials, "CONFIG_A=y\n", "gcc 1"),
        key_of(recipe(tmp_path, "initramfs = 'x {file}'\n"), materials, "CONFIG_A=y\n", "gcc 1"),
    ]
    patch.write_text("two")
    keys.append(key_of(plain, materials, "CONFIG_A=y\n", "gcc 1"))
    assert len(set(keys)) == len(keys)
    patch.write_text("one")
    about = recipe(tmp_path, "about = 'other words'\n")
    assert key_of(about, materials, "# date\nCONFIG_A=y\n", "gcc 1") == keys[0]


def test_a_fragment_s_text_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "net.config").write_text("CONFIG_A=y\n")
    (tmp_path / "site.toml").write_text(f'{SOURCE}[config]\nfragments = ["net.config"]\n')
    site, materials = load_flavour(tmp_path, "site"), Materials(source_digest="s")
    before = inputs_of(site, materials, "gcc")
    assert inputs_of(site, materials, "gcc") == before
    (tmp_path / "net.config").write_text("CONFIG_A=m\n")
    assert inputs_of(site, materials, "gcc") != before


def resolved(key: str, base: str = "6.1.192") -> Resolved:
    return Resolved(version=base, base=base, old=False, config="", compiler="gcc", key=key)


def test_a_new_key_is_the_next_number_and_an_old_one_has_its_own_again(tmp_path: Path) -> None:
    site, kept = recipe(tmp_path), Kept()
    seen = []
    for key, base in (("a", "6.1.1"), ("b", "6.1.1"), ("c", "6.1.2"), ("a", "6.1.1")):
        revision = revise(site, kept, resolved(key, base), now=NOW)
        kept = keep(kept, revision, key, ())
        seen.append((revision.package, revision.release))
    assert seen == [
        ("sys-kernel/headnode-site-6.1.1-r1", "6.1.1-site-r1"),
        ("sys-kernel/headnode-site-6.1.1-r2", "6.1.1-site-r2"),
        ("sys-kernel/headnode-site-6.1.2-r3", "6.1.2-site-r3"),
        ("sys-kernel/headnode-site-6.1.1-r1", "6.1.1-site-r1"),
    ]
    assert kept.highest == 3


def test_a_release_that_uname_has_no_room_for_is_refused(tmp_path: Path) -> None:
    site = recipe(tmp_path, f"local_version = '-{'x' * 30}'\n")
    with pytest.raises(BuildError) as error:
        revise(site, Kept(), resolved("a", "6.1.192-a-very-long-extraversion-of-somebody"), now=NOW)
    assert str(error.value) == (
        f"6.1.192-a-very-long-extraversion-of-somebody-{'x' * 30}-r1 has 78 characters, and uname "
        "has room for 64. Shorten `local_version` of the flavour."
    )


def test_what_is_kept_comes_back_and_nothing_else_stays(tmp_path: Path) -> None:
    shelf, site = Shelf.of(tmp_path, "site"), recipe(tmp_path)
    assert shelf.present() is None
    first = revise(site, Kept(), resolved("a"), now=NOW)
    kept = keep(Kept(), first, "in", ("x.patch",))
    shelf.put(kept, {first.config_file: b"one"}, {"x.patch": b"patch"})
    assert shelf.kept() == kept
    assert shelf.present() == (first, {"6.1.192-r1.config": b"one"})
    second = revise(site, kept, resolved("b"), now=NOW)
    shelf.put(keep(kept, second, "in", ()), {second.config_file: b"two"}, {})
    assert shelf.present() == (second, {"6.1.192-r2.config": b"two"})
    assert not shelf.patch("x.patch").exists()
