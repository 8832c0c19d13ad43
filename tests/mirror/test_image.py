"""Images of snapshot sets, made by the real mksquashfs and read back by unsquashfs."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from headnode.errors import EnvironmentLacksError, MirrorError
from mirror import image
from mirror.contents import Kind, lay_out
from mirror.image import Image, build_argv, ensure_image, image_of, path_of, prune_images
from mirror.sets import write_set
from mirror.tree import Folder

WHEN = 1_700_000_000


def snapshot(state: Path, stamp: str, repo: str = "gentoo", **files: str) -> None:
    """A snapshot of a small repository; `files` has `__` for a slash."""
    root = Folder.of(state, repo).snapshots / stamp
    common = {"profiles__repo_name": f"{repo}\n", "app-misc__a__a-1.ebuild": "EAPI=8\n"}
    for name, text in {**common, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (WHEN, WHEN))


def a_set(state: Path, stamp: str = "1", **files: str) -> str:
    snapshot(state, stamp, **files)
    return write_set(state, {"gentoo": stamp})


def listing(path: Path) -> list[str]:
    done = subprocess.run(["unsquashfs", "-lc", path], capture_output=True, text=True, check=True)
    return sorted(line.removeprefix("squashfs-root/") for line in done.stdout.split())


def left_in(state: Path) -> list[str]:
    return sorted(path.name for path in image.folder_of(state).iterdir())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every run of mksquashfs, which is real."""
    calls: list[Any] = []
    real = image.run

    def counted(argv: Any, **options: Any) -> Any:
        calls.append(argv)
        return real(argv, **options)

    monkeypatch.setattr(image, "run", counted)
    return calls


def test_an_image_has_every_repository_of_the_set_under_its_name(tmp_path: Path) -> None:
    snapshot(tmp_path, "1")
    snapshot(tmp_path, "2", "local")
    both = write_set(tmp_path, {"gentoo": "1", "local": "2"})
    found = ensure_image(tmp_path, both, Kind.FULL)
    path = path_of(tmp_path, found)
    assert listing(path) == [
        "gentoo/app-misc/a/a-1.ebuild",
        "gentoo/profiles/repo_name",
        "local/app-misc/a/a-1.ebuild",
        "local/profiles/repo_name",
    ]
    assert path == tmp_path / "mirror/images" / f"{found.sha256}.squashfs"
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert digest.stdout.split()[0] == found.sha256
    assert path.stat().st_size == found.size_bytes
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_image_is_made_once_for_a_set_and_a_kind(tmp_path: Path, made: list[Any]) -> None:
    one = a_set(tmp_path)
    assert image_of(tmp_path, one, Kind.PROFILES) is None
    first = ensure_image(tmp_path, one)
    assert ensure_image(tmp_path, one) == first == image_of(tmp_path, one, Kind.PROFILES)
    assert len(made) == 1
    assert ensure_image(tmp_path, one, Kind.FULL).sha256 != first.sha256
    assert len(made) == 2


def test_sets_that_differ_in_ebuilds_and_stamps_alone_have_the_same_profiles_image(
    tmp_path: Path,
) -> None:
    """A night on which no profile changed is one on which blades fetch no tree."""
    old = a_set(tmp_path, "1", metadata__timestamp_chk="Monday")
    new = a_set(
        tmp_path,
        "2",
        **{"app-misc__b__b-1.ebuild": "EAPI=8\n", "metadata__timestamp.chk": "Tuesday"},
        metadata__timestamp_chk="Monday",
    )
    assert old != new
    assert ensure_image(tmp_path, old) == ensure_image(tmp_path, new)
    full = [ensure_image(tmp_path, each, Kind.FULL) for each in (old, new)]
    assert full[0] != full[1]
    masked = a_set(tmp_path, "3", **{"profiles__package.mask": "app-misc/b\n"})
    assert ensure_image(tmp_path, masked) != ensure_image(tmp_path, new)


def test_the_same_content_is_the_same_image_anywhere_later_and_on_any_number_of_cores(
    tmp_path: Path,
) -> None:
    text = random.Random(7)  # noqa: S311
    blocks = {
        f"profiles__{n}": text.randbytes(9000 * (n % 40)).hex() for n in range(60)
    }  # some files of many blocks, more that share one
    for state in (tmp_path / "here", tmp_path / "there"):
        a_set(state, **blocks)
    found = ensure_image(tmp_path / "here", a_set(tmp_path / "here", **blocks))
    time.sleep(1.1)  # squashfs has times of whole seconds
    assert ensure_image(tmp_path / "there", a_set(tmp_path / "there", **blocks)) == found
    repos = {"gentoo": Folder.of(tmp_path / "here", "gentoo").snapshots / "1"}
    lay_out(repos, Kind.PROFILES, tmp_path / "source")
    for cores in ("1", "5"):
        argv = [*build_argv(tmp_path / "source", tmp_path / cores), "-processors", cores]
        subprocess.run(argv, check=True)
        assert (tmp_path / cores).read_bytes() == path_of(tmp_path / "here", found).read_bytes()


