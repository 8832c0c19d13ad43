"""Packages of the older format are read as Portage reads them, and refused when not whole."""

import bz2
from pathlib import Path

import portage.xpak
import pytest

from binhost.xpak import read_xpak
from headnode.errors import PublishError

META = {"CATEGORY": "app-misc", "PF": "a-1", "BUILD_ID": "1", "DESCRIPTION": "Größe", "EMPTY": ""}
TARBALL = bz2.compress(bytes(range(256)) * 20)


def xpak(metadata: dict[str, str]) -> bytes:
    """What Portage writes behind the tarball."""
    packed = bytes(portage.xpak.xpak_mem({k: f"{v}\n".encode() for k, v in metadata.items()}))
    return TARBALL + packed + portage.xpak.encodeint(len(packed)) + b"STOP"


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(PublishError) as error:
        read_xpak(path)
    assert str(error.value).endswith("Remove it and build the package again.")
    return error.value.what.removeprefix(f"{path} is not a whole xpak: ")


def test_metadata_is_what_portage_reads(tmp_path: Path) -> None:
    path = tmp_path / "a-1-1.xpak"
    path.write_bytes(xpak(META))
    theirs = portage.xpak.tbz2(str(path)).get_data()
    assert read_xpak(path) == {key.decode(): text.decode() for key, text in theirs.items()}
    assert read_xpak(path) == {key: f"{text}\n" for key, text in META.items()}


def test_a_truncated_package_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = xpak(META)
    for length in range(len(whole)):
        assert refusal(tmp_path / "a-1-1.xpak", whole[:length])


def test_what_ends_otherwise_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a", b"") == "it has 0 bytes."
    assert refusal(tmp_path / "a", b"<html>404</html>" * 9) == "it does not end as one does."


@pytest.mark.parametrize("length", [0, 15, 1 << 31])
def test_a_length_that_cannot_be_is_refused(tmp_path: Path, length: int) -> None:
    content = xpak(META)[:-8] + length.to_bytes(4, "big") + b"STOP"
    said = refusal(tmp_path / "a", content)
    assert said == f"its metadata cannot have {length} bytes."


def test_metadata_that_begins_elsewhere_is_refused(tmp_path: Path) -> None:
    content = xpak(META)
    length = len(content) - len(TARBALL) - 8
    wrong = content[:-8] + (length - 1).to_bytes(4, "big") + b"STOP"
    assert refusal(tmp_path / "a", wrong) == "its metadata does not begin where it should."


def test_a_value_beyond_the_data_is_refused(tmp_path: Path) -> None:
    content = bytearray(xpak({"SLOT": "0"}))
    at = content.index(b"SLOT") + 8  # the length of its value
    content[at : at + 4] = (99).to_bytes(4, "big")
    assert refusal(tmp_path / "a", bytes(content)) == "SLOT lies beyond its metadata."


def test_an_index_that_breaks_off_is_refused(tmp_path: Path) -> None:
    content = bytearray(xpak({"SLOT": "0"}))
    at = content.index(b"SLOT") - 4  # the length of its name
    content[at : at + 4] = (999).to_bytes(4, "big")
    assert refusal(tmp_path / "a", bytes(content)).startswith("unpack_from requires a buffer")
