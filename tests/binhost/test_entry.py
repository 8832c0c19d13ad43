"""An entry is, byte for byte, what Portage's own indexer writes of the same file."""

import bz2
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import portage.gpkg
import portage.xpak
import pytest
from portage.dbapi.bintree import binarytree

from binhost import entry as module
from binhost.entry import GPKG, XPAK, make_entry, name_of
from binhost.index import field, join_entries, parse_entries, render
from binhost.pool import package_names
from headnode.errors import PublishError
from tests.bench.emaint import CHOST, Emaint

FLAGS = ("abi_x86_64", "doc", "gtk", "nls", "ssl", "static-libs")
# What packages say, the odd beside the usual; None: nothing at all.
DEPENDENCIES = (
    None,
    "",
    "  \n",
    "dev-libs/openssl:=",
    "dev-libs/openssl:0/3=",
    ">=dev-libs/openssl-3.0.1-r2:0/3=[static-libs?,-test(-)]",
    "dev-libs/icu:0/74.2= dev-lang/python:* dev-lang/perl:5.38",
    "ssl? ( >=dev-libs/openssl-1.1:0= ) !ssl? ( net-libs/gnutls:0/30= )",
    "gtk? ( x11-libs/gtk+:3[X,wayland?] doc? ( dev-util/gtk-doc ) )\n\tnls? ( virtual/libintl )",
    "|| ( app-arch/xz-utils ( app-arch/zstd:0/1= ssl? ( app-arch/lz4 ) ) )",
    "|| ( ssl? ( dev-libs/openssl ) dev-libs/libressl )",
    "!app-misc/old !!<sys-apps/coreutils-9.1 ~app-misc/same-1.2 =app-misc/prefix-1*",
    "app-misc/one[gtk=,!ssl=,nls?,!doc?] app-misc/two::gentoo",
    "abi_x86_64? ( dev-libs/a:= ) static-libs? ( dev-libs/a[static-libs] )",
)
VALUES: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(module.DEPENDENCIES, DEPENDENCIES),
    "SLOT": ("0", "0/1.2", "3", "2.4/2.4.1-r1", "stable", "0/0"),
    "EAPI": ("8", "7", "6", "5", "0", "", None),
    "KEYWORDS": ("amd64", "~amd64 x86", "-* amd64", "**", "", None),
    "USE": (*(" ".join(each) for each in itertools.combinations(FLAGS, 3)), "", None),
    "IUSE": ("+ssl -gtk doc nls", "ssl", "abi_x86_64", "", None),
    "LICENSE": ("GPL-2", "|| ( GPL-2+ BSD ) doc? ( FDL-1.3 )", "", None),
    "PROPERTIES": ("live", "interactive ssl? ( live )", "", None),
    "RESTRICT": ("test", "!gtk? ( test ) mirror", "bindist ssl? ( bindist )", "", None),
    "PROVIDES": ("x86_64: liba.so.1 libb.so.2", "x86_32: liba.so.1 x86_64: liba.so.1", "", None),
    "REQUIRES": ("x86_64: libc.so.6 libssl.so.3", "", None),
    "DEFINED_PHASES": ("compile install", "-", "", None),
    "BUILD_TIME": ("1700000000", "0", "", None),
    "CHOST": ("x86_64-pc-linux-gnu", "i686-pc-linux-gnu"),
    "repository": ("gentoo", "local-overlay", "", None),
    "USER_PATCHES": ("fix.patch", "one.patch  two.patch", "", None),
    # Of no key of the index, or of one that is worked out from the file:
    "DESCRIPTION": ("Größe: a — b", "multi\nline", None),
    "HOMEPAGE": ("https://example.org/?a=b", None),
    "SIZE": ("4711", None),
    "PATH": ("elsewhere", None),
    "CBUILD": ("x86_64-pc-linux-gnu", None),
}
INDEX = ("Packages", "Packages.gz")
VERSIONS = ("1", "1.2.3", "2.0_rc1", "2.0_p20240101-r3", "10.0b", "9999", "1.0-r1")


class Settings(dict[str, str]):
    """What Portage's gpkg writer asks of a configuration."""

    features: frozenset[str] = frozenset()

    def environ(self) -> dict[str, str]:
        """Variables for the programs that it runs."""
        return {}


