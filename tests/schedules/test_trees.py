"""Several repositories synced together, pinned together, and let go of together."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.model import Cluster
from headnode.cli import run
from headnode.errors import MirrorError
from mirror.sets import read_set, set_id, write_set
from mirror.snapshots import Folder
from mirror.status import Status, Tried, read_status, write_status
from schedules.site import Site
from schedules.trees import in_use, prune_trees, sync_trees

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Heard:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        """Look away."""


def tree(folder: Path, name: str) -> Path:
    """A repository with one package that Portage passes over, since its category has no name."""
    for path, text in {
        "profiles/repo_name": f"{name}\n",
        "metadata/layout.conf": "masters =\n",
        "app-misc/hello/hello-1.ebuild": "EAPI=8\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {name: tree(tmp_path / name, name) for name in ("gentoo", "overlay", "own")}


def site(tmp_path: Path, repos: dict[str, Any], **mirror: Any) -> Site:
    values = {
        "state": {"path": str(tmp_path / "state"), "reserve_mib": 0},
        "mirror": {"repos": repos, **mirror},
    }
    return Site(cluster=Cluster.model_validate(values))


def of_paths(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: {"path": str(path)} for name, path in folders.items()}


def sync(site: Site, now: datetime = NOON, *, ask: bool = False, heard: Heard | None = None) -> Any:
    return sync_trees(site, now=now, watch=heard or Heard(), waived=(), ask=ask)


def test_all_repositories_are_pinned_together(tmp_path: Path, folders: dict[str, Path]) -> None:
    place = site(tmp_path, of_paths(folders))
    first = sync(place)
    assert first.changed == ("gentoo", "overlay", "own")
    one = write_set(place.state, first.stamps)
    (folders["own"] / "app-misc/hello/hello-2.ebuild").write_text("EAPI=8\n")
    second = sync(place, NOON + HOUR)
    assert second.changed == ("own",)
    two = write_set(place.state, second.stamps)
    assert (read_set(place.state, one), read_set(place.state, two)) == (
        {"gentoo": "20261122T120000Z", "overlay": "20261122T120000Z", "own": "20261122T120000Z"},
        {"gentoo": "20261122T120000Z", "overlay": "20261122T120000Z", "own": "20261122T130000Z"},
    )


def test_one_that_fails_does_not_keep_the_others_from_being_synced(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    folders["overlay"].rename(tmp_path / "elsewhere")
    place = site(tmp_path, of_paths(folders))
    gone = (
        "No upstream of {0} could be synced; there is no older tree.\n"
        "  {1}/{0}: the folder {1}/{0} (path) is not there\n"
    )
    remedy = " Try again later, or name another upstream in cluster.toml ([mirror.repos])."
    with pytest.raises(MirrorError) as caught:
        sync(place)
    assert str(caught.value) == gone.format("overlay", tmp_path) + remedy
    assert Folder.of(place.state, "own").newest() is not None
    folders["own"].rename(tmp_path / "away")
    with pytest.raises(MirrorError) as caught:
        sync(place, NOON + HOUR)
    both = str(caught.value)
    assert both == (
        gone.format("overlay", tmp_path)
        + gone.format("own", tmp_path).replace(
            "there is no older tree", "the tree of 20261122T120000Z is still served"
        )
        + remedy
    )


def test_upstreams_that_were_asked_lately_are_left_in_peace(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    stamps = sync(site(tmp_path, of_paths(folders))).stamps
    down = {"upstreams": ["rsync://127.0.0.1:1/gentoo"], "tries": 1}
    place = site(tmp_path, {**of_paths(folders), "gentoo": down})
    heard = Heard()
    done = sync(place, NOON + 19 * HOUR, heard=heard)
    assert (done.stamps, done.changed, done.skipped) == (stamps, (), ("gentoo",))
    assert heard.said[0] == (
        "gentoo was synced 19.0 h ago, and is not asked for again within 20 h "
        "(min_interval_h; --now asks)"
    )
    for now, ask in ((NOON + 20 * HOUR, False), (NOON + 19 * HOUR, True)):
        with pytest.raises(MirrorError, match="no connection to the server"):
            sync(place, now, ask=ask)


def test_snapshots_that_something_was_made_from_are_kept(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    place = site(tmp_path, of_paths({"gentoo": folders["gentoo"]}), keep_snapshots=2)
    ids, stamps = [], []
    for number in range(6):
        (folders["gentoo"] / f"app-misc/hello/hello-{number}.ebuild").write_text("EAPI=8 #\n")
        done = sync(place, NOON + number * HOUR)
        stamps.append(done.stamps["gentoo"])
        ids.append(write_set(place.state, done.stamps))
    named = {
        "binhost/blade/generations/1/generation.json": ids[0],
        "binhost/blade/rings/canary/deployments/3/generation.json": ids[1],
        "build/blade/result.json": ids[2],
    }
    for path, identity in named.items():
        (place.state / path).parent.mkdir(parents=True)
        (place.state / path).write_text(json.dumps({"snapshots": identity}))
    assert in_use(place.state) == set(ids[:3])
    prune_trees(place)
    assert Folder.of(place.state, "gentoo").stamps() == [*stamps[:3], *stamps[4:]]
    left = {path.stem for path in (place.state / "mirror/sets").iterdir()}
    assert left == {*ids[:3], *ids[4:]}


def test_nothing_is_removed_while_it_cannot_be_told_what_is_in_use(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    place = site(tmp_path, of_paths({"gentoo": folders["gentoo"]}), keep_snapshots=2)
    for number in range(4):
        (folders["gentoo"] / f"app-misc/hello/hello-{number}.ebuild").write_text("EAPI=8 #\n")
        sync(place, NOON + number * HOUR)
    broken = place.state / "binhost/blade/generations/1/generation.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    prune_trees(place)
    assert len(Folder.of(place.state, "gentoo").stamps()) == 4


@pytest.mark.parametrize("altered", [b"", b'{"gentoo": "20261122T130000Z"}\n', b"\xff\xfe"])
def test_a_set_in_use_that_was_altered_has_no_snapshot_removed(
    tmp_path: Path, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, altered: bytes
) -> None:
    place = site(tmp_path, of_paths({"gentoo": folders["gentoo"]}), keep_snapshots=2)
    ids = []
    for number in range(4):
        (folders["gentoo"] / f"app-misc/hello/hello-{number}.ebuild").write_text("EAPI=8 #\n")
        ids.append(write_set(place.state, sync(place, NOON + number * HOUR).stamps))
    served = place.state / "binhost/blade/generations/1/generation.json"
    served.parent.mkdir(parents=True)
    served.write_text(json.dumps({"snapshots": ids[0]}))
    named = place.state / f"mirror/sets/{ids[0]}.json"
    named.write_bytes(altered)
    with caplog.at_level("WARNING"):
        prune_trees(place)
    assert len(Folder.of(place.state, "gentoo").stamps()) == 4
    (said,) = caplog.messages
    assert said == (
        "no snapshot is removed, since it cannot be told what is in use: "
        f"{named} was altered: its content has the id {set_id(altered.decode(errors='replace'))}. "
        "Restore it from a backup, or publish again."
    )


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text(
        '[state]\npath = "state"\nreserve_mib = 0\n\n'
        '[mirror.repos.gentoo]\nupstreams = ["rsync://127.0.0.1:1/gentoo"]\ntries = 1\n'
    )
    return tmp_path


def test_mirror_status_shows_what_failed_and_warns_of_a_stale_tree(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "No upstream of gentoo could be synced; there is no older tree."
    tried = Tried(last_try=NOON, failed="no connection to the server (code 10)")
    write_status(
        configured / "state",
        Status(
            repo="gentoo",
            last_try=NOON,
            failed=why,
            upstreams={"rsync://127.0.0.1:1/gentoo": tried},
        ),
    )
    assert run(["mirror", "status"]) == 0
    shown = capsys.readouterr()
    assert [" ".join(line.split()) for line in shown.out.splitlines()] == [
        "repository snapshot age files MiB last good last try upstream",
        "gentoo - - - - never 2026-11-22 12:00",
        "never 2026-11-22 12:00 rsync://127.0.0.1:1/gentoo: no connection to the server (code 10)",
    ]
    assert shown.err == f"warning: gentoo was never synced: {why}\n"

    assert run(["mirror", "status", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["warning"] == f"gentoo was never synced: {why}"
    assert told["status"] == read_status(configured / "state", "gentoo").model_dump(mode="json")


def test_a_sync_that_fails_says_why_and_warns_and_exits_with_1(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mirror", "sync"]) == 1
    assert capsys.readouterr().err == (
        "Syncing gentoo from rsync://127.0.0.1:1/gentoo\n"
        "warning: gentoo was never synced: "
        "No upstream of gentoo could be synced; there is no older tree.\n"
        "headnode: No upstream of gentoo could be synced; there is no older tree.\n"
        "  rsync://127.0.0.1:1/gentoo: no connection to the server (code 10): rsync: [Receiver] "
        "failed to connect to 127.0.0.1 (127.0.0.1): Connection refused (111)\n"
        " Try again later, or name another upstream in cluster.toml ([mirror.repos]).\n"
    )


def test_only_guards_that_there_are_can_be_waived(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mirror", "sync", "--waive", "checks"]) == 2
    assert "'checks' is not one of 'older', 'deletions', 'rewritten'" in capsys.readouterr().err
