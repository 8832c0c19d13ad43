"""Snapshots, from real rsync servers: good ones, half ones, and runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.model import Repo
from headnode.errors import BusyError, MirrorError
from headnode.files import locked
from mirror.sets import read_set, set_path, write_set
from mirror.tree import Snapshot, current_snapshot, next_stamp, sync_repo

Start = Callable[..., Any]

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
EVENING = datetime(2026, 11, 22, 23, 0, 0, tzinfo=UTC)
SYNC = """
import sys, datetime, pathlib
from config.model import Repo
from mirror.tree import sync_repo
now = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
sync_repo(pathlib.Path(sys.argv[1]), "lab", Repo(upstreams=(sys.argv[2],)), now=now)
"""


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A small repository of the name `lab`."""
    tree = tmp_path / "upstream"
    put(tree, "profiles/repo_name", "lab\n")
    put(tree, "metadata/layout.conf", "masters =\n")
    put(tree, "app-misc/hello/hello-1.ebuild", "EAPI=8\n")
    put(tree, "app-misc/hello/metadata.xml", "<pkgmetadata/>\n")
    return tree


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def url(start_rsyncd: Start, upstream: Path) -> str:
    return str(start_rsyncd(lab=upstream).url("lab"))


def put(tree: Path, name: str, content: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def sync(state: Path, *urls: str, now: datetime = NOON, stall_s: float = 10) -> Snapshot:
    repo = Repo(upstreams=urls, stall_s=stall_s, timeout_s=60)
    return sync_repo(state, "lab", repo, now=now, sleep=lambda pause_s: None)


def listing(path: Path) -> dict[str, bytes]:
    """Every file below `path`, by name."""
    return {
        str(each.relative_to(path)): each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_file()
    }


def folder_of(state: Path) -> list[str]:
    return sorted(each.name for each in (state / "mirror/repos/lab").iterdir())


def test_the_first_sync_makes_a_snapshot_that_is_the_upstream(
    state: Path, upstream: Path, url: str
) -> None:
    made = sync(state, url)
    assert made == Snapshot(
        repo="lab",
        stamp="20261122T120000Z",
        path=state / "mirror/repos/lab/snapshots/20261122T120000Z",
        changed=True,
        upstream=url,
    )
    assert listing(made.path) == listing(upstream)
    assert (state / "mirror/repos/lab/current").readlink() == Path("snapshots/20261122T120000Z")
    assert folder_of(state) == ["current", "lock", "snapshots"]
    assert current_snapshot(state, "lab") == Snapshot(repo="lab", stamp=made.stamp, path=made.path)


def test_an_unchanged_sync_makes_no_snapshot(state: Path, url: str) -> None:
    first = sync(state, url)
    again = sync(state, url, now=EVENING)
    assert (again.stamp, again.changed) == (first.stamp, False)
    assert folder_of(state) == ["current", "lock", "snapshots"]
    assert [each.name for each in first.path.parent.iterdir()] == [first.stamp]


def test_a_changed_sync_makes_one_and_hard_links_what_is_unchanged(
    state: Path, upstream: Path, url: str
) -> None:
    old = sync(state, url)
    before = listing(old.path)
    put(upstream, "app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    put(upstream, "app-misc/hello/metadata.xml", "<pkgmetadata></pkgmetadata>\n")
    new = sync(state, url, now=EVENING)
    assert (new.stamp, new.changed) == ("20261122T230000Z", True)
    assert listing(new.path) == listing(upstream)
    assert listing(old.path) == before
    assert (new.path / "profiles/repo_name").samefile(old.path / "profiles/repo_name")
    assert (state / "mirror/repos/lab/current").readlink() == Path("snapshots/20261122T230000Z")


def test_a_file_that_only_went_away_is_a_change(state: Path, upstream: Path, url: str) -> None:
    old = sync(state, url)
    (upstream / "app-misc/hello/metadata.xml").unlink()
    new = sync(state, url, now=EVENING)
    assert new.changed
    assert not (new.path / "app-misc/hello/metadata.xml").exists()
    assert (old.path / "app-misc/hello/metadata.xml").exists()


def test_a_file_rewritten_within_a_second_at_the_same_size_is_a_change(
    state: Path, upstream: Path, url: str
) -> None:
    ebuild = upstream / "app-misc/hello/hello-1.ebuild"
    second = 1_750_000_000 * 10**9
    os.utime(ebuild, ns=(second, second))
    sync(state, url)
    ebuild.write_text("EAPI=7\n")
    os.utime(ebuild, ns=(second, second + 5_000_000))
    new = sync(state, url, now=EVENING)
    assert new.changed
    assert (new.path / "app-misc/hello/hello-1.ebuild").read_text() == "EAPI=7\n"


def test_stamps_differ_within_one_second_and_never_go_back() -> None:
    assert next_stamp(NOON, []) == "20261122T120000Z"
    assert next_stamp(NOON, ["20261122T120000Z"]) == "20261122T120001Z"
    assert next_stamp(NOON, ["20261122T115959Z", "20261122T235959Z"]) == "20261123T000000Z"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("profiles", None, "it has no profiles/"),
        ("profiles/repo_name", None, "it has no profiles/repo_name"),
        ("profiles/repo_name", "other", "its profiles/repo_name says 'other', not 'lab'"),
        ("metadata/layout.conf", None, "it has no metadata/layout.conf"),
        ("app-misc/hello/hello-1.ebuild", None, "it has not one ebuild"),
    ],
)
def test_a_half_upstream_is_refused_and_current_stays(
    state: Path, upstream: Path, url: str, name: str, content: str | None, why: str
) -> None:
    old = sync(state, url)
    before = listing(old.path)
    (upstream / name).rename(upstream / "elsewhere")
    if content is not None:
        put(upstream, name, content)
    with pytest.raises(MirrorError) as caught:
        sync(state, url, now=EVENING)
    assert str(caught.value) == (
        "No upstream of lab could be synced; the tree of 20261122T120000Z is still served.\n"
        f"  {url}: {why}\n"
        " Try again later, or name another upstream in cluster.toml ([mirror.repos])."
    )
    assert current_snapshot(state, "lab") == Snapshot(repo="lab", stamp=old.stamp, path=old.path)
    assert listing(old.path) == before