SETTINGS = Settings(BINPKG_COMPRESS="zstd", PORTAGE_GRPNAME="root")


def write_gpkg(path: Path, metadata: dict[str, bytes], image: Path) -> None:
    """Write a gpkg with Portage's own writer."""
    base = path.name.removesuffix(GPKG)
    portage.gpkg.gpkg(SETTINGS, base, str(path)).compress(str(image), metadata)


def write_xpak(path: Path, metadata: dict[str, bytes], image: Path) -> None:
    """Write an xpak with Portage's own writer."""
    path.write_bytes(bz2.compress((image / "usr/share/x").read_bytes()))
    portage.xpak.tbz2(str(path)).recompose_mem(portage.xpak.xpak_mem(metadata))


def some_metadata(pick: random.Random) -> dict[str, str]:
    chosen = {key: pick.choice(values) for key, values in VALUES.items()}
    return {key: value for key, value in chosen.items() if value is not None}


def write_some(pkgdir: Path, image: Path, count: int) -> Iterator[str]:
    """Write packages of all kinds, several builds of one version and both formats among them."""
    (image / "usr/share").mkdir(parents=True)
    (image / "usr/share/x").write_bytes(bytes(range(256)) * 9)
    pick = random.Random(1)  # noqa: S311 (the same each time, that is all)
    for number in range(count):
        category, pn = pick.choice(("app-misc", "dev-libs", "sys-apps")), f"some-pkg{number // 5}"
        pf = f"{pn}-{pick.choice(VERSIONS)}"
        suffix, write = pick.choice(((GPKG, write_gpkg), (XPAK, write_xpak)))
        name = name_of(f"{category}/{pf}", number + 1, suffix)
        said = some_metadata(pick) | {"CATEGORY": category, "PF": pf, "BUILD_ID": f"{number + 1}"}
        path = pkgdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, {key: f"{value}\n".encode() for key, value in said.items()}, image)
        os.utime(path, (0, 1_700_000_000 + number / 4))
        yield name


@pytest.fixture(scope="module")
def emaint(tmp_path_factory: pytest.TempPathFactory) -> Emaint:
    """emaint over a PKGDIR of many packages that Portage's own code wrote."""
    folder = tmp_path_factory.mktemp("emaint")
    tool = Emaint(folder=folder, pkgdir=folder / "pkgdir")
    tool.prepare({"app-misc", "dev-libs", "sys-apps"})
    list(write_some(tool.pkgdir, folder / "image", 300))
    return tool


@pytest.fixture(scope="module")
def ours(emaint: Emaint) -> dict[str, str]:
    """What headnode makes of the same files."""
    names = sorted(package_names(emaint.pkgdir))
    return {name: make_entry(emaint.pkgdir / name, PurePosixPath(name))[0] for name in names}


def test_every_entry_is_what_emaint_writes_of_the_same_file(
    emaint: Emaint, ours: dict[str, str]
) -> None:
    assert "Invalid" not in emaint.run("fix")
    index = (emaint.pkgdir / "Packages").read_text()
    theirs = parse_entries(index.partition("\n\n")[2])
    assert {name: theirs.get(name) for name in ours} == ours
    assert len(theirs) == len(ours) == 300
    for suffix in (GPKG, XPAK):
        assert sum(name.endswith(suffix) for name in ours) > 100
    # There was something to compare: every key, with a value and without.
    for key in ("DEPEND", "IUSE", "PROVIDES", "REPO", "REQUIRES", "USER_PATCHES", "EAPI", "SLOT"):
        there = sum(field(entry, key) is not None for entry in ours.values())
        assert 20 < there < 300, key


def test_emaint_finds_nothing_to_do_with_our_index_beside_the_files(
    emaint: Emaint, ours: dict[str, str]
) -> None:
    written = place_index(emaint.pkgdir, ours)
    for action in ("check", "fix"):
        assert emaint.run(action, patched=True) == ""
        assert index_of(emaint.pkgdir) == written
    # It would have something to do if anything of it were otherwise.
    name, entry = next(iter(ours.items()))
    wrong = place_index(emaint.pkgdir, {**ours, name: entry.replace("SIZE: ", "SIZE: 1")})
    emaint.run("fix", patched=True)
    assert index_of(emaint.pkgdir) != wrong


