"""The distfiles of a site: which trees are in use, what blades ask for, what the commands say."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from binhost.records import Configuration, Deployment, Generation, save
from config.load import load
from headnode.cli import run
from mirror.layout import path_of
from mirror.recycle import RecyclePlan
from mirror.sets import write_set
from schedules.distfiles import (
    OnDemand,
    mirror_all_once,
    newest_tree,
    recycle_once,
    trees_in_use,
    trees_served,
)
from schedules.observer import Silent
from schedules.site import Site

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CLUSTER = """\
[state]
path = "state"
reserve_mib = 0

[mirror.distfiles]
upstreams = ["{upstream}"]
tries = 1
scope = "{scope}"

[classes.blade]
packages = ["app-misc/hello"]
rings = {{ canary = "blade01" }}
"""


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A mirror of distfiles, flat: its folder and its address."""
    folder = tmp_path / "upstream/distfiles"
    folder.mkdir(parents=True)
    handler = partial(QuietHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def here(tmp_path: Path, upstream: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cluster.toml and a synced tree that names hello.tgz."""
    monkeypatch.chdir(tmp_path)
    text = CLUSTER.format(upstream=upstream[1], scope="sets")
    (tmp_path / "cluster.toml").write_text(text)
    synced(tmp_path, "20260101T000000Z", "hello.tgz", b"hello")
    return tmp_path


def synced(here: Path, stamp: str, name: str, content: bytes, restrict: str = "") -> Path:
    """Make a snapshot that names one file, and the newest."""
    tree = here / "state/mirror/repos/gentoo/snapshots" / stamp
    package, cache = tree / "app-misc/hello", tree / "metadata/md5-cache/app-misc/hello-1"
    for folder in (package, cache.parent, tree / "profiles"):
        folder.mkdir(parents=True)
    (tree / "profiles/repo_name").write_text("gentoo\n")
    (tree / "profiles/categories").write_text("app-misc\n")
    (tree / "metadata/layout.conf").write_text("masters =\nthin-manifests = true\n")
    (package / "hello-1.ebuild").write_text("EAPI=8\n")
    md5 = hashlib.md5(b"EAPI=8\n", usedforsecurity=False).hexdigest()
    uri = f"http://127.0.0.1:9/{name}"
    cache.write_text(f"EAPI=8\nSLOT=0\nSRC_URI={uri}\nRESTRICT={restrict}\n_md5_={md5}\n")
    strong = hashlib.blake2b(content).hexdigest(), hashlib.sha512(content).hexdigest()
    (package / "Manifest").write_text(
        f"DIST {name} {len(content)} BLAKE2B {strong[0]} SHA512 {strong[1]}\n"
    )
    current = tree.parent.parent / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(Path("snapshots") / stamp)
    return tree


def site(here: Path) -> Site:
    return Site(cluster=load(here / "cluster.toml"))


def place(here: Path, name: str = "hello.tgz") -> Path:
    return here / "state/mirror/distfiles" / path_of(name)


def put(here: Path, name: str, content: bytes) -> Path:
    place(here, name).parent.mkdir(parents=True, exist_ok=True)
    place(here, name).write_bytes(content)
    return place(here, name)


def generate(here: Path, number: int, stamp: str) -> str:
    """Record a generation that was built from the snapshot `stamp`; give its snapshot set."""
    snapshots = write_set(here / "state", {"gentoo": stamp})
    record = Generation(
        number=number,
        class_name="blade",
        parent=None,
        made=NOW,
        why="",
        snapshots=snapshots,
        atoms=(),
        header={},
        packages={},
        configuration=Configuration(files={}, links={}),
        entries_sha256="",
    )
    save(here / f"state/binhost/blade/generations/{number}/generation.json", record)
    return snapshots


def deploy(here: Path, snapshots: str) -> None:
    record = Deployment(
        class_name="blade",
        ring="canary",
        sequence=1,
        generation=1,
        issued=NOW,
        expires=NOW,
        timestamp=0,
        keys=(),
        snapshots=snapshots,
        repos=("gentoo",),
        atoms=(),
        sha256={},
    )
    ring = here / "state/binhost/blade/rings/canary"
    save(ring / "deployments/1/deployment.json", record)
    (ring / "current").symlink_to("deployments/1")


def test_the_newest_tree_comes_first_then_the_rings_then_the_generations(here: Path) -> None:
    first = here / "state/mirror/repos/gentoo/snapshots/20260101T000000Z"
    second = synced(here, "20260102T000000Z", "b.tgz", b"b")
    third = synced(here, "20260103T000000Z", "c.tgz", b"c")
    deploy(here, generate(here, 1, first.name))
    generate(here, 2, second.name)
    generate(here, 3, third.name)
    assert newest_tree(site(here)) == {"gentoo": third}
    assert trees_served(site(here)) == [{"gentoo": third}, {"gentoo": first}]
    assert trees_in_use(site(here)) == [{"gentoo": third}, {"gentoo": first}, {"gentoo": second}]


def test_before_the_first_sync_no_tree_is_in_use(here: Path) -> None:
    (here / "state/mirror/repos/gentoo/current").unlink()
    assert trees_in_use(site(here)) == []


def test_a_blade_s_file_is_fetched_when_it_is_asked_for(
    here: Path, upstream: tuple[Path, str]
) -> None:
    (upstream[0] / "hello.tgz").write_bytes(b"hello")
    asked = OnDemand(site(here))
    assert asked.fetch_missing(place(here)) is True
    assert place(here).read_bytes() == b"hello"
    asked.close()


def test_what_blades_may_not_have_is_refused_without_a_word_to_anyone(
    here: Path, upstream: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    (upstream[0] / "hello.tgz").write_bytes(b"hello")
    asked = OnDemand(site(here))
    folder = here / "state/mirror/distfiles"
    for path in (
        folder / "00/hello.tgz",
        folder / "hello.tgz",
        folder / "../../../etc/passwd",
        place(here, "unknown.tgz"),
    ):
        assert asked.fetch_missing(path) is False
    assert caplog.messages == []
    assert not folder.exists()
    asked.close()


def test_a_file_that_cannot_be_had_is_in_the_log(
    here: Path, caplog: pytest.LogCaptureFixture, upstream: tuple[Path, str]
) -> None:
    asked = OnDemand(site(here))
    assert asked.fetch_missing(place(here)) is False
    asked.close()
    assert caplog.messages[-1].startswith(
        "1 distfile could not be fetched.\n  hello.tgz\n"
        f"    {upstream[1]}/distfiles/hello.tgz: HTTP 404 File not found\n"
    )


def test_nothing_is_fetched_for_blades_where_the_disk_is_nearly_full(
    here: Path, caplog: pytest.LogCaptureFixture, upstream: tuple[Path, str]
) -> None:
    (upstream[0] / "hello.tgz").write_bytes(b"hello")
    config = here / "cluster.toml"
    config.write_text(config.read_text().replace("reserve_mib = 0", "reserve_mib = 999999999"))
    asked = OnDemand(site(here))
    assert asked.fetch_missing(place(here)) is False
    asked.close()
    assert caplog.messages[-1].startswith(f"The file system of {here}/state is too full to start.")


def test_what_a_kept_generation_s_tree_names_is_not_recycled(here: Path) -> None:
    generate(here, 1, "20260101T000000Z")
    synced(here, "20260102T000000Z", "new.tgz", b"new")
    put(here, "hello.tgz", b"hello")
    assert recycle_once(site(here), now=NOW) == RecyclePlan()
    (here / "state/binhost/blade/generations/1/generation.json").unlink()
    (here / "state/binhost/blade/generations/1").rmdir()
    assert recycle_once(site(here), now=NOW) == RecyclePlan(drop=("hello.tgz",))


def test_where_the_trees_in_use_are_not_known_nothing_is_recycled(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generate(here, 1, "20260101T000000Z")
    put(here, "foreign.tgz", b"?")
    record = here / "state/binhost/blade/generations/1/generation.json"
    record.write_text("{}")
    assert recycle_once(site(here), now=NOW) == RecyclePlan()
    assert place(here, "foreign.tgz").exists()
    assert caplog.messages[-1].startswith(
        f"No distfile is recycled, since the trees in use are not known: {record} is damaged: "
    )


def test_scope_full_brings_what_no_set_needs_and_scope_sets_does_not(
    here: Path, upstream: tuple[Path, str]
) -> None:
    (upstream[0] / "hello.tgz").write_bytes(b"hello")
    assert mirror_all_once(site(here), Silent()) is None
    config = here / "cluster.toml"
    config.write_text(CLUSTER.format(upstream=upstream[1], scope="full"))
    done = mirror_all_once(site(here), Silent())
    assert done is not None
    assert (done.fetched, done.failed) == (("hello.tgz",), {})
    assert (here / "state/mirror/full").exists()
    config.write_text(CLUSTER.format(upstream=upstream[1], scope="sets"))
    assert mirror_all_once(site(here), Silent()) is None
    assert not (here / "state/mirror/full").exists()
    assert place(here).read_bytes() == b"hello"


def test_verify_says_what_is_wrong_and_what_came_of_it(
    here: Path, upstream: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(here, "hello.tgz", b"hullo")
    put(here, "foreign.tgz", b"?")
    good, bad = (hashlib.blake2b(each).hexdigest()[:16] for each in (b"hello", b"hullo"))
    why = f"wrong content: its BLAKE2B is {bad}…, the Manifest says {good}…"
    asked = f"{upstream[1]}/distfiles/hello.tgz"
    assert run(["mirror", "verify"]) == 1
    assert capsys.readouterr().out == (
        f"hello.tgz: damaged ({why}), not served until it is fetched anew\n"
        f"No Manifest of a tree in use names: {path_of('foreign.tgz')}\n"
        "1 distfile read, 0.0 MB: 1 wrong, 0 repaired.\n"
        f"Not repaired:\n  hello.tgz\n    {asked}: HTTP 404 File not found\n"
        "    http://127.0.0.1:9/hello.tgz: [Errno 111] Connection refused\n"
        "Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
        "or sync the tree if the files changed upstream.\n"
    )
    put(here, "hello.tgz", b"hullo")
    (upstream[0] / "hello.tgz").write_bytes(b"hello")
    assert run(["mirror", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "files": 1,
        "size_bytes": 5,
        "damaged": {"hello.tgz": why},
        "older": [],
        "repaired": ["hello.tgz"],
        "failed": {},
        "unnamed": [str(path_of("foreign.tgz"))],
    }
    assert place(here).read_bytes() == b"hello"


def test_add_puts_a_good_file_in_place_and_refuses_another(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = here / "hello.tgz"
    own.write_bytes(b"hello")
    assert run(["mirror", "add", "hello.tgz"]) == 0
    assert capsys.readouterr().out == "hello.tgz is in place.\n"
    assert place(here).read_bytes() == own.read_bytes() == b"hello"
    (here / "other.tgz").write_bytes(b"other")
    assert run(["mirror", "add", "other.tgz"]) == 1
    assert capsys.readouterr().err == (
        "headnode: No Manifest of a tree in use names other.tgz. Give the file the name that the "
        "ebuild has for it, or sync the tree if the package is new.\n"
    )


@pytest.mark.parametrize("words", [["verify"], ["add", "x.tgz"]])
def test_before_the_first_sync_the_commands_say_to_sync(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (here / "state/mirror/repos/gentoo/current").unlink()
    assert run(["mirror", *words]) == 1
    assert capsys.readouterr().err.endswith(
        "headnode: No tree was synced yet. Run headnode mirror sync.\n"
    )
