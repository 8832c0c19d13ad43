"""The pull as a process of its own, against a real HTTP server. Its emerge is the far side."""

import ast
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blades import lab as labs
from blades import pull
from blades.setup import MODULES, PULL_PATH, PULL_SETTINGS, program_files
from config.portage import Rendered

SYNC = "--color=n --nospinner --quiet --sync"
UPDATE = (
    "--color=n --nospinner --quiet --ask=n --getbinpkgonly --binpkg-respect-use=y --with-bdeps=n "
    "--update --deep --newuse @blade"
)
DEPCLEAN = "--color=n --nospinner --quiet --ask=n --depclean --with-bdeps=n"
# An emerge that notes how it was called, does what `act` says, and knows no other call.
EMERGE = """#!/bin/sh
echo "$*" >> '{folder}/calls'
cd '{folder}'
have() {{ # category/name-version build-id
    mkdir -p "vdb/$1"; echo "$2" > "vdb/$1/BUILD_ID"; : > "vdb/$1/CONTENTS"
}}
case "$*" in
    '{sync}') . ./act-sync ;;
    '{update}') . ./act ;;
    '{depclean}') . ./act-depclean ;;
    *) echo "unexpected: emerge $*" >&2; exit 99 ;;
esac
"""
# The trees' program: what it mounts is a folder that `act-tree` makes.
TREE = """#!/bin/sh
echo "tree $*" >> '{folder}/calls'
cd '{folder}'
. ./act-tree
"""
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from blades import pull
folder = Path(sys.argv[2])
pull.SETTINGS = folder / "etc/pull.json"
pull.KEYS = folder / "etc/keys.asc"
pull.KEYRING = folder / "portage/gnupg"
pull.TRUST = str(folder / "bin/trust")
pull.TREE = str(folder / "bin/tree")
pull.STATE = folder / "lib"
pull.LOG = folder / "log/pull.log"
pull.LOCK = folder / "pull.lock"
pull.VDB = folder / "vdb"
pull.ETC = folder / "portage"
pull.REPOS = folder / "repos"
pull.CACHED = folder / "cache"
sys.argv[1:] = sys.argv[3:]
sys.exit(pull.main())
"""
ROOT = Path(pull.__file__).parent.parent
PACKAGES = ["app-misc/a/a-1-1.gpkg.tar", "dev-libs/b/b-2.0_rc1-r3-12.gpkg.tar"]
EXPIRES = "2999-01-01T00:00:00Z"
INSTALL = "have app-misc/a-1 1; have dev-libs/b-2.0_rc1-r3 12"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]


@dataclass
class Blade:
    """A blade's files in one folder, its headnode on loopback, and what emerge will do."""

    folder: Path
    server: ThreadingHTTPServer
    seen: list[str] = field(default_factory=list)

    @property
    def site(self) -> Path:
        return self.folder / "site/binhost/blade/canary"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def settings(self, **more: object) -> None:
        (self.folder / "etc").mkdir(exist_ok=True)
        known = {"headnode": self.url, "class": "blade", "ring": "canary", "blade": "blade01"}
        text = json.dumps({**known, "signed": False, **more})
        (self.folder / "etc/pull.json").write_text(text)

    def deploy(self, sequence: int, packages: list[str] = PACKAGES, **more: object) -> None:
        """Put a deployment in front of the ring."""
        folder = self.site / "deployments" / str(sequence)
        folder.mkdir(parents=True, exist_ok=True)
        generation = json.dumps({"number": sequence + 10, "packages": dict.fromkeys(packages)})
        files = {"generation.json": generation, "Packages": f"index of {sequence}\n"}
        for name, text in files.items():
            (folder / name).write_text(text)
        deployment = {
            "class_name": "blade",
            "ring": "canary",
            "sequence": sequence,
            "generation": sequence + 10,
            "snapshots": "set-1",
            "expires": EXPIRES,
            "atoms": ["dev-libs/b", "app-misc/a"],
            "sha256": {
                name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()
            },
        }
        (self.site / "deployment.json").write_text(json.dumps({**deployment, **more}))

    def emerge_does(self, update: str, sync: str = ":", depclean: str = "exit 98") -> None:
        (self.folder / "act").write_text(f"{update}\n")
        (self.folder / "act-sync").write_text(f"{sync}\n")
        (self.folder / "act-depclean").write_text(f"{depclean}\n")

    def start(self, *words: str, path: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", DRIVER, str(ROOT), str(self.folder), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": path or f"{self.folder}/bin:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
        )

    def pull(self, code: int = 0, *words: str, path: str = "") -> dict[str, Any]:
        """Pull once; its report, after a look that it took no notice of us in another way."""
        process = self.start(*words, path=path)
        out, err = process.communicate(timeout=60)
        assert err == ""
        assert process.returncode == code, out
        (line,) = out.splitlines()
        report: dict[str, Any] = json.loads(line)
        assert 0 <= report.pop("seconds") < 60
        return report

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def applied(self) -> dict[str, Any] | None:
        path = self.folder / "lib/applied.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def blade(tmp_path: Path) -> Iterator[Blade]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "portage").mkdir()
    emerge = tmp_path / "bin/emerge"
    emerge.write_text(EMERGE.format(folder=tmp_path, sync=SYNC, update=UPDATE, depclean=DEPCLEAN))
    emerge.chmod(0o755)
    (tmp_path / "bin/tree").write_text(TREE.format(folder=tmp_path))
    (tmp_path / "bin/tree").chmod(0o755)
    (tmp_path / "act-tree").write_text("mkdir -p repos/gentoo/profiles\n")
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        blade = Blade(folder=tmp_path, server=server)
        server.seen = blade.seen  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        blade.settings()
        blade.emerge_does(INSTALL)
        yield blade
        server.shutdown()