def test_an_upstream_that_recovers_after_a_half_sync_is_taken(
    state: Path, upstream: Path, url: str
) -> None:
    sync(state, url)
    (upstream / "profiles").rename(upstream / "elsewhere")
    with pytest.raises(MirrorError):
        sync(state, url, now=EVENING)
    (upstream / "elsewhere").rename(upstream / "profiles")
    assert not sync(state, url, now=EVENING).changed
    assert folder_of(state) == ["current", "lock", "snapshots"]


def test_the_second_upstream_is_used_when_the_first_is_down(
    state: Path, url: str, closed_port: str
) -> None:
    made = sync(state, f"rsync://{closed_port}/lab", url)
    assert (made.changed, made.upstream) == (True, url)


def test_every_upstream_is_named_with_why_when_all_fail(
    state: Path, url: str, closed_port: str, silent_server: str
) -> None:
    down, silent = f"rsync://{closed_port}/lab", f"rsync://{silent_server}/lab"
    nope = url.replace("/lab", "/nope")
    with pytest.raises(MirrorError) as caught:
        sync(state, down, silent, nope, stall_s=1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "No upstream of lab could be synced; there is no older tree."
    assert lines[1].startswith(f"  {down}: no connection to the server (code 10): ")
    assert lines[2].startswith(f"  {silent}: ")
    assert lines[3] == (
        f"  {nope}: the server has no such module (code 5): @ERROR: Unknown module 'nope'"
    )
    assert current_snapshot(state, "lab") is None


def test_a_sync_that_was_killed_is_carried_on_with(
    state: Path, upstream: Path, start_rsyncd: Start
) -> None:
    for number in range(40):
        (upstream / f"app-misc/hello/{number}").write_bytes(os.urandom(100_000))
    slow, fast = start_rsyncd("--bwlimit=1000", lab=upstream), start_rsyncd(lab=upstream)
    process = subprocess.Popen([sys.executable, "-c", SYNC, state, slow.url("lab")])
    arrived = state / "mirror/repos/lab/staging/app-misc/hello"
    deadline = time.monotonic() + 20
    while not arrived.is_dir() or len(list(arrived.glob("[0-9]*"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = {path.name: path.stat().st_ino for path in arrived.glob("[0-9]*")}
    assert current_snapshot(state, "lab") is None

    made = sync(state, fast.url("lab"))
    assert listing(made.path) == listing(upstream)
    assert {name: (made.path / "app-misc/hello" / name).stat().st_ino for name in kept} == kept


def test_our_death_ends_rsync_too(state: Path, upstream: Path, start_rsyncd: Start) -> None:
    (upstream / "app-misc/hello/large").write_bytes(os.urandom(4 << 20))
    url = start_rsyncd("--bwlimit=300", lab=upstream).url("lab")
    process = subprocess.Popen([sys.executable, "-c", SYNC, state, url])
    deadline = time.monotonic() + 20
    while not clients_of(url):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while clients_of(url):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("first", [True, False])
def test_a_run_killed_before_the_flip_is_finished_by_the_next(
    state: Path, upstream: Path, url: str, first: bool
) -> None:
    if not first:
        sync(state, url)
        put(upstream, "app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    made = sync(state, url, now=EVENING)
    current = made.path.parent.parent / "current"
    current.unlink()
    if not first:
        current.symlink_to("snapshots/20261122T120000Z")
    current.with_name(".current.12345").symlink_to("snapshots/none")

    again = sync(state, url, now=EVENING)
    assert (again.stamp, again.changed) == (made.stamp, False)
    assert folder_of(state) == ["current", "lock", "snapshots"]


def test_two_syncs_at_once_are_refused(state: Path, url: str) -> None:
    with locked(state / "mirror/repos/lab/lock", "the sync of lab"), pytest.raises(BusyError):
        sync(state, url)


def test_snapshots_are_readable_by_all_whatever_the_umask(state: Path, url: str) -> None:
    before = os.umask(0o077)
    try:
        made = sync(state, url)
    finally:
        os.umask(before)
    readable = [made.path, *made.path.parents[: len(made.path.relative_to(state).parts) - 1]]
    assert {oct(path.stat().st_mode & 0o777) for path in readable} == {"0o755"}
    for path in made.path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_a_link_that_leads_out_of_the_tree_does_not_arrive(
    state: Path, upstream: Path, url: str
) -> None:
    (upstream / "inside").symlink_to("profiles")
    (upstream / "outside").symlink_to("/etc/shadow")
    made = sync(state, url)
    assert (made.path / "inside").is_symlink()
    assert not (made.path / "outside").is_symlink()


def test_a_full_disk_keeps_the_old_snapshot_and_says_so(
    small_disk: Path, upstream: Path, url: str
) -> None:
    old = sync(small_disk, url)
    before = listing(old.path)
    (upstream / "app-misc/hello/large").write_bytes(os.urandom(3 << 20))
    with pytest.raises(MirrorError, match=f"the disk of {small_disk}/mirror/.* is full"):
        sync(small_disk, url, now=EVENING)
    assert current_snapshot(small_disk, "lab") == Snapshot(
        repo="lab", stamp=old.stamp, path=old.path
    )
    assert listing(old.path) == before
    (upstream / "app-misc/hello/large").unlink()
    put(upstream, "app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    assert sync(small_disk, url, now=EVENING).changed


def test_a_disk_with_no_byte_left_is_one_clear_error(small_disk: Path, url: str) -> None:
    with (small_disk / "fill").open("wb") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(3 << 20))
        file.flush()
    with pytest.raises(MirrorError) as caught:
        sync(small_disk, url)
    assert str(caught.value).endswith(
        "Free some space, then run the sync again: it carries on where it stopped."
    ) or str(caught.value).endswith(
        "Free some space, then run this again: it carries on where it stopped."
    )


def test_a_set_has_the_same_id_for_the_same_trees_and_is_read_back(
    state: Path, upstream: Path, url: str
) -> None:
    first = sync(state, url)
    one = write_set(state, {"lab": first.stamp})
    assert write_set(state, {"lab": first.stamp}) == one
    assert read_set(state, one) == {"lab": first.stamp}
    assert set_path(state, one, "lab") == first.path
    put(upstream, "app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    second = sync(state, url, now=EVENING)
    assert write_set(state, {"lab": second.stamp}) != one
    assert len(list((state / "mirror/sets").iterdir())) == 2


def test_a_set_that_is_not_there_was_altered_or_names_no_snapshot_is_refused(
    state: Path, url: str
) -> None:
    made = sync(state, url)
    with pytest.raises(MirrorError, match="There is no snapshot 20200101T000000Z of lab"):
        write_set(state, {"lab": "20200101T000000Z"})
    with pytest.raises(MirrorError, match="There is no snapshot set '0123456789abcdef'"):
        read_set(state, "0123456789abcdef")
    identity = write_set(state, {"lab": made.stamp})
    with pytest.raises(MirrorError, match=f"{identity} has no repository 'other'"):
        set_path(state, identity, "other")
    (state / f"mirror/sets/{identity}.json").write_text('{"lab": "20200101T000000Z"}')
    with pytest.raises(MirrorError, match="was altered"):
        read_set(state, identity)


def clients_of(url: str) -> list[str]:
    """The process numbers of rsync clients of this address."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if words[0].endswith("rsync") and f"{url}/" in words:
            found.append(path.parent.name)
    return found
