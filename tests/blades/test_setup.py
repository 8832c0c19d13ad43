import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from blades import places, pull, report
from blades.inventory import select
from blades.setup import MODULES, PULL_PATH, PULL_SETTINGS, setup_files, to_tar
from config.model import Cluster
from config.portage import Rendered, is_program
from headnode.commands.blades import write_below
from schedules.rollout import PULL

KEYRING = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
CLUSTER = Cluster.model_validate(
    {"serve": {"host": "10.0.0.1", "http_port": 8081}, "classes": {"blade": {}}}
)
PROGRAMS = tuple(f"usr/local/sbin/headnode-{name}" for name in ("kernel", "pull", "tree", "trust"))


@pytest.fixture
def rendered() -> Rendered:
    (blade,) = select(CLUSTER, "blade03")
    return setup_files(CLUSTER, blade, ["app-misc/b", "app-misc/a"], KEYRING)


def tree(folder: Path) -> dict[str, tuple[str, int, str]]:
    """Every file below `folder`: its kind, mode and content (or target)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", 0o777, str(path.readlink()))
        elif path.is_file():
            found[name] = ("file", path.stat().st_mode & 0o7777, path.read_text())
    return found


def test_a_blade_is_told_where_its_headnode_is_and_what_it_is_itself(rendered: Rendered) -> None:
    assert json.loads(rendered.files[PULL_SETTINGS]) == {
        "headnode": "http://10.0.0.1:8081",
        "rsync": "rsync://10.0.0.1:8730",
        "tree": "profiles",
        "class": "blade",
        "ring": "fleet",
        "blade": "blade03",
        "signed": True,
        "kernel": "",
        "keep": 3,
        "loader": "grub",
    }


def test_a_blade_is_given_the_pull_as_it_is(rendered: Rendered) -> None:
    assert rendered.files["/usr/local/lib/headnode/blades/pull.py"] == (
        Path(pull.__file__).read_text()
    )
    assert rendered.files[PULL_PATH].startswith("#!/bin/sh\n")
    assert rendered.files[str(places.KEYS)] == KEYRING
    assert PULL_PATH == PULL  # what a rollout starts
    assert str(places.SETTINGS) == PULL_SETTINGS


def test_a_blade_is_given_these_files_and_no_others(rendered: Rendered) -> None:
    assert sorted(rendered.files) == [
        "/etc/headnode/keys.asc",
        "/etc/headnode/pull.json",
        "/etc/local.d/headnode-tree.start",
        "/etc/portage/binrepos.conf/gentoobinhost.conf",
        "/etc/portage/make.conf",
        "/etc/portage/package.accept_keywords/headnode",
        "/etc/portage/package.license/headnode",
        "/etc/portage/package.mask/headnode",
        "/etc/portage/package.use/headnode",
        "/etc/portage/repos.conf/gentoo.conf",
        "/etc/portage/sets/blade",
        "/etc/systemd/system/headnode-tree.service",
        *(f"/usr/local/lib/headnode/blades/{name}.py" for name in sorted(MODULES)),
        "/usr/local/sbin/headnode-kernel",
        "/usr/local/sbin/headnode-pull",
        "/usr/local/sbin/headnode-tree",
        "/usr/local/sbin/headnode-trust",
        "/var/lib/headnode/portage.json",
    ]
    assert sorted(rendered.links) == [
        "/etc/portage/make.profile",
        "/etc/systemd/system/multi-user.target.wants/headnode-tree.service",
    ]
    assert rendered.files[str(places.ETC / "sets/blade")] == "app-misc/a\napp-misc/b\n"


def test_programs_of_the_system_are_found_also_where_cron_starts_it(
    rendered: Rendered, tmp_path: Path
) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\necho $PATH\n")
    (tmp_path / "python3").chmod(0o755)
    program = tmp_path / "pull"
    program.write_text(rendered.files[PULL_PATH])
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", program], env=env, capture_output=True, text=True, check=True)
    assert {"/usr/bin", "/usr/sbin", "/sbin"} < set(done.stdout.strip().split(":"))


def test_the_tar_unpacks_to_the_same_files(rendered: Rendered, tmp_path: Path) -> None:
    for name in ("unpacked", "written"):
        (tmp_path / name).mkdir()
    unpack = ["tar", "--extract", "--directory", str(tmp_path / "unpacked")]
    subprocess.run(unpack, input=to_tar(rendered), check=True)
    write_below(tmp_path / "written", rendered)
    unpacked = tree(tmp_path / "unpacked")
    assert unpacked == tree(tmp_path / "written")
    assert {f"/{name}" for name in unpacked} == {*rendered.files, *rendered.links}
    modes = {name: mode for name, (kind, mode, _) in unpacked.items() if kind == "file"}
    for program in ("etc/local.d/headnode-tree.start", *PROGRAMS):
        assert modes.pop(program) == 0o755
    assert set(modes.values()) == {0o644}


def test_the_tar_is_unpacked_over_what_an_earlier_one_gave(
    rendered: Rendered, tmp_path: Path
) -> None:
    unpack = ["tar", "--extract", "--directory", str(tmp_path)]
    subprocess.run(unpack, input=to_tar(rendered), check=True)
    before = tree(tmp_path)
    subprocess.run(unpack, input=to_tar(rendered), check=True)
    assert tree(tmp_path) == before


def test_the_tar_is_the_same_every_time_and_owned_by_root(rendered: Rendered) -> None:
    assert to_tar(rendered) == to_tar(rendered)
    with tarfile.open(fileobj=io.BytesIO(to_tar(rendered))) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert not any(member.name.startswith("/") for member in members)


def test_a_changed_module_of_the_same_size_is_not_taken_for_the_compiled_one(
    tmp_path: Path,
) -> None:
    """Python goes by a source's size and time: of one time for all, the old code would run on."""
    ask = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = ['{tmp_path}']; import said"]
    answers = []
    for word in ("old", "new"):
        tar = to_tar(Rendered(files={"/said.py": f"print('{word}')\n"}))
        subprocess.run(["tar", "-x", "-C", tmp_path], input=tar, check=True)
        answers.append(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    assert answers == ["old\n", "new\n"]
    assert list((tmp_path / "__pycache__").iterdir())


def test_text_beyond_ascii_is_whole_in_the_tar() -> None:
    content = to_tar(Rendered(files={"/etc/x": "é\n"}))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile("etc/x")
        assert file is not None
        assert file.read().decode() == "é\n"


@pytest.mark.parametrize(
    ("path", "program"),
    [
        ("/usr/local/sbin/headnode-pull", True),
        ("/usr/bin/x", True),
        ("/etc/bin.conf", False),
        ("/usr/bin/x/y", False),
        ("/etc/portage/make.conf", False),
    ],
)
def test_what_lies_in_bin_and_sbin_is_a_program(path: str, program: bool) -> None:
    assert is_program(path) is program


def test_a_secret_is_for_root_s_eyes_only(tmp_path: Path) -> None:
    (blade,) = select(CLUSTER, "blade03")
    rendered = setup_files(CLUSTER, blade, ["app-misc/a"], KEYRING, bytes(32))
    write_below(tmp_path, rendered)
    secret = tmp_path / str(report.SECRET).lstrip("/")
    assert secret.read_text() == "00" * 32 + "\n"
    assert secret.stat().st_mode & 0o7777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(to_tar(rendered))) as archive:
        assert archive.getmember("etc/headnode/secret").mode == 0o600
