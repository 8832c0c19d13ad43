"""What is in an image, and that nothing in it depends on who made it when."""

import os
import stat
from pathlib import Path

import pytest

from headnode.files import remove_tree
from mirror.contents import Kind, lay_out, wanted

FILES = [
    ".git/config",
    "Manifest",
    "app-misc/hello/Manifest",
    "app-misc/hello/hello-1.ebuild",
    "eclass/blade.eclass",
    "licenses/GPL-2",
    "metadata/glsa/Manifest",
    "metadata/glsa/glsa-202401-01.xml",
    "metadata/glsa/timestamp.chk",
    "metadata/layout.conf",
    "metadata/md5-cache/app-misc/hello-1",
    "metadata/news/2024-01-01-x/2024-01-01-x.en.txt",
    "metadata/pkg_desc_index",
    "metadata/timestamp.chk",
    "metadata/timestamp.x",
    "profiles/base/make.defaults",
    "profiles/repo_name",
    "profiles/updates/1Q-2024",
    "profiles/use.local.desc",
]


def plant(root: Path, names: list[str] = FILES, *, mtime: int = 1_700_000_000) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}\n")
        os.utime(root / name, (mtime, mtime))
    return root


def laid(root: Path, kind: Kind) -> dict[str, tuple[int, int]]:
    """What is laid out of `root`: path -> (mode, modification time)."""
    target = root.with_name(f"{root.name}.{kind}")
    remove_tree(target)
    lay_out({"gentoo": root}, kind, target)
    found = {}
    for path in sorted(target.rglob("*")):
        seen = path.lstat()
        found[str(path.relative_to(target / "gentoo"))] = (seen.st_mode, int(seen.st_mtime))
    return found


def files(found: dict[str, tuple[int, int]]) -> list[str]:
    return [name for name, (mode, _) in found.items() if not stat.S_ISDIR(mode)]


def test_profiles_are_what_installing_reads_and_nothing_that_every_sync_renews(
    tmp_path: Path,
) -> None:
    assert files(laid(plant(tmp_path / "tree"), Kind.PROFILES)) == [
        "licenses/GPL-2",
        "metadata/glsa/glsa-202401-01.xml",
        "metadata/layout.conf",
        "metadata/news/2024-01-01-x/2024-01-01-x.en.txt",
        "profiles/base/make.defaults",
        "profiles/repo_name",
        "profiles/updates/1Q-2024",
    ]


def test_full_is_everything_but_what_git_keeps(tmp_path: Path) -> None:
    assert files(laid(plant(tmp_path / "tree"), Kind.FULL)) == [
        name for name in FILES if not name.startswith(".git/")
    ]


@pytest.mark.parametrize(
    "name",
    [
        "profiles/Manifest.d/x",
        "metadata/news/2024-01-01-timestamp/x.txt",
        "licenses/Manifesto",
        "metadata/cache.conf",
    ],
)
def test_a_name_that_only_looks_like_what_is_left_out_stays(name: str) -> None:
    assert wanted(name, Kind.PROFILES)


def test_the_folders_own_times_and_the_order_of_writing_do_not_count(tmp_path: Path) -> None:
    plain = plant(tmp_path / "plain")
    odd = plant(tmp_path / "odd", FILES[::-1])
    for folder, _, _ in os.walk(odd):
        Path(folder).chmod(0o700)
        os.utime(folder, (1, 1))
    for kind in Kind:
        assert laid(odd, kind) == laid(plain, kind)


def test_a_file_keeps_its_time_and_a_folder_has_that_of_the_newest_in_it(tmp_path: Path) -> None:
    """Portage compares the times of profiles/updates, to apply what is new there."""
    tree = plant(tmp_path / "tree")
    os.utime(tree / "profiles/updates/1Q-2024", (1_800_000_000, 1_800_000_000.9))
    before = laid(tree, Kind.PROFILES)
    assert before["profiles/updates/1Q-2024"][1] == 1_800_000_000
    assert before["profiles/updates"][1] == 1_800_000_000
    assert before["."][1] == 1_800_000_000
    assert before["profiles/base"][1] == 1_700_000_000
    os.utime(tree / "metadata/timestamp.chk", (1_900_000_000, 1_900_000_000))
    assert laid(tree, Kind.PROFILES) == before


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    (tree / "profiles/link").symlink_to("repo_name")
    mode, _ = laid(tree, Kind.PROFILES)["profiles/link"]
    assert stat.S_ISLNK(mode)


def test_what_is_no_file_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    os.mkfifo(tree / "profiles/pipe")
    with pytest.raises(OSError, match="neither a file nor a folder nor a symlink"):
        lay_out({"gentoo": tree}, Kind.PROFILES, tmp_path / "out")