def test_two_who_ask_at_once_get_one_image_that_was_made_once(
    tmp_path: Path, made: list[Any]
) -> None:
    one = a_set(tmp_path)
    found: list[Image] = []
    threads = [
        threading.Thread(target=lambda: found.append(ensure_image(tmp_path, one))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(made) == 1


KILLED = """
import sys
from pathlib import Path
from mirror.image import ensure_image
ensure_image(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_killed_run_leaves_nothing_that_counts_and_the_next_makes_the_image(
    tmp_path: Path,
) -> None:
    text = random.Random(7)  # noqa: S311
    one = a_set(tmp_path, **{f"profiles__{n}": text.randbytes(1 << 20).hex() for n in range(20)})
    half = image.folder_of(tmp_path) / ".new/image"
    argv = [sys.executable, "-c", KILLED, str(tmp_path), one]
    with subprocess.Popen(argv, cwd=Path(image.__file__).parent.parent) as process:
        while not half.exists() or not half.stat().st_size:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert image_of(tmp_path, one, Kind.PROFILES) is None
    assert not list(image.folder_of(tmp_path).glob("*.squashfs"))
    found = ensure_image(tmp_path, one)
    assert left_in(tmp_path) == sorted(
        [".lock", f"{one}.profiles.json", f"{found.sha256}.squashfs"]
    )
    listing(path_of(tmp_path, found))


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    noise = os.urandom(1_500_000)
    one = a_set(small_disk)
    (Folder.of(small_disk, "gentoo").snapshots / "1/profiles/noise").write_bytes(noise)
    with pytest.raises(MirrorError) as caught:
        ensure_image(small_disk, one)
    assert "The image of gentoo could not be made: " in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert str(caught.value).endswith("Free some space if the disk is full, then run this again.")
    assert left_in(small_disk) == [".lock"]


@pytest.mark.parametrize("harm", ["cut", "gone", "record"])
def test_what_was_damaged_is_made_again(tmp_path: Path, harm: str) -> None:
    one = a_set(tmp_path)
    found = ensure_image(tmp_path, one)
    path = path_of(tmp_path, found)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "gone":
        path.unlink()
    else:
        (path.parent / f"{one}.profiles.json").write_text("{")
    assert image_of(tmp_path, one, Kind.PROFILES) is None
    assert ensure_image(tmp_path, one) == found
    assert path.stat().st_size == found.size_bytes


def test_everybody_may_read_an_image_whatever_the_umask(tmp_path: Path) -> None:
    one = a_set(tmp_path)
    before = os.umask(0o077)
    try:
        path = path_of(tmp_path, ensure_image(tmp_path, one))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert path.parent.parent.stat().st_mode & 0o777 == 0o755


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MirrorError) as caught:
        ensure_image(tmp_path, "0" * 16)
    assert str(caught.value).startswith("There is no snapshot set '0000000000000000'.")


def test_a_machine_without_mksquashfs_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = a_set(tmp_path)
    monkeypatch.setattr("headnode.process.SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacksError) as caught:
        ensure_image(tmp_path, one)
    assert str(caught.value) == (
        "Programs that this command runs are not installed. Install them and run it again:\n"
        "  - mksquashfs: squashfs-tools (Debian), sys-fs/squashfs-tools[zstd] (Gentoo)"
    )


def test_images_that_no_kept_set_needs_are_removed_and_shared_ones_stay(tmp_path: Path) -> None:
    old, new = a_set(tmp_path, "1"), a_set(tmp_path, "2", **{"app-misc__b__b-1.ebuild": "x"})
    gone = ensure_image(tmp_path, old, Kind.FULL)
    shared = ensure_image(tmp_path, old)
    assert ensure_image(tmp_path, new) == shared
    going = {f"{gone.sha256}.squashfs": gone.size_bytes}
    assert prune_images(tmp_path, [new], dry_run=True) == going
    assert path_of(tmp_path, gone).exists()
    assert prune_images(tmp_path, [new]) == going
    assert left_in(tmp_path) == sorted(
        [".lock", f"{new}.profiles.json", f"{shared.sha256}.squashfs"]
    )
    assert prune_images(tmp_path, [new]) == {}
    (tmp_path / f"mirror/images/{new}.profiles.json").write_text("damaged")
    assert prune_images(tmp_path, [new]) == {f"{shared.sha256}.squashfs": shared.size_bytes}
    assert ensure_image(tmp_path, new) == shared
    assert prune_images(tmp_path, []) == {f"{shared.sha256}.squashfs": shared.size_bytes}
    assert prune_images(tmp_path / "nowhere", []) == {}