def report_of(**more: object) -> dict[str, Any]:
    return {
        "result": "updated",
        "emerge": True,
        "changes": ["+app-misc/a-1", "+dev-libs/b-2.0_rc1-r3"],
        "error": "",
        "blade": "blade01",
        "ring": "canary",
        "generation": 11,
        "sequence": 1,
        "packages": 2,
        **more,
    }


def test_a_first_pull_syncs_installs_and_notes_what_was_applied(blade: Blade) -> None:
    blade.deploy(1)
    assert blade.pull() == report_of()
    assert blade.calls == [SYNC, UPDATE]
    assert (blade.folder / "portage/sets/blade").read_text() == "app-misc/a\ndev-libs/b\n"
    deployment = json.loads((blade.site / "deployment.json").read_text())
    assert blade.applied == {"deployment": deployment, "packages": 2}
    assert not (blade.folder / "lib/applying").exists()
    log = (blade.folder / "log/pull.log").read_text()
    assert log == f"--- emerge {SYNC}\n--- emerge {UPDATE}\n"


def test_a_pull_that_finds_nothing_new_asks_once_and_never_starts_emerge(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.seen.clear()
    unchanged = report_of(result="unchanged", emerge=False, changes=[])
    assert blade.pull() == unchanged
    assert blade.pull() == unchanged
    assert blade.calls == [SYNC, UPDATE]
    assert blade.seen == ["/binhost/blade/canary/deployment.json"] * 2


def test_a_new_deployment_of_the_same_trees_is_not_synced(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    now = ["app-misc/a/a-2-1.gpkg.tar", PACKAGES[1]]
    blade.deploy(2, now)
    blade.emerge_does("rm -r vdb/app-misc/a-1; have app-misc/a-2 1")
    assert blade.pull() == report_of(
        changes=["-app-misc/a-1", "+app-misc/a-2"], generation=12, sequence=2
    )
    assert blade.calls == [SYNC, UPDATE, UPDATE]
    blade.deploy(3, now, snapshots="set-2")
    blade.emerge_does(":")
    assert blade.pull()["changes"] == []
    assert blade.calls[3:] == [SYNC, UPDATE]


def test_what_the_generation_no_longer_has_is_removed(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.deploy(2, PACKAGES[:1])
    blade.emerge_does(":", depclean="rm -r vdb/dev-libs/b-2.0_rc1-r3")
    assert blade.pull()["changes"] == ["-dev-libs/b-2.0_rc1-r3"]
    assert blade.calls == [SYNC, UPDATE, UPDATE, DEPCLEAN]


def test_emerge_sees_the_deployments_index_and_no_other_binhost(blade: Blade) -> None:
    for name in ("make.conf", "binrepos.conf/theirs.conf"):
        path = blade.folder / "portage" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    copy = blade.folder / "cache" / str(blade.folder / "lib/index").lstrip("/") / "Packages"
    copy.parent.mkdir(parents=True)
    copy.write_text("of a ring that was newer")
    blade.deploy(1)
    look = "cd $PORTAGE_CONFIGROOT/etc/portage; cat make.conf binrepos.conf"
    blade.emerge_does(f"({look} {blade.folder}/lib/index/Packages) > saw; {INSTALL}")
    blade.pull()
    assert (blade.folder / "saw").read_text() == (
        f"make.conf[headnode]\nsync-uri = file://{blade.folder}/lib/index\n"
        "location = /var/cache/binhost/headnode\nverify-signature = false\nindex of 1\n"
    )
    assert not copy.exists()
    assert not (blade.folder / "lib/etc").exists()


def test_a_renewed_deployment_is_noted_and_emerge_is_not_started(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    generation = (blade.site / "deployments/1/generation.json").read_text()
    blade.deploy(2)
    (blade.site / "deployments/2/generation.json").write_text(generation)
    said = json.loads((blade.site / "deployment.json").read_text())
    said |= {"generation": 11}
    said["sha256"]["generation.json"] = hashlib.sha256(generation.encode()).hexdigest()
    (blade.site / "deployment.json").write_text(json.dumps(said))
    assert blade.pull() == report_of(result="unchanged", emerge=False, changes=[], sequence=2)
    assert blade.calls == [SYNC, UPDATE]
    assert blade.applied == {"deployment": said, "packages": 2}


def test_back_to_what_was_applied_before_a_failed_pull_starts_emerge(blade: Blade) -> None:
    """The failed one may have got half-way: the blade is not where it was."""
    blade.deploy(1)
    blade.pull()
    first = json.loads((blade.site / "deployment.json").read_text())
    blade.deploy(2, ["app-misc/a/a-2-1.gpkg.tar", PACKAGES[1]])
    blade.emerge_does("rm -r vdb/app-misc/a-1; have app-misc/a-2 1; exit 1")
    blade.pull(1)
    back = {**first, "sequence": 3}
    (blade.site / "deployments/3").mkdir()
    for name in ("generation.json", "Packages"):
        text = (blade.site / "deployments/1" / name).read_text()
        (blade.site / "deployments/3" / name).write_text(text)
    (blade.site / "deployment.json").write_text(json.dumps(back))
    blade.emerge_does("rm -r vdb/app-misc/a-2; have app-misc/a-1 1")
    assert blade.pull()["changes"] == ["-app-misc/a-2", "+app-misc/a-1"]


def test_a_tree_may_go_back_in_time(blade: Blade) -> None:
    """Portage refuses that by the timestamp of the tree that it has."""
    stamp = blade.folder / "repos/gentoo/metadata/timestamp.chk"
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    blade.deploy(1)
    blade.emerge_does(INSTALL, "! [ -e repos/gentoo/metadata/timestamp.chk ]")
    assert blade.pull()["result"] == "updated"


IMAGE = {"kind": "profiles", "sha256": "a" * 64, "size_bytes": 5}
BY_IMAGE = {"image": IMAGE, "repos": ["gentoo", "site"]}


def use(blade: Blade, *delta: str) -> str:
    """How the trees' program is called for IMAGE."""
    url = f"{blade.url}/images/{IMAGE['sha256']}.squashfs"
    return " ".join(("tree use", *delta, url, str(IMAGE["sha256"]), "5 gentoo site"))


def make_trees(blade: Blade) -> None:
    for name in ("gentoo", "site"):
        (blade.folder / "repos" / name / "profiles").mkdir(parents=True)


def test_trees_come_as_the_image_of_the_deployment(blade: Blade) -> None:
    make_trees(blade)
    blade.deploy(1, **BY_IMAGE)
    blade.settings(rsync="rsync://headnode:8730", tree="profiles")
    assert blade.pull() == report_of()
    delta = f"rsync://headnode:8730/images/{IMAGE['sha256']}.squashfs"
    assert blade.calls == [use(blade, "--delta", delta), UPDATE]
    assert blade.pull()["result"] == "unchanged"
    assert len(blade.calls) == 2


def test_trees_that_a_boot_did_not_bring_back_come_with_the_next_pull(blade: Blade) -> None:
    make_trees(blade)
    blade.deploy(1, **BY_IMAGE)
    blade.pull()
    shutil.rmtree(blade.folder / "repos/site")
    assert blade.pull()["result"] == "updated"
    assert blade.calls == [use(blade), UPDATE] * 2


def test_an_image_that_cannot_be_had_fails_the_pull_before_emerge_is_started(blade: Blade) -> None:
    blade.deploy(1, **BY_IMAGE)
    said = '{"result": "failed", "error": "it cannot be mounted"}'
    (blade.folder / "act-tree").write_text(f"echo '{said}'; exit 1\n")
    words = use(blade).removeprefix("tree ")
    error = f"{blade.folder}/bin/tree {words} failed with exit code 1:\n{said}"
    assert blade.pull(1) == report_of(result="failed", error=error, changes=[], packages=0)
    assert blade.calls == [use(blade)]


def test_the_same_trees_as_another_image_are_brought(blade: Blade) -> None:
    make_trees(blade)
    blade.deploy(1, **BY_IMAGE)
    blade.pull()
    other = {**IMAGE, "kind": "full", "sha256": "b" * 64}
    blade.deploy(2, generation=11, **{**BY_IMAGE, "image": other})
    same = (blade.site / "deployments/1/generation.json").read_bytes()
    says = json.loads((blade.site / "deployment.json").read_text())
    says["sha256"]["generation.json"] = hashlib.sha256(same).hexdigest()
    (blade.site / "deployments/2/generation.json").write_bytes(same)
    (blade.site / "deployment.json").write_text(json.dumps(says))
    assert blade.pull()["result"] == "updated"
    assert blade.calls[2:] == [use(blade).replace("a" * 64, "b" * 64), UPDATE]


def test_with_trees_the_trees_come_alone(blade: Blade) -> None:
    blade.deploy(1, **BY_IMAGE)
    report = {"result": "trees", "emerge": False, "changes": [], "error": ""}
    assert blade.pull(0, "--trees") == {**report, "blade": "blade01", "ring": "canary"}
    assert blade.calls == [use(blade)]
    assert blade.applied is None


def test_images_give_way_when_trees_come_by_rsync_again(blade: Blade) -> None:
    make_trees(blade)
    blade.deploy(1, **BY_IMAGE)
    blade.pull()
    (blade.folder / "lib/tree").symlink_to("trees/a")
    blade.deploy(2, image=None)
    blade.settings(tree="rsync")
    assert blade.pull()["result"] == "updated"
    assert blade.calls == [use(blade), UPDATE, "tree leave", SYNC, UPDATE]


def test_a_blade_with_files_for_images_says_that_it_needs_those_for_rsync(blade: Blade) -> None:
    blade.deploy(1)
    blade.settings(tree="profiles")
    assert blade.pull(2)["error"] == (
        "this blade is not set up: its trees come by rsync now, and its files are for images: on "
        "the headnode, headnode blades config blade01 has what it needs"
    )
    assert blade.calls == []


def test_a_rebuilt_package_is_a_change(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.deploy(2, ["app-misc/a/a-1-2.gpkg.tar", PACKAGES[1]])
    blade.emerge_does("have app-misc/a-1 2")
    assert blade.pull()["changes"] == ["-app-misc/a-1", "+app-misc/a-1"]


def test_a_headnode_that_is_down_is_a_failure_with_its_reason(blade: Blade) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    blade.settings(headnode=f"http://127.0.0.1:{port}")
    report = blade.pull(1)
    assert report == {
        "result": "failed",
        "emerge": False,
        "changes": [],
        "error": (
            f"the headnode does not answer at http://127.0.0.1:{port}"
            "/binhost/blade/canary/deployment.json: [Errno 111] Connection refused"
        ),
        "blade": "blade01",
        "ring": "canary",
    }
    assert blade.calls == []


def test_a_headnode_without_a_name_is_a_failure_with_its_reason(blade: Blade) -> None:
    blade.settings(headnode="http://no-such-headnode.invalid:1")
    error = blade.pull(1)["error"]
    assert error.startswith("the headnode does not answer at http://no-such-headnode.invalid:1/")


def test_a_headnode_that_hangs_up_in_the_middle_is_a_failure(blade: Blade) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half() -> None:
            client, _ = server.accept()
            client.recv(9999)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            client.close()

        thread = threading.Thread(target=half)
        thread.start()
        blade.settings(headnode=f"http://127.0.0.1:{server.getsockname()[1]}")
        error = blade.pull(1)["error"]
        thread.join()
    assert error.endswith(f": {http.client.IncompleteRead(b'{', 999)}")
    assert blade.calls == []


def test_a_ring_that_has_nothing_says_so(blade: Blade) -> None:
    url = f"{blade.url}/binhost/blade/canary/deployment.json"
    assert blade.pull(1)["error"] == f"the headnode has nothing for this ring yet ({url})"
    assert blade.calls == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<html>", "is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "has no class_name, ring, sequence, generation, expires, snapshots, atoms, sha256"),
        (
            '{"sequence": 1, "atoms": [], "snapshots": "x", "sha256": {}, "expires": ""}',
            "has no class_name, ring, generation",
        ),
    ],
)
def test_a_deployment_that_is_none_is_refused(blade: Blade, text: str, error: str) -> None:
    blade.deploy(1)
    (blade.site / "deployment.json").write_text(text)
    url = f"{blade.url}/binhost/blade/canary/deployment.json"
    assert blade.pull(1)["error"] == f"{url} {error}"
    assert blade.calls == []


@pytest.mark.parametrize("digests", [{"generation.json": "0" * 64}, {}])
def test_a_generation_that_is_not_the_deployments_is_refused(
    blade: Blade, digests: dict[str, str]
) -> None:
    blade.deploy(1, sha256=digests)
    report = blade.pull(1)
    url = f"{blade.url}/binhost/blade/canary/deployments/1/generation.json"
    assert report["error"] == f"{url} is not what deployment.json says it is"
    assert blade.calls == []
    assert blade.applied is None


def test_an_emerge_that_installs_nothing_and_ends_well_is_not_believed(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does("have app-misc/a-1 1; mkdir -p vdb/dev-libs/-MERGING-b-2.0_rc1-r3; exit 0")
    assert blade.pull(1) == report_of(
        result="failed",
        changes=["+app-misc/a-1"],
        packages=0,
        error="emerge ended well, but did not install dev-libs/b-2.0_rc1-r3",
    )
    assert blade.applied is None


def test_the_same_version_of_another_build_is_not_what_was_asked_for(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does("have app-misc/a-1 7; have dev-libs/b-2.0_rc1-r3 12")
    error = "emerge ended well, but did not install app-misc/a-1"
    assert blade.pull(1)["error"] == error


def test_an_emerge_that_fails_shows_the_end_of_its_log(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does(r"seq 30; printf 'no t\377xt\n' >&2; have app-misc/a-1 1; exit 7")
    tail = "\n".join([*(str(number) for number in range(12, 31)), "no t\ufffdxt"])
    report = blade.pull(1)
    assert report["error"] == f"emerge {UPDATE} failed with exit code 7:\n{tail}"
    assert report["changes"] == ["+app-misc/a-1"]
    assert blade.applied is None
    assert b"30\nno t\xffxt\n" in (blade.folder / "log/pull.log").read_bytes()


def test_a_sync_that_fails_is_tried_again_by_the_next_pull(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does(INSTALL, "echo no such module; exit 1")
    error = f"emerge {SYNC} failed with exit code 1:\nno such module"
    assert blade.pull(1)["error"] == error
    assert blade.calls == [SYNC]
    blade.emerge_does(INSTALL)
    assert blade.pull()["result"] == "updated"
    assert blade.calls == [SYNC, SYNC, UPDATE]


def test_a_pull_that_was_cut_goes_on_with_the_next_one(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does("have app-misc/a-1 1; kill -KILL $PPID; exit 0")
    process = blade.start()
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert blade.applied is None
    blade.emerge_does(INSTALL)
    assert blade.pull() == report_of(changes=["+dev-libs/b-2.0_rc1-r3"])
    assert blade.calls == [SYNC, UPDATE, UPDATE]  # the tree was there already


def test_trees_are_synced_again_after_a_cut_between_two_sets(blade: Blade) -> None:
    """Back to the first set after the second was half there: the tree is not the first any more."""
    blade.deploy(1)
    blade.pull()
    blade.deploy(2, snapshots="set-2")
    blade.emerge_does(INSTALL, "exit 1")
    blade.pull(1)
    blade.deploy(3)
    blade.emerge_does(INSTALL)
    assert blade.pull()["result"] == "updated"
    assert blade.calls == [SYNC, UPDATE, SYNC, SYNC, UPDATE]


def test_what_was_applied_stays_noted_when_the_next_fails(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    before = blade.applied
    blade.deploy(2)
    blade.emerge_does("exit 1")
    assert blade.pull(1)["packages"] == 2
    assert blade.applied == before


def test_a_damaged_note_of_what_was_applied_is_as_none(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    (blade.folder / "lib/applied.json").write_text('{"seq')
    assert blade.pull() == report_of(changes=[])
    assert blade.applied is not None


def test_a_second_pull_at_once_is_refused_and_the_first_goes_on(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does(f"while ! [ -e go ]; do sleep 0.02; done; {INSTALL}")
    first = blade.start()
    deadline = time.monotonic() + 30
    while UPDATE not in blade.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    report = blade.pull(1)
    assert report["error"] == "another pull is at work on this blade"
    assert report["emerge"] is False
    (blade.folder / "go").touch()
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert json.loads(out)["result"] == "updated"
    assert blade.calls == [SYNC, UPDATE]


def test_a_blade_that_is_not_set_up_says_so(blade: Blade) -> None:
    path = blade.folder / "etc/pull.json"
    for text, lacks in (
        ("{", f"{path} is no JSON: "),
        ("[]", f"{path} has no headnode, class, ring, blade, signed"),
        ('{"headnode": "http://x", "class": "blade"}', f"{path} has no ring, blade, signed"),
    ):
        path.write_text(text)
        error = blade.pull(2)["error"]
        assert error.startswith(f"this blade is not set up: {lacks}")
    path.unlink()
    assert blade.pull(2) == {
        "result": "failed",
        "emerge": False,
        "changes": [],
        "error": f"this blade is not set up: no {path}",
    }


def test_a_blade_without_emerge_says_so(blade: Blade) -> None:
    blade.deploy(1)
    (blade.folder / "bin/emerge").unlink()
    report = blade.pull(2, path=f"{blade.folder}/bin")
    assert report["error"] == "this blade is not set up: no emerge"


@pytest.mark.parametrize("module", MODULES)
def test_what_a_blade_is_given_needs_only_the_standard_library(module: str) -> None:
    tree = ast.parse(Path(pull.__file__).with_name(f"{module}.py").read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
        )
    }
    given = {f"blades.{name}" for name in MODULES}
    assert {name for name in names if name not in given} <= set(sys.stdlib_module_names) | {
        f"{name}.{below}"
        for name, below in (("collections", "abc"), ("http", "client"), ("urllib", "error"))
    } | {"urllib.request"}


def test_names_of_the_pool_are_versions_and_build_ids() -> None:
    assert pull.expected(dict.fromkeys(PACKAGES, "")) == {
        "app-misc/a-1": "1",
        "dev-libs/b-2.0_rc1-r3": "12",
    }


@pytest.mark.lab
def test_the_script_itself_pulls_in_a_lab_from_its_headnode(tmp_path: Path) -> None:
    """As a program, with its own paths and the system's Python, over the lab's bridge."""
    site = tmp_path / "site"
    blade = Blade(folder=tmp_path, server=None)  # type: ignore[arg-type]
    blade.deploy(1)
    far_side = EMERGE.format(folder="/", sync=SYNC, update=UPDATE, depclean=DEPCLEAN).replace(
        "vdb/", "var/db/pkg/"
    )
    settings = {"headnode": "http://headnode:8080", "class": "blade", "ring": "canary"}
    settings["signed"] = False  # type: ignore[assignment]
    files = {
        **program_files(),
        "/etc/portage/make.conf": "",
        PULL_SETTINGS: json.dumps({**settings, "blade": "blade01"}),
        "/usr/local/bin/emerge": far_side,
        "/act": f"{INSTALL}\n",
        "/act-sync": ":\n",
    }
    assert not Path("/act").exists()
    with labs.running(tmp_path / "lab", {"blade01": Rendered(files=files)}) as lab:
        serve = ["/usr/bin/python3", "-u", "-m", "http.server", "8080", "--directory", str(site)]
        server = subprocess.Popen(
            lab.headnode.argv(serve), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving HTTP on ")
        way = [lab.folder / "enter", "blade01", PULL_PATH]
        first = lab.headnode.run(way, timeout_s=60)
        again = lab.headnode.run(way, timeout_s=60)
        calls = lab.node("blade01").run(["cat", "/calls"], timeout_s=9).output
    server.communicate(timeout=10)
    assert json.loads(first.output)["result"] == "updated"
    assert json.loads(first.output)["packages"] == 2
    assert json.loads(again.output)["result"] == "unchanged"
    assert calls.splitlines() == [SYNC, UPDATE]
    assert not Path("/calls").exists()
