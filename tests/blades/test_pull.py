"""The pull as a process of its own, against a real HTTP server. Its emerge is the far side."""

import ast
import hashlib
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
from types import SimpleNamespace
from typing import Any

import pytest

from blades import deadman, kept, merging, places, pull
from blades import lab as labs
from blades.setup import MODULES, PULL_PATH, PULL_SETTINGS, program_files
from config.portage import Rendered
from tests.ports import free_port

SYNC = "--color=n --nospinner --quiet --sync"
UPDATE = (
    "--color=n --nospinner --quiet --ask=n --getbinpkgonly --binpkg-respect-use=y --with-bdeps=n "
    "--update --deep --newuse @blade"
)
PLAN = (
    "--color=n --nospinner --quiet --ask=n --pretend --getbinpkgonly --binpkg-respect-use=y "
    "--with-bdeps=n --update --deep --newuse @world"
)
DEPCLEAN = "--color=n --nospinner --quiet --ask=n --depclean --with-bdeps=n"
# An emerge that notes how it was called, does what `act` says, and knows no other call.
EMERGE = """#!/bin/sh
echo "$*" >> '{folder}/calls'
cd '{folder}'
have() {{ # category/name-version build-id, as a package file of the index leaves it
    mkdir -p "vdb/$1"; echo "$2" > "vdb/$1/BUILD_ID"; : > "vdb/$1/CONTENTS"
    echo "md5 of $1-$2" > "vdb/$1/BINPKGMD5"; date +%s%N > "vdb/$1/COUNTER"
}}
case "$*" in
    '{sync}') . ./act-sync ;;
    '{update}') . ./act ;;
    '{depclean}') . ./act-depclean ;;
    '{plan}') . ./act-plan ;;
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
from blades import places
places.SETTINGS = folder / "etc/pull.json"
places.KEYS = folder / "etc/keys.asc"
places.KEYRING = folder / "portage/gnupg"
places.TRUST = str(folder / "bin/trust")
places.TREE = str(folder / "bin/tree")
places.PULL = str(folder / "bin/headnode-pull")
places.STATE = folder / "lib"
places.LOG = folder / "log/pull.log"
places.LOCK = folder / "pull.lock"
places.ROOT = folder / "root"
places.VDB = folder / "vdb"
places.ETC = folder / "portage"
places.REPOS = folder / "repos"
places.FETCHED = folder / "fetched"
places.CACHED = folder / "cache"
from blades import afterwards, ready
afterwards.PROC = folder / "proc"
ready.UTMP = folder / "utmp"
ready.MARK = folder / "etc/drain"
if folder.joinpath("late.py").exists():
    exec(folder.joinpath("late.py").read_text())
sys.exit(pull.main(sys.argv[3:]))
"""
ROOT = Path(pull.__file__).parent.parent
PACKAGES = ["app-misc/a/a-1-1.gpkg.tar", "dev-libs/b/b-2.0_rc1-r3-12.gpkg.tar"]
EXPIRES = "2999-01-01T00:00:00Z"
INSTALL = "have app-misc/a-1 1; have dev-libs/b-2.0_rc1-r3 12"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]


def index_of(sequence: int, packages: list[str] = PACKAGES) -> str:
    """The index of a deployment, as far as a pull reads it itself: each package of 1000 bytes."""
    blocks = [
        f"CPV: {name}\nBUILD_ID: {number}\nMD5: md5 of {name}-{number}\nSIZE: 1000\nPATH: {path}\n"
        for path, (name, number) in zip(
            packages, merging.expected(dict.fromkeys(packages, "")).items(), strict=True
        )
    ]
    return "\n".join([f"index of {sequence}\n", *blocks])


@dataclass
class Blade:
    """A blade's files in one folder, its headnode on loopback, and what emerge will do."""

    folder: Path
    server: ThreadingHTTPServer
    seen: list[str] = field(default_factory=list)
    took: list[object] = field(default_factory=list)

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

    def deploy(
        self,
        sequence: int,
        packages: list[str] = PACKAGES,
        blade: dict[str, Any] | None = None,
        gates: list[dict[str, Any]] | None = None,
        **more: object,
    ) -> None:
        """Put a deployment in front of the ring; `blade` is what its blade.json says."""
        folder = self.site / "deployments" / str(sequence)
        folder.mkdir(parents=True, exist_ok=True)
        known = {"number": sequence + 10, "packages": dict.fromkeys(packages)}
        generation = json.dumps({**known, "gates": gates or []})
        files = {"generation.json": generation, "Packages": index_of(sequence, packages)}
        if blade is not None:
            files["blade.json"] = json.dumps(blade)
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
        says = json.dumps({**deployment, **more})
        (folder / "deployment.json").write_text(says)
        (self.site / "deployment.json").write_text(says)

    def renew(self, sequence: int, old: Path | None = None) -> None:
        """Put the content of a deployment (None: the present) in front of the ring once more."""
        before = json.loads((self.site / "deployment.json").read_text())
        old = old or self.site / f"deployments/{before['sequence']}"
        shutil.copytree(old, self.site / f"deployments/{sequence}")
        says = {**json.loads((old / "deployment.json").read_text()), "sequence": sequence}
        (self.site / "deployment.json").write_text(json.dumps(says))

    def emerge_does(
        self, update: str, sync: str = ":", depclean: str = "exit 98", plan: str = ":"
    ) -> None:
        (self.folder / "act").write_text(f"{update}\n")
        (self.folder / "act-sync").write_text(f"{sync}\n")
        (self.folder / "act-depclean").write_text(f"{depclean}\n")
        (self.folder / "act-plan").write_text(f"{plan}\n")

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
        assert report.pop("kernel") == os.uname().release
        self.took = [report.pop(name, "-") for name in ("source_builds", "fetched_bytes")]
        for name in ("warnings", "drift", "edited", "stale", "restarted", "world"):
            if report.get(name) == []:
                del report[name]
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
    calls = {"sync": SYNC, "update": UPDATE, "depclean": DEPCLEAN, "plan": PLAN}
    emerge.write_text(EMERGE.format(folder=tmp_path, **calls))
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
    assert blade.calls == [SYNC, UPDATE, PLAN]
    assert (blade.folder / "portage/sets/blade").read_text() == "app-misc/a\ndev-libs/b\n"
    deployment = json.loads((blade.site / "deployment.json").read_text())
    assert blade.applied == {"deployment": deployment, "packages": 2}
    assert not (blade.folder / "lib/applying").exists()
    log = (blade.folder / "log/pull.log").read_text()
    assert log == f"--- emerge {SYNC}\n--- emerge {UPDATE}\n--- emerge {PLAN}\n"


