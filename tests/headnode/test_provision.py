import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from headnode.node.running import start
from headnode.node.spec import NodeSpec
from headnode.provision import (
    TOOLS,
    environment_binds,
    has_portage,
    provide_emerge,
    seen_through,
)

MOUNTINFO = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 254:0 /srv/home /home rw - ext4 /dev/vda rw
29 27 254:1 / /srv/disk rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/opt/checkout", True),
        ("/srv/disks", True),
        ("/srv/disk/checkout", False),  # another disk
        ("/home/me/checkout", False),  # the same disk, but mounted: an overlay of / has no /home
        ("/tmp/checkout", False),  # a node has a /tmp of its own
        ("/run/checkout", False),
        ("/dev/shm/checkout", False),
    ],
)
def test_what_an_overlay_of_the_root_shows(path: str, seen: bool) -> None:
    assert seen_through(Path(path), MOUNTINFO) is seen


def test_over_another_root_all_of_the_environment_is_bound_in() -> None:
    binds = environment_binds(root=Path("/srv/stage3"))
    targets = [bind.target for bind in binds]
    checkout = Path(__file__).resolve().parents[2]
    for path in (Path(sys.prefix).resolve(), checkout):
        assert any(PurePosixPath(path).is_relative_to(target) for target in targets), path
    assert not any(bind.writable for bind in binds)
    assert PurePosixPath("/usr") not in targets


def test_a_root_with_portage_is_left_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "stage3"
    (root / "usr/bin").mkdir(parents=True)
    assert not has_portage(root)
    (root / "usr/bin/emerge").write_text("")
    assert has_portage(root)
    spec = NodeSpec(name="n1", store=tmp_path / "n1", lower=root)
    provide_emerge(spec)
    provide_emerge(NodeSpec(name="n1", store=tmp_path / "n1", lower=None))
    assert not spec.upper.exists()


def test_a_root_without_portage_is_given_its_commands_gtar_and_a_python(tmp_path: Path) -> None:
    spec = NodeSpec(name="n1", store=tmp_path / "n1", lower=tmp_path)
    provide_emerge(spec)
    provide_emerge(spec)  # again, as a builder that comes up once more
    programs = spec.upper / "usr/local/bin"
    assert sorted(path.name for path in programs.iterdir()) == sorted([*TOOLS, "gtar", "python3"])
    assert all((programs / name).stat().st_mode & 0o777 == 0o755 for name in TOOLS)
    assert (spec.upper / "share/portage").readlink() == Path(sys.prefix) / "share/portage"


@pytest.mark.lab
def test_emerge_runs_in_a_node_as_if_it_were_installed(tmp_path: Path) -> None:
    spec = NodeSpec(name="n1", store=tmp_path / "n1", lower=Path("/"), binds=environment_binds())
    provide_emerge(spec)
    node = start(spec)
    try:
        done = node.run(["portageq", "envvar", "ROOT", "PORTDIR_OVERLAY"], timeout_s=60)
        assert done.output.splitlines()[0] == "/"
        done = node.run(["emerge", "--version"], timeout_s=60, check=False)
        assert done.output.startswith("Portage 3.0.") or "make.profile" in done.errors
        assert node.run(["gtar", "--version"], timeout_s=60).output.startswith("tar (GNU tar)")
    finally:
        node.stop()
    assert not (Path("/usr/local/bin/emerge")).exists()
    assert subprocess.run(["sh", "-c", "[ ! -e /share ]"], check=False).returncode == 0
