"""The index is what Portage itself would write, and what Portage's own client reads."""

import gzip
import io
from pathlib import PurePosixPath
from typing import Any

import pytest
from portage.dbapi.bintree import binarytree
from portage.getbinpkg import PackageIndex

from binhost.entry import make_entry
from binhost.index import field, join_entries, parse_entries, render
from binhost.pool import package_names
from headnode.errors import PublishError

ENTRY = "BUILD_ID: 1\nCPV: app-misc/a-1\nPATH: app-misc/a/a-1-1.gpkg.tar\nSIZE: 3\nMTIME: 7\n"
OTHER = "BUILD_ID: 1\nCPV: app-misc/b-1\nPATH: app-misc/b/b-1-1.gpkg.tar\nSIZE: 4\nMTIME: 7\n"


class Settings(dict[str, str]):
    features: frozenset[str] = frozenset()


def by_portage(content: bytes) -> PackageIndex:
    """An index as Portage's binary tree reads it: keys translated, defaults filled in."""
    index = binarytree(pkgdir="/nonexistent", settings=Settings())._new_pkgindex()
    index.read(io.StringIO(content.decode()))
    return index


def entries_of(index: PackageIndex) -> dict[str, dict[str, str]]:
    return {entry["PATH"]: dict(entry) for entry in index.packages}


@pytest.mark.lab
def test_entries_are_those_that_portage_wrote_when_it_built_the_packages(works: Any) -> None:
    theirs = entries_of(by_portage((works.first / "Packages").read_bytes()))
    ours = by_portage(
        render(
            works.result.header,
            (make_entry(works.first / name, PurePosixPath(name))[0] for name in theirs),
            timestamp=1,
            uri="",
        )[0]
    )
    for entry in theirs.values():
        # What Portage learnt of a repository's revision goes into its header, not to a client.
        entry.pop("REPO_REVISIONS", None)
    for entry in entries_of(ours).values():
        # Said in every entry, where Portage says it in the header if it is the machine's own.
        assert entry["CHOST"] == "x86_64-pc-linux-gnu"
        theirs[entry["PATH"]].setdefault("CHOST", "x86_64-pc-linux-gnu")
    assert entries_of(ours) == theirs
    assert set(theirs) == package_names(works.first) == set(works.result.packages)


@pytest.mark.lab
def test_the_header_says_what_portages_does_but_what_concerns_the_builder_only(works: Any) -> None:
    theirs = by_portage((works.first / "Packages").read_bytes()).header
    ours = works.result.header
    assert {key: value for key, value in theirs.items() if key in ours} == {
        key: value for key, value in ours.items() if key in theirs
    }
    left_out = {key for key, value in theirs.items() if value and key not in ours}
    assert left_out == {
        *("FEATURES", "GENTOO_MIRRORS", "PROFILE", "PACKAGES", "TIMESTAMP", "VERSION")
    }
    assert ours.keys() - theirs.keys() == set()


def test_a_client_of_portages_reads_header_and_entries() -> None:
    content, _ = render({"ARCH": "amd64"}, [ENTRY, OTHER], timestamp=99, uri="http://h/pool")
    client = PackageIndex()
    client.read(io.StringIO(content.decode()))
    assert client.header == {
        "ARCH": "amd64",
        "PACKAGES": "2",
        "TIMESTAMP": "99",
        "URI": "http://h/pool",
        "VERSION": "0",
    }
    assert [entry["CPV"] for entry in client.packages] == ["app-misc/a-1", "app-misc/b-1"]


def test_the_packed_index_is_read_as_portages_client_reads_it() -> None:
    entries = [ENTRY.replace("a-1", f"a-{number}") for number in range(5000)]
    content, packed = render({}, entries, timestamp=99, uri="u")
    with gzip.GzipFile(mode="rb", fileobj=io.BytesIO(packed)) as file:
        assert file.read() == content
    assert len(packed) * 5 < len(content)


def test_packages_gz_unpacks_to_packages_and_is_the_same_each_time() -> None:
    content, packed = render({}, [ENTRY], timestamp=99, uri="u")
    assert gzip.decompress(packed) == content
    assert render({}, [ENTRY], timestamp=99, uri="u") == (content, packed)


def test_entries_are_carried_along_byte_for_byte() -> None:
    odd = "CPV: x/y-1\nPATH: x/y/y-1-1.gpkg.tar\nDESC: a  b: c\nZED: ü\n"
    text = join_entries([ENTRY, odd])
    assert list(parse_entries(text).values()) == [ENTRY, odd]
    content, _ = render({}, parse_entries(text).values(), timestamp=1, uri="u")
    assert content.decode().endswith(f"\n\n{ENTRY}\n{odd}\n")


def test_an_empty_index_is_one() -> None:
    content, _ = render({}, [], timestamp=1, uri="u")
    client = PackageIndex()
    client.read(io.StringIO(content.decode()))
    assert (client.header["PACKAGES"], client.packages) == ("0", [])
    assert parse_entries("") == {}


def test_an_entry_without_a_path_is_damage() -> None:
    with pytest.raises(PublishError) as error:
        parse_entries("CPV: a/b-1\nSIZE: 3\n")
    assert str(error.value) == (
        "An index entry has no PATH: 'CPV: a/b-1'. "
        "It is damaged: put the file `entries` back from a backup."
    )


def test_two_entries_of_one_file_are_damage() -> None:
    with pytest.raises(PublishError) as error:
        parse_entries(join_entries([ENTRY, ENTRY]))
    assert str(error.value) == (
        "The index has 2 entries for 1 files. "
        "It is damaged: put the file `entries` back from a backup."
    )


def test_two_entries_of_one_build_are_damage() -> None:
    again = ENTRY.replace("a-1-1.gpkg.tar", "a-1-1.xpak")
    with pytest.raises(PublishError) as error:
        parse_entries(join_entries([OTHER, ENTRY, again]))
    assert str(error.value) == (
        "The index has 2 entries for build 1 of app-misc/a-1. "
        "It is damaged: put the file `entries` back from a backup."
    )


def test_a_field_is_its_own_line_and_no_other() -> None:
    assert field("X_SIZE: 1\nSIZE: 2\nDESC: SIZE: 3\n", "SIZE") == "2"
    assert field(ENTRY, "SHA1") is None