def test_a_pull_that_finds_nothing_new_asks_once_and_never_starts_emerge(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.seen.clear()
    unchanged = report_of(result="unchanged", emerge=False, changes=[])
    assert blade.pull() == unchanged
    assert blade.pull() == unchanged
    assert blade.calls == [SYNC, UPDATE, PLAN]
    assert blade.seen == ["/binhost/blade/canary/deployment.json"] * 2


def fetch(name: str, size: int = 1000) -> str:
    """What leaves a package file of that size where emerge puts those that it fetched."""
    folder = name.rpartition("/")[0]
    return f"mkdir -p fetched/{folder}; head -c {size} /dev/zero > fetched/{name}"


FETCH = "; ".join(map(fetch, PACKAGES))


def test_what_was_fetched_is_counted_by_the_files_also_of_a_pull_that_fails(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does(f"{fetch(PACKAGES[0])}; {fetch(f'{PACKAGES[1]}.partial', 7)}; exit 1")
    blade.pull(1)
    assert blade.took == [0, 1007]
    blade.emerge_does(f"{INSTALL}; rm fetched/*/*/*.partial; {fetch(PACKAGES[1])}")
    blade.pull()
    assert blade.took == [0, 1000]  # the other was here from the pull that failed
    blade.pull()
    assert blade.took == [0, 0]
    blade.pull(0, "status")
    assert blade.took == ["-", "-"]


@pytest.mark.parametrize(
    ("cleans", "fetched"),
    [("rm -r fetched", 2000), ("rm fetched/app-misc/a/a-*", 2000), (":", 2000)],
)
def test_what_was_fetched_is_counted_also_where_something_cleans_up(
    blade: Blade, cleans: str, fetched: int
) -> None:
    blade.deploy(1)
    blade.emerge_does(f"{FETCH}; {INSTALL}; {cleans}")
    blade.pull()
    assert blade.took == [0, fetched]


@pytest.mark.parametrize(
    "compiled",
    ["rm vdb/app-misc/a-1/BINPKGMD5", "echo of buildpkg > vdb/app-misc/a-1/BINPKGMD5"],
)
def test_what_is_no_package_of_the_deployment_counts_as_built_on_the_blade(
    blade: Blade, compiled: str
) -> None:
    blade.deploy(1)
    blade.emerge_does(f"{INSTALL}; {compiled}")
    assert blade.pull()["warnings"] == [
        "merged, and no package of this deployment (compiled here?): app-misc/a-1"
    ]
    assert blade.took == [1, 1000]
    blade.deploy(2)
    blade.emerge_does(":")
    blade.pull()
    assert blade.took == [0, 0]  # by that pull


def test_a_new_deployment_of_the_same_trees_is_not_synced(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    now = ["app-misc/a/a-2-1.gpkg.tar", PACKAGES[1]]
    blade.deploy(2, now)
    blade.emerge_does("rm -r vdb/app-misc/a-1; have app-misc/a-2 1")
    assert blade.pull() == report_of(
        changes=["-app-misc/a-1", "+app-misc/a-2"], generation=12, sequence=2
    )
    assert blade.calls == [SYNC, UPDATE, PLAN, UPDATE, PLAN]
    blade.deploy(3, now, snapshots="set-2")
    blade.emerge_does(":")
    assert blade.pull()["changes"] == []
    assert blade.calls[5:] == [SYNC, UPDATE, PLAN]


def test_what_the_generation_no_longer_has_is_removed(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.deploy(2, PACKAGES[:1])
    blade.emerge_does(":", depclean="rm -r vdb/dev-libs/b-2.0_rc1-r3")
    assert blade.pull()["changes"] == ["-dev-libs/b-2.0_rc1-r3"]
    assert blade.calls == [SYNC, UPDATE, PLAN, UPDATE, DEPCLEAN, PLAN]


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
        f"location = {blade.folder}/fetched\nverify-signature = false\n{index_of(1)}"
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
    assert blade.calls == [SYNC, UPDATE, PLAN]
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
    assert blade.calls == [use(blade, "--delta", delta), UPDATE, PLAN]
    assert blade.pull()["result"] == "unchanged"
    assert len(blade.calls) == 3


def test_trees_that_a_boot_did_not_bring_back_come_with_the_next_pull(blade: Blade) -> None:
    make_trees(blade)
    blade.deploy(1, **BY_IMAGE)
    blade.pull()
    shutil.rmtree(blade.folder / "repos/site")
    assert blade.pull()["result"] == "updated"
    assert blade.calls == [use(blade), UPDATE, PLAN] * 2


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
    assert blade.calls[3:] == [use(blade).replace("a" * 64, "b" * 64), UPDATE, PLAN]


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
    assert blade.calls == [use(blade), UPDATE, PLAN, "tree leave", SYNC, UPDATE, PLAN]


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


def refusing() -> str:
    """An address at which nobody serves, and whose machine says so."""
    return f"http://127.0.0.1:{free_port()}"


def test_a_headnode_that_is_down_is_not_reached_and_the_blade_says_so(blade: Blade) -> None:
    url = refusing()
    blade.settings(headnode=url)
    report = blade.pull(3)
    assert report == {
        "result": "unreached",
        "emerge": False,
        "changes": [],
        "error": f"the blade cannot reach the headnode at {url}: [Errno 111] Connection refused",
        "blade": "blade01",
        "ring": "canary",
    }
    assert blade.calls == []


def test_a_headnode_without_a_name_is_not_reached(blade: Blade) -> None:
    blade.settings(headnode="http://no-such-headnode.invalid:1")
    report = blade.pull(3)
    assert report["result"] == "unreached"
    assert report["error"].startswith(
        "the blade cannot reach the headnode at http://no-such-headnode.invalid:1: "
    )


def test_a_headnode_that_takes_the_connection_and_says_nothing_is_not_reached(
    blade: Blade,
) -> None:
    late(blade, "from blades import web\nweb.HTTP_TIMEOUT_S = 0.3\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        blade.settings(headnode=url)
        report = blade.pull(3)
    assert (report["result"], report["error"]) == (
        "unreached",
        f"the blade cannot reach the headnode at {url}: timed out",
    )


@pytest.mark.parametrize("step", ["sync", "update"])
def test_a_headnode_that_goes_down_in_the_middle_leaves_the_blade_half_way_and_not_failed(
    blade: Blade, step: str
) -> None:
    """emerge can say that in many ways, so the headnode itself is asked."""
    blade.deploy(1)
    gone = "touch gone; echo cannot fetch; exit 1"
    blade.emerge_does(**{"update": INSTALL, step: gone})
    url = blade.url
    late(blade, stops_at("gone"))
    report = blade.pull(3)
    assert (report["result"], report["emerge"], report["changes"]) == ("unreached", True, [])
    command = f"emerge {SYNC if step == 'sync' else UPDATE}"
    assert report["error"] == (
        f"the blade cannot reach the headnode at {url}: [Errno 111] Connection refused. Its pull "
        f"of deployment 1 is half-way: {command} failed with exit code 1:"
    )
    assert (blade.folder / "lib/applying").exists()
    assert blade.applied is None
    assert blade.pull(3)["error"] == report["error"]  # the next one says so, too
    (blade.folder / "gone").unlink()
    blade.emerge_does(INSTALL)
    report = blade.pull()
    assert (report["result"], report["warnings"]) == (
        "updated",
        [f"the last pull, of deployment 1, did not end well: {command} failed with exit code 1:"],
    )


@pytest.mark.parametrize(
    ("error", "result"), [("ConnectionRefusedError(111, 'no')", "unreached"), ("OSError", "failed")]
)
def test_a_merge_that_took_the_network_away_is_a_failure_and_a_serve_that_is_down_is_none(
    blade: Blade, error: str, result: str
) -> None:
    blade.deploy(1)
    blade.emerge_does("have app-misc/a-1 1; touch gone; exit 1")
    late(blade, stops_at("gone", error))
    report = blade.pull(3 if result == "unreached" else 1)
    assert (report["result"], report["changes"]) == (result, ["+app-misc/a-1"])


def stops_at(name: str, error: str = "ConnectionRefusedError(111, 'Connection refused')") -> str:
    """The world in which nobody serves while a file of that name is there."""
    return (
        "from types import SimpleNamespace\n"
        "from blades import web\n"
        "import socket\n"
        "def create_connection(*words):\n"
        f"    if (folder / {name!r}).exists():\n"
        f"        raise {error}\n"
        "    return socket.create_connection(*words)\n"
        "web.socket = SimpleNamespace(create_connection=create_connection)\n"
    )


def test_a_blade_that_is_not_told_whether_it_is_drained_is_left_alone(blade: Blade) -> None:
    blade.deploy(1)
    late(
        blade,
        "from blades import update\n"
        "from blades.order import UnreachedError\n"
        "def fetch(url):\n"
        "    raise UnreachedError('the blade cannot reach it', refused=False)\n"
        "update.fetch = fetch\n",
    )
    report = blade.pull(3)
    assert (report["result"], report["error"]) == ("unreached", "the blade cannot reach it")
    assert (blade.calls, blade.applied) == ([], None)


@pytest.mark.parametrize("answer", ["no JSON", "[]", None])
def test_a_blade_that_gets_no_answer_whether_it_is_drained_waits(
    blade: Blade, answer: str | None
) -> None:
    blade.deploy(1)
    drained = blade.site / "drained.json"
    drained.mkdir() if answer is None else drained.write_text(answer)  # a folder is a 301
    report = blade.pull()
    assert report["result"] == "deferred"
    assert report["error"].startswith("drained: perhaps, the headnode does not say (http://")
    assert blade.calls == []


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
    assert error.endswith(": it hung up after 1 of 1000 bytes")
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
    assert blade.calls == [SYNC, SYNC, UPDATE, PLAN]


def test_a_pull_that_was_cut_goes_on_with_the_next_one(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does("have app-misc/a-1 1; kill -KILL $PPID; exit 0")
    process = blade.start()
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert blade.applied is None
    blade.emerge_does(INSTALL)
    cut = "the last pull, of deployment 1, did not end well: it was cut off"
    assert blade.pull() == report_of(changes=["+dev-libs/b-2.0_rc1-r3"], warnings=[cut])
    assert blade.calls == [SYNC, UPDATE, UPDATE, PLAN]  # the tree was there already


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
    assert blade.calls == [SYNC, UPDATE, PLAN, SYNC, SYNC, UPDATE, PLAN]


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


def test_a_second_pull_at_once_is_put_off_and_the_first_goes_on(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does(f"while ! [ -e go ]; do sleep 0.02; done; {INSTALL}")
    first = blade.start()
    deadline = time.monotonic() + 30
    while UPDATE not in blade.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    at_work = "another pull is at work on this blade"
    report = blade.pull(0)
    assert (report["result"], report["error"]) == ("deferred", at_work)
    assert report["emerge"] is False
    report = blade.pull(1, "--trees")  # whoever asks for those needs them at once
    assert (report["result"], report["error"]) == ("failed", at_work)
    (blade.folder / "go").touch()
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert json.loads(out)["result"] == "updated"
    assert blade.calls == [SYNC, UPDATE, PLAN]


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
    given = {"blades", *(f"blades.{name}" for name in MODULES)}
    others = {name.partition(".")[0] for name in names if name not in given}
    assert others <= set(sys.stdlib_module_names)


def test_names_of_the_pool_are_versions_and_build_ids() -> None:
    assert merging.expected(dict.fromkeys(PACKAGES, "")) == {
        "app-misc/a-1": "1",
        "dev-libs/b-2.0_rc1-r3": "12",
    }


@pytest.mark.lab
def test_the_script_itself_pulls_in_a_lab_from_its_headnode(tmp_path: Path) -> None:
    """As a program, with its own paths and the system's Python, over the lab's bridge."""
    site = tmp_path / "site"
    blade = Blade(folder=tmp_path, server=None)  # type: ignore[arg-type]
    blade.deploy(1)
    calls = {"sync": SYNC, "update": UPDATE, "depclean": DEPCLEAN, "plan": PLAN}
    far_side = EMERGE.format(folder="/", **calls).replace("vdb/", "var/db/pkg/")
    settings = {"headnode": "http://headnode:8080", "class": "blade", "ring": "canary"}
    settings["signed"] = False  # type: ignore[assignment]
    files = {
        **program_files(),
        "/etc/portage/make.conf": "",
        PULL_SETTINGS: json.dumps({**settings, "blade": "blade01"}),
        "/usr/local/bin/emerge": far_side,
        "/act": f"{INSTALL}\n",
        "/act-sync": ":\n",
        "/act-plan": ":\n",
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
        called = lab.node("blade01").run(["cat", "/calls"], timeout_s=9).output
    server.communicate(timeout=10)
    assert json.loads(first.output)["result"] == "updated"
    assert json.loads(first.output)["packages"] == 2
    assert json.loads(again.output)["result"] == "unchanged"
    assert called.splitlines() == [SYNC, UPDATE, PLAN]
    assert not Path("/calls").exists()


def blade_json(**more: Any) -> dict[str, Any]:
    """A blade.json of three files, with options of [pull] and commands in `more`."""
    files = {
        "/etc/portage/make.conf": 'USE="x"\n',
        "/etc/portage/package.use/headnode": "app-misc/a y\n",
        "/etc/portage/sets/blade": "app-misc/a\ndev-libs/b\n",
    }
    options = more.pop("pull", {})
    profile = {"/etc/portage/make.profile": "../../repos/gentoo/profiles/p"}
    return {"files": files, "links": profile, **more, "pull": options}


def portage(blade: Blade) -> dict[str, str]:
    """What /etc/portage holds: text, or the target of a link."""
    folder = blade.folder / "portage"
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


GIVEN = {
    "make.conf": 'USE="x"\n',
    "make.profile": "../../repos/gentoo/profiles/p",
    "package.use/headnode": "app-misc/a y\n",
    "sets/blade": "app-misc/a\ndev-libs/b\n",
}


def test_etc_portage_becomes_the_generations_and_what_was_there_is_kept(blade: Blade) -> None:
    old = {"make.conf": "mine", "package.use": "a file", "gnupg/key": "a key", "bashrc": "hook"}
    for name, text in old.items():
        path = blade.folder / "portage" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    blade.deploy(1, blade=blade_json())
    said = blade.pull()["drift"]
    assert portage(blade) == {**GIVEN, "gnupg/key": "a key", "bashrc": "hook"}
    (aside,) = (blade.folder / "lib/edited").iterdir()
    assert said == [
        f"/etc/portage/make.conf was edited; kept as {aside}/make.conf",
        f"/etc/portage/package.use is not the generation's; kept as {aside}/package.use",
    ]
    assert (aside / "make.conf").read_text() == "mine"
    assert (aside / "package.use").read_text() == "a file"


def test_a_new_generations_configuration_is_no_drift_and_the_way_back_neither(
    blade: Blade,
) -> None:
    blade.deploy(1, blade=blade_json())
    blade.pull()
    other = blade_json()
    other["files"] = {"/etc/portage/package.mask/headnode": "app-misc/c\n"}
    other["links"] = {}
    blade.deploy(2, blade=other)
    assert "drift" not in blade.pull()
    assert portage(blade) == {"package.mask/headnode": "app-misc/c\n"}
    blade.deploy(3, blade=blade_json())
    assert "drift" not in blade.pull()
    assert portage(blade) == GIVEN
    assert not (blade.folder / "lib/edited").exists()


def test_an_edit_of_etc_portage_is_found_without_a_new_deployment(blade: Blade) -> None:
    blade.deploy(1, blade=blade_json())
    blade.pull()
    assert blade.pull()["result"] == "unchanged"
    (blade.folder / "portage/package.use/local").write_text("dev-libs/b z\n")
    (blade.folder / "portage/make.profile").unlink()
    (blade.folder / "portage/make.profile").symlink_to("/elsewhere")
    (blade.folder / "portage/sets/blade").unlink()
    report = blade.pull()
    (aside,) = (blade.folder / "lib/edited").iterdir()
    assert report["drift"] == [
        f"/etc/portage/make.profile was edited; kept as {aside}/make.profile",
        f"/etc/portage/package.use/local is not the generation's; kept as "
        f"{aside}/package.use/local",
        "/etc/portage/sets/blade was removed",
    ]
    assert portage(blade) == GIVEN
    assert str((aside / "make.profile").readlink()) == "/elsewhere"
    assert blade.pull()["result"] == "unchanged"


@pytest.mark.parametrize("name", ["/etc/passwd", "/etc/portage/../passwd", "/etc/portage/gnupg/x"])
def test_a_blade_json_reaches_nothing_but_what_portage_reads(blade: Blade, name: str) -> None:
    said = blade_json()
    said["files"] = {name: "x"}
    blade.deploy(1, blade=said)
    shown = name.removeprefix("/etc/portage/")
    assert blade.pull(1)["error"] == f"blade.json names {shown}, which is no part of /etc/portage"


def late(blade: Blade, text: str) -> None:
    """Python that the blade's own modules are changed by: the world around them."""
    (blade.folder / "late.py").write_text(text)


@pytest.mark.parametrize("years", [-9, 9])
def test_a_clock_that_is_wrong_by_years_is_said_before_anything_else(
    blade: Blade, years: int
) -> None:
    blade.deploy(1)
    late(
        blade,
        "import datetime as d\n"
        "class Wrong(d.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None):\n"
        f"        return d.datetime.now(tz) + d.timedelta(days={years * 365})\n"
        "from blades import pull\n"
        "pull.datetime = Wrong\n",
    )
    error = blade.pull(1)["error"]
    assert error.startswith("this blade's clock says 20")
    assert error.endswith(": set the one that is wrong (chronyd, ntpd), then pull again")
    assert blade.calls == []


def test_a_disk_that_is_too_full_puts_the_pull_off_before_anything_is_touched(
    blade: Blade,
) -> None:
    (blade.folder / "root/usr").mkdir(parents=True)
    late(
        blade,
        "from types import SimpleNamespace\n"
        "from blades import ready\n"
        "ready.shutil = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=99 << 20))\n",
    )
    blade.deploy(1, blade=blade_json(pull={"reserve_mib": 100}))
    report = blade.pull()
    assert (report["result"], report["error"]) == (
        "deferred",
        f"the file system of {blade.folder}/root/usr has 99 MiB free, and the pull needs 100 MiB",
    )
    assert blade.calls == []
    assert portage(blade) == {}
    assert not (blade.folder / "lib/applying").exists()
    assert blade.pull(0, "--now")["result"] == "deferred"  # nothing makes room


def test_the_room_that_packages_take_is_counted_for_those_that_are_not_there_yet() -> None:
    index = "URI: x\n\nCPV: a/b-1\nBUILD_ID: 1\nSIZE: 1000\n\nCPV: a/c-1\nBUILD_ID: 2\nSIZE: 50\n\n"
    from blades import ready

    assert ready.needed_bytes(index, {}, 0) == 4 * 1050
    assert ready.needed_bytes(index, {"a/b-1": "1", "a/c-1": "1"}, 1) == 4 * 50 + (1 << 20)


def test_a_busy_blade_puts_the_pull_off_and_takes_it_when_it_is_free(blade: Blade) -> None:
    job = blade.folder / "job"
    job.touch()
    options = {"defer_command": f"test -e {job}", "defer_load": 0.5, "defer_timeout_s": 9}
    late(blade, "import os\nos.getloadavg = lambda: (0, 1.2, 0)\nos.cpu_count = lambda: 2\n")
    blade.deploy(1, blade=blade_json(pull=options))
    report = blade.pull()
    assert (report["result"], report["error"]) == (
        "deferred",
        f"the load is 1.2 on 2 cores; busy: `test -e {job}` says so",
    )
    assert blade.calls == []
    late(blade, "import os\nos.getloadavg = lambda: (9, 1.0, 9)\nos.cpu_count = lambda: 2\n")
    job.unlink()
    assert blade.pull()["result"] == "updated"


def test_a_blade_with_somebody_on_it_is_left_alone_unless_told_now(blade: Blade) -> None:
    import struct

    user = struct.pack("hi32s4s32s256shhiii4i20x", 7, 1, b"tty1", b"", b"root", b"", *[0] * 9)
    gone = struct.pack("hi32s4s32s256shhiii4i20x", 8, 1, b"tty2", b"", b"someone", b"", *[0] * 9)
    (blade.folder / "utmp").write_bytes(gone + user)
    blade.deploy(1, blade=blade_json(pull={"defer_users": True}))
    report = blade.pull()
    assert (report["result"], report["error"]) == ("deferred", "root is logged in")
    assert blade.pull(0, "--now")["result"] == "updated"


def test_a_drained_blade_pulls_nothing_until_it_is_undrained(blade: Blade) -> None:
    drained = blade.site / "drained.json"
    blade.deploy(1)
    drained.write_text(json.dumps({"blade01": {"why": "memory test"}, "blade02": {"why": ""}}))
    report = blade.pull()
    assert (report["result"], report["error"]) == ("deferred", "drained: memory test")
    drained.write_text(json.dumps({"blade02": {"why": ""}}))
    assert blade.pull()["result"] == "updated"


def test_a_blade_that_is_drained_until_a_day_pulls_from_then_on_by_itself(blade: Blade) -> None:
    drained = blade.site / "drained.json"
    blade.deploy(1)
    said = {"since": "2020-01-01T00:00:00Z", "why": "memory test", "until": "2999-12-01T00:00:00Z"}
    drained.write_text(json.dumps({"blade01": said}))
    report = blade.pull()
    assert (report["result"], report["error"]) == (
        "deferred",
        "drained: memory test (until 2999-12-01 00:00 UTC)",
    )
    drained.write_text(json.dumps({"blade01": {**said, "until": "2020-12-01T00:00:00Z"}}))
    assert blade.pull()["result"] == "updated"


def test_a_blade_can_be_drained_on_itself(blade: Blade) -> None:
    blade.deploy(1)
    mark = blade.folder / "etc/drain"
    mark.touch()
    assert blade.pull()["error"] == f"drained on the blade itself ({mark} is there)"


def runs(pid: int) -> bool:
    """Whether a process is there, and more than what nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):  # also: reaped between open and read
        return False


def test_an_emerge_that_hangs_is_ended_and_its_log_is_kept(blade: Blade) -> None:
    blade.deploy(1, blade=blade_json(pull={"emerge_timeout_s": 0.5}))
    blade.emerge_does(
        f"have app-misc/a-1 1; echo waiting; sleep 60 & echo $! > {blade.folder}/child; wait"
    )
    error = f"emerge {UPDATE} did not end within 0.5 s and was ended:\nwaiting"
    report = blade.pull(1)
    assert (report["error"], report["changes"]) == (error, ["+app-misc/a-1"])
    child = int((blade.folder / "child").read_text())
    deadline = time.monotonic() + 10
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    blade.deploy(2, blade=blade_json())
    blade.emerge_does(INSTALL)
    again = blade.pull()
    first = error.partition("\n")[0]
    assert again["warnings"] == [f"the last pull, of deployment 1, did not end well: {first}"]
    log = (blade.folder / "log/pull.log.1").read_text()
    assert log.endswith("waiting\n--- did not end within 0.5 s and was ended\n")


def test_the_emerge_of_a_pull_that_was_killed_is_ended_before_the_next_begins(
    blade: Blade,
) -> None:
    blade.deploy(1)
    blade.emerge_does("echo $$ > at-work; exec sleep 60")
    process = blade.start()
    deadline = time.monotonic() + 30
    while not (blade.folder / "lib/emerge.pid").exists() or not (blade.folder / "at-work").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    blade.emerge_does(INSTALL)
    assert blade.pull()["warnings"] == [
        "the emerge of a pull that was killed was still at work: ended",
        "the last pull, of deployment 1, did not end well: it was cut off",
    ]


def test_a_pull_that_is_told_to_stop_ends_its_emerge_and_says_so_next_time(blade: Blade) -> None:
    blade.deploy(1)
    blade.emerge_does("echo $$ > at-work; exec sleep 60")
    process = blade.start()
    deadline = time.monotonic() + 30
    while not (blade.folder / "at-work").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert json.loads(out)["error"] == "ended by signal 15"
    assert not (blade.folder / "lib/emerge.pid").exists()
    blade.emerge_does(INSTALL)
    assert blade.pull()["warnings"] == [
        "the last pull, of deployment 1, did not end well: ended by signal 15"
    ]


def test_a_check_that_fails_is_a_failed_pull_until_it_succeeds(blade: Blade) -> None:
    sign = blade.folder / "sign"
    checks = ["true", f"cat {sign}"]
    blade.deploy(1, blade=blade_json(checks=checks, pull={"check_timeout_s": 20}))
    report = blade.pull(1)
    assert report["error"] == (
        f"`cat {sign}` failed with exit code 1: cat: {sign}: No such file or directory"
    )
    assert report["packages"] == 2
    assert blade.applied is None
    sign.touch()
    report = blade.pull()
    assert (report["result"], report["changes"]) == ("updated", [])


def test_what_emerge_still_plans_is_a_warning_and_own_world_entries_are_listed(
    blade: Blade,
) -> None:
    world = blade.folder / "root/var/lib/portage/world"
    world.parent.mkdir(parents=True)
    world.write_text("app-editors/vim\napp-admin/own\n")
    blade.deploy(1)
    blade.emerge_does(INSTALL, plan="echo '[binary     U ] app-editors/vim-9 [8]'")
    report = blade.pull()
    assert report["warnings"] == [
        "emerge --update --deep --newuse @world still plans app-editors/vim-9"
    ]
    assert report["world"] == ["app-admin/own", "app-editors/vim"]
    blade.deploy(2)
    blade.emerge_does(":", plan="echo masked by: keyword; exit 1")
    assert blade.pull()["warnings"] == ["emerge finds no plan for @world: masked by: keyword"]


def test_a_file_that_somebody_edited_and_a_proposed_one_are_reported(blade: Blade) -> None:
    root = blade.folder / "root"
    (root / "etc/app").mkdir(parents=True)
    (root / "etc/app/edited.conf").write_text("mine")
    (root / "etc/app/same.conf").write_text("as it came")
    (root / "etc/app/._cfg0000_other.conf").write_text("new")
    (root / "opt/site").mkdir(parents=True)
    (root / "opt/site/own.conf").write_text("mine")
    (root / "etc/profile.env").write_text("export CONFIG_PROTECT='/opt/site /usr/share/x'\n")
    digest = hashlib.md5(b"as it came", usedforsecurity=False).hexdigest()
    lines = [
        f"obj /{name} {digest} 1"
        for name in ("etc/app/edited.conf", "etc/app/same.conf", "etc/gone", "opt/site/own.conf")
    ]
    contents = "\\n".join([*lines, f"obj /usr/bin/edited {digest} 1"])
    blade.deploy(1)
    blade.emerge_does(f"{INSTALL}; printf '{contents}\\n' > vdb/app-misc/a-1/CONTENTS")
    assert blade.pull()["edited"] == [
        "/etc/app/edited.conf",
        "/etc/app/other.conf",
        "/opt/site/own.conf",
    ]


def test_processes_that_map_replaced_libraries_are_reported_and_listed_services_restarted(
    blade: Blade,
) -> None:
    proc = blade.folder / "proc"
    maps = {
        "11": ("sshd", "7f-7e r-xp 0 0 1 /usr/lib64/libb.so.1 (deleted)\n", "/openrc.sshd"),
        "12": ("munged", "7f-7e r-xp 0 0 1 /usr/lib64/libb.so.1 (deleted)\n", "/user"),
        "13": ("fine", "7f-7e r-xp 0 0 1 /usr/lib64/libb.so.2\n", "/user"),
        "14": ("data", "7f-7e r--p 0 0 1 /usr/share/x (deleted)\n", "/user"),
    }
    for number, (name, text, group) in maps.items():
        (proc / number).mkdir(parents=True)
        (proc / number / "maps").write_text(text)
        (proc / number / "comm").write_text(f"{name}\n")
        (proc / number / "cgroup").write_text(f"0::{group}\n")
    service = blade.folder / "bin/rc-service"
    service.write_text(f"#!/bin/sh\necho $* > {blade.folder}/restarted; rm -r {proc}/11\n")
    service.chmod(0o755)
    late(blade, "afterwards.restart_argv = lambda name: ('rc-service', name, 'restart')\n")
    blade.deploy(1, blade=blade_json(pull={"restart": ["sshd", "slurmd"]}))
    report = blade.pull()
    assert report["restarted"] == ["sshd"]
    assert report["stale"] == ["munged (12): /usr/lib64/libb.so.1"]
    assert (blade.folder / "restarted").read_text() == "sshd restart\n"


def test_health_runs_the_commands_of_what_was_applied(blade: Blade) -> None:
    blade.deploy(1, blade=blade_json(health=["echo so; exit 3"], pull={"check_timeout_s": 20}))
    assert blade.pull(0, "health")["result"] == "well"  # nothing is applied yet
    assert blade.pull()["result"] == "updated"
    report = blade.pull(1, "health")
    assert report["error"] == "`echo so; exit 3` failed with exit code 3: so"
    assert (report["generation"], report["sequence"]) == (11, 1)


def test_status_says_what_the_blade_is_at_without_the_headnode(blade: Blade) -> None:
    blade.deploy(1)
    blade.pull()
    blade.seen.clear()
    report = blade.pull(0, "status")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert report == report_of(
        result="status", emerge=False, changes=[], half_way=False, unconfirmed=None, boot=boot
    )
    assert blade.seen == []


@pytest.mark.parametrize("words", [["--force"], ["confirm"], ["confirm", "x"], ["status", "-v"]])
def test_a_command_that_is_none_is_refused(blade: Blade, words: list[str]) -> None:
    blade.deploy(1)
    assert blade.pull(2, *words)["error"].startswith(
        "this blade is not set up: its headnode-pull knows no "
    )
    assert blade.seen == []


DEAD = """#!/bin/sh
exec {python} -I -c '{driver}' {root} {folder} "$@" > {folder}/dead.out 2>&1
"""


def armed(blade: Blade, seconds: float, **more: Any) -> None:
    """A blade at deployment 2, which is to be confirmed within `seconds`."""
    program = blade.folder / "bin/headnode-pull"
    text = DEAD.format(python=sys.executable, driver=DRIVER, root=ROOT, folder=blade.folder)
    program.write_text(text)
    program.chmod(0o755)
    blade.deploy(1, blade=blade_json())
    blade.pull()
    options = {"confirm_s": seconds, **more}
    other = blade_json(pull=options)
    other["files"]["/etc/portage/make.conf"] = "second\n"
    blade.deploy(2, ["app-misc/a/a-2-1.gpkg.tar", PACKAGES[1]], blade=other)
    # The merge lays down the way back: the switch may be due before this process goes on.
    back = "rm -r vdb/app-misc/a-2; have app-misc/a-1 1"
    blade.emerge_does(f"rm -r vdb/app-misc/a-1; have app-misc/a-2 1; echo '{back}' > b; mv b act")
    assert blade.pull(0, "--confirm")["confirm"] is True


def test_a_blade_that_waits_for_its_confirmation_waits_all_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "STATE", tmp_path)
    monkeypatch.setattr(places, "PULL", "true")
    monkeypatch.setattr(deadman, "time", SimpleNamespace(time=lambda: 1000.9375))
    (tmp_path / "before").mkdir()
    (tmp_path / "before/Packages").touch()
    assert deadman.arm(2, 1.0)
    assert not deadman.is_due(1001.9)
    assert deadman.is_due(1001.9375)


def dead_said(blade: Blade) -> dict[str, Any]:
    """What the process that waits for the confirmation said at its end."""
    path, deadline = blade.folder / "dead.out", time.monotonic() + 60
    while not path.exists() or not path.read_text().endswith("}\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def test_a_blade_that_nobody_confirms_goes_back_by_itself_and_stays_there(blade: Blade) -> None:
    armed(blade, 1.0, back_command=f"echo back > {blade.folder}/told")
    said = dead_said(blade)
    assert (said["result"], said["error"]) == ("updated", "")
    assert said["changes"] == ["-app-misc/a-2", "+app-misc/a-1"]
    assert portage(blade) == GIVEN
    assert (blade.folder / "told").read_text() == "back\n"
    assert blade.applied is not None
    assert blade.applied["deployment"]["sequence"] == 1
    refused = blade.pull(1)
    assert refused["error"] == (
        "this blade went back from generation 12 by itself, since nobody confirmed it: move the "
        "ring, or run headnode-pull --now on the blade"
    )
    blade.renew(3)
    assert blade.pull(1)["error"] == refused["error"]
    # It believes what it refuses: its keys, and that no older one follows.
    assert json.loads((blade.folder / "lib/seen.json").read_text()) == {"blade/canary": 3}
    blade.deploy(4, blade=blade_json())
    assert blade.pull()["result"] == "updated"
    assert not (blade.folder / "lib/refused").exists()


def test_a_pull_that_only_puts_an_edit_right_leaves_the_way_back_as_it_is(blade: Blade) -> None:
    armed(blade, 60.0)
    assert blade.pull(0, "confirm", "2")["result"] == "confirmed"
    dead_said(blade)
    (blade.folder / "dead.out").unlink()
    (blade.folder / "portage/make.conf").write_text("an edit\n")
    blade.emerge_does(":")
    report = blade.pull(0, "--confirm")
    assert (report["result"], report.get("confirm", False)) == ("updated", False)
    assert not (blade.folder / "lib/unconfirmed").exists()
    before = json.loads((blade.folder / "lib/before/deployment.json").read_text())
    assert before["sequence"] == 1
    assert json.loads((blade.folder / "lib/now/deployment.json").read_text())["sequence"] == 2


def test_a_deployment_that_is_not_believed_makes_a_blade_forget_no_refusal(blade: Blade) -> None:
    armed(blade, 1.0)
    dead_said(blade)
    blade.settings(signed=True)  # and this blade has nothing to check signatures with
    blade.deploy(3, blade=blade_json())
    assert "is not set up" in blade.pull(2)["error"]
    assert (blade.folder / "lib/refused").exists()


def test_a_blade_that_went_back_by_itself_follows_a_ring_that_goes_there_again(
    blade: Blade,
) -> None:
    armed(blade, 1.0)
    dead_said(blade)
    first, second = (blade.site / f"deployments/{number}" for number in (1, 2))
    blade.renew(3, first)
    assert blade.pull()["result"] == "unchanged"
    blade.renew(4, second)
    blade.emerge_does("rm -r vdb/app-misc/a-1; have app-misc/a-2 1")
    assert blade.pull()["changes"] == ["-app-misc/a-1", "+app-misc/a-2"]


def test_the_way_back_tells_packages_of_one_name_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "STATE", tmp_path / "lib")
    monkeypatch.setattr(places, "FETCHED", tmp_path / "fetched")
    names = [f"{category}/munge/munge-0-1.gpkg.tar" for category in ("acct-group", "acct-user")]
    for name in names:
        (places.FETCHED / name).parent.mkdir(parents=True)
        (places.FETCHED / name).write_text(name)
    kept.from_here(index_of(1, names), 2)
    for name in names:
        assert (places.STATE / "packages" / name).read_text() == name


def test_the_way_back_arms_the_kernel_of_before(blade: Blade) -> None:
    blade.settings(kernel="openmosix")
    late(
        blade,
        "import os\n"
        "from blades import kernel\n"
        "def settle(settings):\n"
        "    with (folder / 'settled').open('a') as out:\n"
        "        print((folder / 'portage/make.conf').read_text(), file=out)\n"
        "    if (folder / 'told').exists():\n"
        "        raise AssertionError('back_command comes last')\n"
        "    if (folder / 'portage/make.conf').read_text() == 'second\\n':\n"
        "        (folder / 'full').touch()\n"
        "    elif (folder / 'full').exists():\n"
        "        raise OSError(28, 'No space left on device')\n"
        "    return {'running': os.uname().release, 'due': '', 'removed': []}\n"
        "kernel.settle = settle\n",
    )
    armed(blade, 1.0, back_command=f"echo back > {blade.folder}/told")
    assert dead_said(blade)["warnings"] == ["[Errno 28] No space left on device"]
    assert (blade.folder / "told").exists()
    said = (blade.folder / "settled").read_text().split("\n")
    assert [line for line in said if line] == ['USE="x"', "second", 'USE="x"']


def test_what_an_administrator_gives_a_blade_again_is_not_taken_for_its_generations(
    blade: Blade,
) -> None:
    blade.deploy(1, blade=blade_json())
    blade.pull()
    record = blade.folder / "lib/portage.json"
    said = json.loads(record.read_text())
    (blade.folder / "portage/make.conf").write_text("of cluster.toml, not published yet\n")
    record.write_text(json.dumps({"digests": said["digests"]}))  # as enrol leaves it
    assert blade.pull()["result"] == "updated"
    assert portage(blade) == GIVEN
    assert blade.pull()["result"] == "unchanged"
    record.write_text(json.dumps({"digests": said["digests"]}))  # the generation's own, this time
    assert blade.pull()["result"] == "unchanged"
    (blade.folder / "portage/make.conf").write_text("an edit\n")
    assert blade.pull()["result"] == "updated"


def test_a_blade_that_is_confirmed_stays_where_it_is(blade: Blade) -> None:
    armed(blade, 60.0)
    assert blade.pull(1, "confirm", "1")["error"] == "no pull of deployment 1 waits to be confirmed"
    assert blade.pull(0, "status")["unconfirmed"] == 2
    report = blade.pull()  # which the headnode is to look at though it has nothing to pull
    assert (report["result"], report["unconfirmed"]) == ("unchanged", 2)
    assert blade.pull(0, "confirm", "2")["result"] == "confirmed"
    assert dead_said(blade)["result"] == "confirmed"
    report = blade.pull()
    assert (report["result"], "unconfirmed" in report) == ("unchanged", False)


def test_a_blade_that_was_off_at_the_deadline_goes_back_only_if_the_headnode_is_away(
    blade: Blade,
) -> None:
    armed(blade, 60.0)
    assert blade.pull(0, "confirm", "2")["result"] == "confirmed"  # which ends its process
    dead_said(blade)
    mark = blade.folder / "lib/unconfirmed"
    over = json.dumps({"sequence": 2, "deadline": 1})
    mark.write_text(over)
    assert blade.pull()["result"] == "unchanged"
    assert not mark.exists()
    mark.write_text(over)
    blade.settings(headnode="http://no-such-headnode.invalid:1")
    report = blade.pull(1)  # its own way back changed it, and it cannot tell whose fault it is
    assert report["error"].startswith("the blade cannot reach the headnode at http://no-such-head")
    assert report["changes"] == ["-app-misc/a-2", "+app-misc/a-1"]
    assert blade.applied is not None
    assert blade.applied["deployment"]["sequence"] == 1


def test_a_pull_without_news_takes_next_to_nothing(blade: Blade) -> None:
    """It never imports what a pull with news needs; `make bench-night` measures the seconds."""
    blade.deploy(1, blade=blade_json())
    blade.pull()
    late(
        blade,
        "import atexit, sys\n"
        "atexit.register(lambda: open(folder / 'loaded', 'w').write(' '.join(sys.modules)))\n",
    )
    driver = DRIVER.replace("from blades import afterwards, ready\n", "").replace(
        'afterwards.PROC = folder / "proc"\nready.UTMP = folder / "utmp"\n'
        'ready.MARK = folder / "etc/drain"\n',
        "",
    )
    argv = [sys.executable, "-I", "-S", "-c", driver, str(ROOT), str(blade.folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["result"] == "unchanged"
    loaded = set((blade.folder / "loaded").read_text().split())
    heavy = {"subprocess", "urllib.request", "http.client", "email", "ssl", "dataclasses", "typing"}
    assert loaded & {*heavy, "tempfile", "shutil", "blades.update", "blades.merging"} == set()


@pytest.mark.parametrize(
    ("gate", "asked"),
    [
        ({"gate": "converged", "passed": True}, False),
        ({"gate": "converged", "passed": False, "waived": "why"}, True),
        ({"gate": "smoke", "passed": True}, True),
    ],
)
def test_what_emerge_still_plans_is_not_asked_where_a_lab_blade_just_like_it_was(
    blade: Blade, gate: dict[str, Any], asked: bool
) -> None:
    blade.deploy(1, gates=[gate])
    blade.pull()
    assert (PLAN in blade.calls) is asked


def test_a_blade_with_a_package_of_its_own_is_not_like_the_lab_s(blade: Blade) -> None:
    world = blade.folder / "root/var/lib/portage/world"
    world.parent.mkdir(parents=True)
    world.write_text("app-editors/vim\n")
    blade.deploy(1, gates=[{"gate": "converged", "passed": True}])
    blade.emerge_does(INSTALL, plan="echo '[binary     U ] app-editors/vim-9 [8]'")
    assert blade.pull()["warnings"] == [
        "emerge --update --deep --newuse @world still plans app-editors/vim-9"
    ]


def test_a_brief_pull_leaves_it_to_others_what_emerge_still_plans(blade: Blade) -> None:
    blade.deploy(1)
    assert blade.pull(0, "--brief")["result"] == "updated"
    assert PLAN not in blade.calls
