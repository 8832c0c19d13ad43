"""A tree that moved back, and blades that sync by rsync: real emerge --sync on a real module."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blades import lab as labs
from config.portage import Rendered
from mirror import rsyncd
from mirror.upstream.assemble import assemble

pytestmark = pytest.mark.lab

REPOS_CONF = """[DEFAULT]
main-repo = gentoo
[gentoo]
location = /var/db/repos/gentoo
sync-type = rsync
sync-uri = rsync://headnode:8730/tree
auto-sync = yes
sync-rsync-verify-metamanifest = no
"""
CHK = "/var/db/repos/gentoo/metadata/timestamp.chk"
SYNC = ["emerge", "--color=n", "--nospinner", "--quiet", "--sync"]


@pytest.fixture
def blade(tmp_path: Path) -> Iterator[tuple[labs.Lab, Path]]:
    """A lab of one blade whose headnode serves the module `tree`; two trees, a day apart."""
    for name, clock in (("old", 1_700_000_000.0), ("new", 1_700_086_400.0)):
        assemble(tmp_path / name, tarballs=None, clock=lambda at=clock: at)  # type: ignore[misc]
        (tmp_path / name / "tree/profiles/which").write_text(f"{name}\n")
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "new/tree")
    tmp_path.chmod(0o755)
    conf = tmp_path / "rsyncd.conf"
    files = {f"{name}_file": tmp_path / f"rsyncd.{name}" for name in ("log", "pid", "lock")}
    module = rsyncd.Module(name="tree", path=current, comment="tree")
    conf.write_text(
        rsyncd.render(
            [module], listen="0.0.0.0", port=8730, max_connections=9, chroot=False, **files
        )
    )
    setup = Rendered(
        files={"/etc/portage/repos.conf/gentoo.conf": REPOS_CONF, "/etc/portage/make.conf": ""},
        links={"/etc/portage/make.profile": "../../var/db/repos/gentoo/profiles/lab/amd64"},
    )
    with (
        labs.running(tmp_path / "lab", {"blade01": setup}) as lab,
        subprocess.Popen(lab.headnode.argv(rsyncd.argv(conf))) as server,
    ):
        up = ["sh", "-c", "until rsync rsync://headnode:8730/; do sleep 0.1; done"]
        lab.node("blade01").run(up, timeout_s=60)
        yield lab, current
        server.terminate()


def test_a_tree_that_moved_back_arrives_once_the_blade_s_own_timestamp_is_removed(
    blade: tuple[labs.Lab, Path],
) -> None:
    lab, current = blade
    node = lab.node("blade01")

    def which() -> str:
        return node.run(["cat", "/var/db/repos/gentoo/profiles/which"], timeout_s=9).output.strip()

    node.run(SYNC, timeout_s=120)
    assert which() == "new"
    current.unlink()
    current.symlink_to(current.parent / "old/tree")
    refused = node.run(SYNC, timeout_s=120, check=False)
    assert refused.code == 1
    assert "SERVER OUT OF DATE" in refused.output + refused.errors
    assert which() == "new"
    node.run(["rm", CHK], timeout_s=9)
    node.run(SYNC, timeout_s=120)
    assert which() == "old"
    assert node.run(["test", "-e", CHK], timeout_s=9).code == 0
