"""The files of user patches: what is read, kept, refused, and dropped."""

from pathlib import Path

import pytest

from binhost.user_patches import keep, read_new, read_patches
from headnode.errors import ConfigError

CRLF = "--- a/f.c\n+++ b/f.c\n@@ -1 +1 @@\n-one\r\n+two\r\n"


def write(path: Path, content: str | bytes = "+++ b/f.c\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_patch_for_lines_with_crlf_is_kept_byte_for_byte(tmp_path: Path) -> None:
    new = read_new([write(tmp_path / "fix.patch", CRLF)])
    assert new == {"fix.patch": CRLF}
    keep(tmp_path / "kept", {"app-misc/a/fix.patch": new["fix.patch"]})
    assert read_patches(tmp_path / "kept") == {"app-misc/a/fix.patch": CRLF}
    assert (tmp_path / "kept/app-misc/a/fix.patch").read_bytes() == CRLF.encode()


def test_a_kept_patch_that_is_not_in_utf_8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "app-misc/a/fix.patch", b"+++ b/\xe9.c\n")
    with pytest.raises(ConfigError) as error:
        read_patches(tmp_path)
    assert str(error.value) == (
        f"{path}: it is not text in UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 6: "
        "invalid continuation byte. Write it in UTF-8 (iconv -f latin1 -t utf8), or move it away."
    )


@pytest.mark.parametrize("second", ["b/fix.patch", "a/fix"])
def test_two_patches_of_one_name_are_refused(tmp_path: Path, second: str) -> None:
    files = [write(tmp_path / "a/fix.patch"), write(tmp_path / second)]
    with pytest.raises(ConfigError) as error:
        read_new(files)
    assert str(error.value) == "Two patches would be kept as fix.patch. Rename one of them."
