"""The shipped ebuilds, by real emerge: the blades' pull as a package, and headnode itself.

The tests tell one story, in their order, in a lab of one blade.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blades.enrol import package_files
from blades.inventory import select
from blades.setup import setup_files, to_tar
from config.load import atoms_of, load
from config.overlay import SHIPPED
from headnode import rehearsal
from headnode.rehearsal import Rehearsal

pytestmark = pytest.mark.lab
BLADE = "blade01"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of one blade that needs next to nothing but the pull's package."""
    with rehearsal.running(tmp_path_factory.mktemp("lab"), 1, cache=tarballs) as made:
        text = made.config.read_text()
        assert '"cluster-meta/blade"' in text
        less = text.replace('"cluster-meta/blade"', '"@system", "app-admin/headnode-pull"')
        made.config.write_text(less)
        rehearsal.start_headnode(made)
        for words in (("mirror", "sync"), ("build",), ("publish",)):
            made.headnode(*words)
        yield made


def ask(up: Rehearsal, *words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(up.headnode(*words, "--json").output)


def on(up: Rehearsal, *command: str) -> str:
    """What a command prints on the blade."""
    return up.lab.node(BLADE).run(list(command), timeout_s=900).output.strip()


def unpack(up: Rehearsal, tar: bytes) -> None:
    """Unpack a tar at the blade's root."""
    argv = up.lab.node(BLADE).argv(["tar", "-x", "-C", "/", "-f", "-"])
    subprocess.run(argv, input=tar, check=True)


def installed(up: Rehearsal) -> set[str]:
    """What the blade's /var/db/pkg has, `category/name-version`."""
    found = on(up, "find", "/var/db/pkg", "-mindepth", "2", "-maxdepth", "2")
    return {path.removeprefix("/var/db/pkg/") for path in found.splitlines()}


def contents(up: Rehearsal, package: str) -> list[list[str]]:
    """The files and links of an installed package: kind, path, and what its database says of it."""
    lines = on(up, "cat", f"/var/db/pkg/{package}/CONTENTS").splitlines()
    return [line.split() for line in lines if not line.startswith("dir ")]


def the_pull(up: Rehearsal) -> str:
    [package] = [each for each in installed(up) if each.startswith("app-admin/headnode-pull-0_p")]
    return package


def headnodes_own(folder: Path) -> bytes:
    """What a machine is given to install headnode by emerge, as docs/step-by-step.md says: a tar.

    Its python3 is the tests' environment, which has what the lab's package.provided says.
    """
    distfiles, repos = folder / "var/cache/distfiles", folder / "var/db/repos"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", distfiles]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    shutil.copytree(SHIPPED, repos / "headnode")
    for name, text in (
        ("etc/portage/repos.conf/headnode.conf", "[headnode]\nlocation = /var/db/repos/headnode\n"),
        ("usr/local/bin/python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    (folder / "usr/local/bin/python3").chmod(0o755)
    tar = ["tar", "-c", "-C", folder, "etc", "usr", "var"]
    return subprocess.run(tar, check=True, capture_output=True).stdout


@pytest.mark.slow
def test_headnode_itself_is_installed_by_emerge_and_runs_from_there(
    up: Rehearsal, tmp_path: Path
) -> None:
    on(up, "headnode-pull", "--trees")  # for its profile
    # Its own place for now: the pull mounts the overlay that the lab's headnode renders there.
    on(up, "sh", "-c", "umount /var/db/repos/headnode 2>/dev/null; rm -rf /var/db/repos/headnode")
    unpack(up, headnodes_own(tmp_path))
    [ebuild] = SHIPPED.glob("app-admin/headnode/*.ebuild")
    version = ebuild.stem.removeprefix("headnode-")
    on(up, "ebuild", f"/var/db/repos/headnode/app-admin/headnode/{ebuild.name}", "manifest")
    source = ("env", "EMERGE_DEFAULT_OPTS=", "FEATURES=-getbinpkg")
    on(up, *source, "emerge", "--oneshot", "app-admin/headnode")
    assert f"app-admin/headnode-{version}" in installed(up)

    assert on(up, "headnode", "--version") == f"headnode, version {version}"
    assert "headnode mirror sync && headnode build" in on(up, "headnode", "--help")
    where = "import headnode; print(headnode.__file__)"
    line = f"$(grep ^export /usr/bin/headnode); python3 -P -c '{where}'"
    ran = on(up, "sh", "-c", f'eval "{line}"')
    assert ran == "/usr/lib/headnode/headnode/__init__.py"
    on(up, "sh", "-c", "mkdir /tmp/own && cd /tmp/own && headnode init --state state")
    unit = on(up, "cat", "/usr/lib/systemd/system/headnode.service")
    assert "ExecStart=/usr/bin/headnode --config /etc/headnode/cluster.toml serve\n" in unit
    for path in (
        "/etc/init.d/headnode",
        "/etc/logrotate.d/headnode",
        "/usr/share/bash-completion/completions/headnode",
        "/usr/share/fish/vendor_completions.d/headnode.fish",
        "/usr/share/man/man8/headnode.8*",
        "/usr/share/zsh/site-functions/_headnode",
    ):
        on(up, "sh", "-c", f"test -s {path}")
    on(up, "emerge", "--unmerge", "app-admin/headnode")
    assert on(up, "sh", "-c", "ls -d /usr/lib/headnode /usr/bin/headnode 2>/dev/null; true") == ""
    on(up, "rm", "-rf", "/var/db/repos/headnode", "/etc/portage/repos.conf/headnode.conf")


def test_the_pull_comes_to_a_blade_as_a_package_like_any_other(up: Rehearsal) -> None:
    """The blade was set up before, and so has all of these files already."""
    [report] = ask(up, "rollout", "run")
    assert report["result"] == "updated", report
    assert f"+{the_pull(up)}" in report["changes"]
    programs = package_files()
    owned = contents(up, the_pull(up))
    assert {path for _, path, *_ in owned} == {*programs.files, *programs.links}
    assert on(up, "find", "/etc", "-name", "._cfg*") == ""
    # From here on it is the package's program that pulls.
    assert [each["result"] for each in ask(up, "rollout", "run")] == ["unchanged"]


def test_a_blade_that_has_the_package_may_be_set_up_again(up: Rehearsal) -> None:
    cluster = load(up.config)
    (blade,) = select(cluster, BLADE)
    keyring = on(up, "cat", "/etc/headnode/keys.asc") + "\n"
    atoms = atoms_of(cluster.classes["blade"])
    unpack(up, to_tar(setup_files(cluster, blade, atoms, keyring)))
    sums = on(
        up, "md5sum", *(path for kind, path, *_ in contents(up, the_pull(up)) if kind == "obj")
    )
    assert [line.split() for line in sums.splitlines()] == [
        [digest, path] for kind, path, digest, *_ in contents(up, the_pull(up)) if kind == "obj"
    ]
    on(up, "emerge", "--getbinpkgonly", "--oneshot", "app-admin/headnode-pull")
    assert [each["result"] for each in ask(up, "rollout", "run")] == ["unchanged"]


def test_without_its_package_a_blade_keeps_no_program_of_it(up: Rehearsal) -> None:
    """But for what it was set up with since, which is not the package's."""
    on(up, "emerge", "--unmerge", "app-admin/headnode-pull")
    assert on(up, "sh", "-c", "ls /usr/local/lib/headnode/blades/*.py 2>/dev/null; true") == ""
