"""Do the programs of a package find their libraries? Real programs, a real ldd."""

import subprocess
from pathlib import Path

import pytest

from blades import check


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a program, its plug-in, a script, and a link to a lost library."""
    source = tmp_path / "c.c"
    source.write_text("int x(void) { return 0; }\nint main(void) { return x(); }\n")
    program, library = tmp_path / "a program", tmp_path / "libown.so"
    for name in ("own", "lost"):
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so", "-o", f"lib{name}.so", source],
            cwd=tmp_path,
            check=True,
        )
    link = ["gcc", "-Wl,--no-as-needed", "-o", program, source, "-L.", "-lown", "-llost"]
    subprocess.run(link, cwd=tmp_path, check=True)
    (tmp_path / "script").write_text("#!/bin/sh\n")
    files = [program, library, tmp_path / "script", tmp_path / "gone"]
    folder = tmp_path / "vdb/c/p-1"
    folder.mkdir(parents=True)
    lines = [f"dir {tmp_path}", *(f"obj {file} 0123 1700000000" for file in files)]
    (folder / "CONTENTS").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(check, "VDB", tmp_path / "vdb")
    return tmp_path


def test_a_library_that_is_nowhere_is_missed_and_one_of_the_package_s_own_is_not(
    package: Path,
) -> None:
    assert check.look(["c/p-1"]) == {
        "files": 2,
        "missing": {str(package / "a program"): ["liblost.so"]},
    }