def place_index(pkgdir: Path, entries: dict[str, str]) -> list[bytes]:
    """Put our index of `entries` beside the files."""
    index = render({"CHOST": CHOST}, entries.values(), timestamp=1_700_000_000, uri="")
    for path, content in zip(INDEX, index, strict=True):
        (pkgdir / path).write_bytes(content)
        os.utime(pkgdir / path, (1_700_000_000, 1_700_000_000))
    return list(index)


def index_of(pkgdir: Path) -> list[bytes]:
    return [(pkgdir / path).read_bytes() for path in INDEX]


def test_what_is_stated_here_of_portages_index_is_so() -> None:
    tree = binarytree(pkgdir="/nonexistent", settings=Settings())
    worked_out = {"CPV", "MD5", "SIZE", "_mtime_"}
    assert tree._pkgindex_keys - worked_out == module.METADATA_KEYS
    assert set(module.CONDITIONAL) == set(tree._pkgindex_use_evaluated_keys)
    assert set(module.DEPENDENCIES) == {k for k in module.CONDITIONAL if k.endswith("DEPEND")}
    defaults = tree._pkgindex_default_pkg_data
    assert {key: value for key, value in defaults.items() if value} == module.DEFAULTS
    translated = dict(tree._pkgindex_translated_keys)
    assert translated.pop("DESCRIPTION") == "DESC"  # which no entry has
    assert translated == module.TRANSLATED
    assert tree._pkgindex_hashes == ["MD5", "SHA1"]


def test_a_name_in_the_pool_is_portages_name_below_pkgdir() -> None:
    assert name_of("sys-libs/glibc-2.41-r3", 12) == "sys-libs/glibc/glibc-2.41-r3-12.gpkg.tar"
    assert name_of("app-misc/a-1", 2, XPAK) == "app-misc/a/a-1-2.xpak"


def test_dependencies_are_reduced_to_the_packages_own_use(
    tmp_path: Path, make_package: Any
) -> None:
    name = make_package(
        tmp_path, "a-1", USE="ssl", IUSE="ssl gtk", RDEPEND="ssl? ( dev-libs/o:0= ) gtk? ( x/y )"
    )
    entry, _ = make_entry(tmp_path / name, PurePosixPath(name))
    assert field(entry, "RDEPEND") == "dev-libs/o:0="


def test_dependencies_that_portage_cannot_read_are_refused(
    tmp_path: Path, make_package: Any
) -> None:
    name = make_package(tmp_path, "a-1", RDEPEND="ssl? ( dev-libs/o")
    with pytest.raises(PublishError, match="has dependencies that Portage cannot read"):
        make_entry(tmp_path / name, PurePosixPath(name))


def test_a_package_without_a_slot_is_refused_as_portage_does(
    tmp_path: Path, make_package: Any
) -> None:
    name = make_package(tmp_path, "a-1", SLOT=" ")
    with pytest.raises(PublishError) as error:
        make_entry(tmp_path / name, PurePosixPath(name))
    assert str(error.value) == (
        f"{tmp_path / name} has no SLOT in its metadata. Remove it and build the package again."
    )


@pytest.mark.parametrize(
    "name",
    [
        "app-misc/a/a-2-1.gpkg.tar",
        "app-misc/a/a-1-2.gpkg.tar",
        "app-misc/b/a-1-1.gpkg.tar",
        "app-text/a/a-1-1.gpkg.tar",
    ],
)
def test_a_package_under_another_ones_name_is_refused(
    tmp_path: Path, make_package: Any, name: str
) -> None:
    path = tmp_path / make_package(tmp_path, "a-1")
    with pytest.raises(PublishError) as error:
        make_entry(path, PurePosixPath(name))
    assert str(error.value) == (
        f"{name} says of itself that it is app-misc/a/a-1-1.gpkg.tar. "
        "Remove it from the staging folder and build the package again."
    )


def test_an_index_is_put_together_of_entries_as_they_stand(ours: dict[str, str]) -> None:
    assert parse_entries(join_entries(ours.values())) == ours
