import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headnode import files
from headnode.errors import BusyError, EnvironmentLacksError, ExitCode
from headnode.files import (
    digests,
    is_regular,
    locked,
    point_symlink,
    remove_tree,
    require_free_space,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folder_mode_and_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, "text é", mode=0o640, mtime=1_000_000_000)
    found = path.stat()
    assert path.read_bytes() == b"text \xc3\xa9"
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o640, 1_000_000_000)
    assert names(path.parent) == ["file"]


def test_the_old_content_stays_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.lab
def test_the_old_content_stays_when_the_disk_is_really_full(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from headnode.files import write_atomic\n"
        "write_atomic(Path('d/file'), b'old')\n"
        "try: write_atomic(Path('d/file'), b'x' * (8 << 20))\n"
        "except OSError as error: print(error.strerror)\n"
        "print(Path('d/file').read_text(), [p.name for p in Path('d').iterdir()])\n"
    )
    line = 'mkdir d && mount -t tmpfs -o size=1m tmpfs d && "$1" -c "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, "sh", sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "No space left on device\nold ['file']\n"


def test_a_reader_sees_the_old_content_or_the_new_never_half(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"a" * 100_000)
    with path.open("rb") as reader:
        write_atomic(path, b"b" * 100_000)
        assert reader.read() == b"a" * 100_000
    assert path.read_bytes() == b"b" * 100_000


def test_a_symlink_is_made_and_moved_in_one_rename(tmp_path: Path) -> None:
    link = tmp_path / "new" / "current"
    point_symlink(link, "deployments/1")
    before = link.lstat().st_ino
    point_symlink(link, "deployments/2")
    assert link.readlink() == Path("deployments/2")
    assert link.lstat().st_ino != before  # another link took its place: it was never gone
    assert names(link.parent) == ["current"]


def test_a_symlink_replaces_what_a_killed_run_left_beside_it(tmp_path: Path) -> None:
    link = tmp_path / "current"
    (tmp_path / f".current.{os.getpid()}").symlink_to("left over")
    point_symlink(link, "new")
    assert link.readlink() == Path("new")
    assert names(tmp_path) == ["current"]


def test_a_symlink_that_cannot_be_placed_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "current" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        point_symlink(tmp_path / "current", "new")
    assert names(tmp_path) == ["current"]


def test_removing_a_tree_follows_no_symlink(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(kept)
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove_tree(tree)
    remove_tree(link)
    remove_tree(tmp_path / "never there")
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["file"]


def test_removing_takes_files_dangling_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in list(tmp_path.iterdir()):
        remove_tree(path)
    assert names(tmp_path) == []


def test_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    content = os.urandom(files.CHUNK + 17)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert digests(path, "blake2b", "sha512", "md5") == {
        "blake2b": hashlib.blake2b(content).hexdigest(),
        "sha512": hashlib.sha512(content).hexdigest(),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }


HOLDER = """
import sys
from pathlib import Path
from headnode.files import locked
with locked(Path(sys.argv[1]), "headnode build"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_with_its_holders_name_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "state" / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    who = f"headnode build (process {holder.pid})"
    with pytest.raises(BusyError) as caught, locked(path, "headnode publish"):
        pytest.fail("locked twice")
    assert str(caught.value) == (f"{who} holds {path}. Wait for it to end, then run this again.")
    assert (caught.value.holder, caught.value.exit_code) == (who, ExitCode.FAILED)
    assert path.read_text() == f"{who}\n"  # the refused one wrote nothing
    holder.kill()
    holder.communicate()
    with locked(path, "headnode publish"):
        assert path.read_text() == f"headnode publish (process {os.getpid()})\n"
    assert path.read_text() == ""


def test_a_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock", "first"):
        raise RuntimeError
    with locked(tmp_path / "lock", "second"):
        pass


def test_too_little_space_is_said_before_work_starts(tmp_path: Path) -> None:
    require_free_space(tmp_path / "state", 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(EnvironmentLacksError) as caught:
        require_free_space(tmp_path / "state", free + (100 << 30))
    assert caught.value.what == f"The file system of {tmp_path / 'state'} is too full to start."
    assert caught.value.remedy == "Free some space, or lower the reserve:"
    assert caught.value.missing[0].endswith(" MiB wanted ([state] reserve_mib)")


def test_only_a_regular_file_itself_is_regular(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    assert is_regular(tmp_path / "file")
    assert not is_regular(tmp_path / "link")
    assert not is_regular(tmp_path)
    assert not is_regular(tmp_path / "none")


def test_a_lock_that_a_killed_holder_left_to_a_child_is_waited_for(tmp_path: Path) -> None:
    """As between fork and exec of a program that it was starting."""
    path = tmp_path / "lock"
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from headnode.files import locked\n"
        "with locked(Path(sys.argv[1]), 'one'):\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        "    time.sleep(1)\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    with locked(path, "two"):
        assert path.read_text() == f"two (process {os.getpid()})\n"
