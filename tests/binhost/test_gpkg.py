"""Package files that are not whole are refused, with what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from binhost import gpkg
from binhost.gpkg import read_metadata
from headnode.errors import PublishError

BLOCK = 512
META = {"CATEGORY": "app-misc", "PF": "a-1", "BUILD_ID": "1", "DESCRIPTION": "Größe"}
Bytes = Callable[..., bytes]


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(PublishError) as error:
        read_metadata(path)
    assert str(error.value).endswith("Remove it and build the package again.")
    return error.value.what.removeprefix(f"{path} is not a whole gpkg: ")


def test_metadata_is_read_as_it_stands(tmp_path: Path, gpkg_bytes: Bytes) -> None:
    path = tmp_path / "a-1-1.gpkg.tar"
    path.write_bytes(gpkg_bytes(META, "a-1-1"))
    assert read_metadata(path) == {key: f"{text}\n" for key, text in META.items()}


def test_metadata_in_several_zstd_frames_is_read_whole(
    tmp_path: Path, gpkg_bytes: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = zstandard.compress
    monkeypatch.setattr(zstandard, "compress", lambda data: one(data[:700]) + one(data[700:]))
    path = tmp_path / "a-1-1.gpkg.tar"
    path.write_bytes(gpkg_bytes(META, "a-1-1"))
    assert read_metadata(path)["BUILD_ID"] == "1\n"


def test_a_truncated_package_is_refused_wherever_it_ends(tmp_path: Path, gpkg_bytes: Bytes) -> None:
    whole = gpkg_bytes(META, "a-1-1", image=bytes(range(256)) * 20)
    end = len(whole.rstrip(b"\0"))
    for length in [*range(0, end, BLOCK), end - 1]:
        assert refusal(tmp_path / "a-1-1.gpkg.tar", whole[:length])


def test_the_empty_placeholder_of_a_killed_emerge_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a-1-1.gpkg.tar", b"") == "empty file."


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a-1-1.gpkg.tar", b"<html>404</html>" * 100) == "invalid header."


def test_a_tar_that_is_no_gpkg_is_refused(tmp_path: Path, gpkg_bytes: Bytes) -> None:
    content = gpkg_bytes(META, "a-1-1").replace(b"a-1-1/gpkg-1", b"a-1-1/gpkg-7")
    path = tmp_path / "a-1-1.gpkg.tar"
    said = refusal(path, fix_checksums(content))
    assert said == "no gpkg-1 or no Manifest in it."


def fix_checksums(tar: bytes) -> bytes:
    """The same tar with the first header's checksum made anew."""
    header = bytearray(tar[:BLOCK])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[BLOCK:]


def test_damaged_metadata_is_refused(tmp_path: Path, gpkg_bytes: Bytes) -> None:
    whole = bytearray(gpkg_bytes(META, "a-1-1"))
    at = whole.index(zstandard.MAGIC_NUMBER.to_bytes(4, "little"))
    whole[at : at + 4] = b"\0" * 4
    assert refusal(tmp_path / "a-1-1.gpkg.tar", bytes(whole))


def test_metadata_that_unpacks_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, gpkg_bytes: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpkg, "METADATA_LIMIT_BYTES", 1 << 20)
    bomb = gpkg_bytes(META, "a-1-1", unpacked=bytes(2 << 20))
    assert len(bomb) < 1 << 16
    said = refusal(tmp_path / "a-1-1.gpkg.tar", bomb)
    assert said == "its metadata is larger than 1 MiB."
