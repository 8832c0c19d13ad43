"""Upstreams that fail in every way: each is refused, and what is served stays as it was.

`mirrored.refused` compares what is served byte for byte before and after.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.model import Repo
from headnode.errors import MirrorError
from headnode.files import locked
from mirror.guard import Waiver
from mirror.snapshots import Folder, current_snapshot
from mirror.status import read_status
from mirror.tree import sync_repo

Start = Callable[..., Any]

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
# rsync's own words lie between: at which file the disk was full.
FULL = (
    r"Syncing from {url} failed: the disk of {state}/mirror/repos/lab/(staging|head) is full\."
    r"(\n  .*)*\n"
    r" Free some space, then run the sync again: it carries on where it stopped\."
    r"|{state}/mirror/repos/lab cannot be written to: its disk is full\. "
    r"What was served before still is\. "
    r"Free some space, then run this again: it carries on where it stopped\."
)
WAIVE = "`headnode mirror sync --waive {}` takes it all the same"


def test_an_upstream_that_refuses_is_tried_three_times_with_growing_pauses(
    mirrored: Any, closed_port: str
) -> None:
    mirrored.sync()
    down = f"rsync://{closed_port}/lab"
    middle = {"uniform": lambda low, high: (low + high) / 2}
    assert mirrored.refused(down, **middle) == mirrored.said(
        "no connection to the server (code 10): rsync: [Receiver] failed to connect to "
        "127.0.0.1 (127.0.0.1): Connection refused (111)",
        down,
    )
    assert mirrored.pauses == [1.5, 3.0]


def test_an_upstream_that_hangs_is_given_up(mirrored: Any, silent_server: str) -> None:
    mirrored.sync()
    silent = f"rsync://{silent_server}/lab"
    assert mirrored.refused(silent, stall_s=0.5, tries=1) == mirrored.said(
        "the server sent nothing for 0.5 s (stall_s)", silent
    )


def test_an_upstream_that_freezes_in_the_middle_is_given_up_and_carried_on_with(
    mirrored: Any, start_rsyncd: Start
) -> None:
    mirrored.sync()
    mirrored.ebuild("app-misc/pwgen", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.put("licenses/GPL-2", "GPL")
    for number in range(20):
        (mirrored.tree / f"licenses/{number:02}").write_bytes(os.urandom(100_000))
    slow = start_rsyncd("--bwlimit=500", lab=mirrored.tree)
    arrived = mirrored.state / "mirror/repos/lab/staging/licenses"

    def freeze(progress: object) -> None:
        if arrived.is_dir() and len(list(arrived.glob("[0-9]*"))) > 3:
            slow.signal(signal.SIGSTOP)

    before = mirrored.served()
    with pytest.raises(MirrorError) as caught:
        sync_with(mirrored, slow.url("lab"), on_progress=freeze, stall_s=1.6, tries=1)
    assert mirrored.served() == before
    assert str(caught.value) in (
        mirrored.said("the server sent nothing for 1.6 s (stall_s)", slow.url("lab")),
        mirrored.said(
            "the server went silent (code 30): [Receiver] io timeout after 2 seconds -- exiting",
            slow.url("lab"),
        ),
    )
    kept = {path.name: path.stat().st_ino for path in arrived.glob("[0-9]*")}
    assert len(kept) > 3
    new = mirrored.sync()
    assert {name: (new.path / "licenses" / name).stat().st_ino for name in kept} == kept


def sync_with(mirrored: Any, url: str, *, on_progress: Any, **options: Any) -> Any:
    """A sync that is watched."""
    return sync_repo(
        mirrored.state,
        "lab",
        Repo(**{"upstreams": (url,), "timeout_s": 60, **options}),
        now=mirrored.now + timedelta(hours=1),
        on_progress=on_progress,
    )


def test_a_connection_that_is_cut_in_the_middle_of_a_file_is_refused(
    mirrored: Any, start_rsyncd: Start
) -> None:
    mirrored.sync()
    (mirrored.tree / "large").write_bytes(os.urandom(4 << 20))
    mirrored.stamp(NOON + DAY)
    slow = start_rsyncd("--bwlimit=1000", lab=mirrored.tree)
    before = mirrored.served()
    with pytest.raises(MirrorError) as caught:
        sync_with(
            mirrored,
            slow.url("lab"),
            on_progress=lambda progress: slow.signal(signal.SIGKILL),
            tries=1,
        )
    assert mirrored.served() == before
    said = re.sub(r"\(\d+ bytes received so far\)|\(\d{3}\)", "(…)", str(caught.value))
    assert said in [
        mirrored.said(f"{why}", slow.url("lab"))
        for why in (
            "the connection broke (code 12): rsync: connection unexpectedly closed (…) [receiver]",
            "the connection broke (code 12): rsync: connection unexpectedly closed (…) [generator]",
            "no connection to the server (code 10): rsync: [receiver] read error: "
            "Connection reset by peer (…)",
            "no connection to the server (code 10): rsync: [generator] write error: "
            "Broken pipe (…)",
        )
    ]
    assert mirrored.sync().changed


def test_a_module_that_vanished_is_not_tried_again(mirrored: Any, start_rsyncd: Start) -> None:
    mirrored.sync()
    url = start_rsyncd(other=mirrored.tree).url("lab")
    assert mirrored.refused(url) == mirrored.said(
        "the server has no such module (code 5): @ERROR: Unknown module 'lab'", url
    )
    assert mirrored.pauses == []


def test_a_file_that_cannot_be_read_for_a_moment_is_fetched_by_the_next_round(
    mirrored: Any,
) -> None:
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    ebuild = mirrored.tree / "app-misc/hello/hello-2.ebuild"
    ebuild.chmod(0o600)  # the server reads as nobody
    mirrored.pauses = Pauses(lambda: ebuild.chmod(0o644))
    made = mirrored.sync()
    assert made.changed
    assert len(mirrored.pauses) == 1
    assert (made.path / "app-misc/hello/hello-2.ebuild").exists()


class Pauses(list[float]):
    """Pauses during which something is put right."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action

    def append(self, pause_s: float) -> None:
        super().append(pause_s)
        self.action()


def test_a_partial_transfer_is_never_served(mirrored: Any) -> None:
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    (mirrored.tree / "app-misc/hello/hello-2.ebuild").chmod(0o600)
    assert mirrored.refused() == mirrored.said(
        "some files could not be transferred (code 23): rsync: [sender] send_files failed to open "
        '"/app-misc/hello/hello-2.ebuild" (in lab): Permission denied (13)'
    )
    assert len(mirrored.pauses) == 2


def licences(mirrored: Any, *names: str) -> None:
    for name in names:
        mirrored.put(f"licenses/{name}", "")
        (mirrored.tree / "licenses" / name).write_bytes(os.urandom(400_000))


def test_files_that_vanish_while_they_are_copied_are_tolerated_once(
    mirrored: Any, start_rsyncd: Start
) -> None:
    mirrored.sync()
    licences(mirrored, "1", "2", "3", "4")
    mirrored.stamp(NOON + DAY)
    slow = start_rsyncd("--bwlimit=800", lab=mirrored.tree)
    last = mirrored.tree / "licenses/4"
    made = sync_with(
        mirrored, slow.url("lab"), on_progress=lambda progress: last.unlink(missing_ok=True)
    )
    assert made.changed
    assert sorted(path.name for path in (made.path / "licenses").iterdir()) == ["1", "2", "3"]


def test_files_that_keep_vanishing_are_refused(mirrored: Any, start_rsyncd: Start) -> None:
    mirrored.sync()
    licences(mirrored, "1", "2", "3")
    mirrored.stamp(NOON + DAY)
    slow = start_rsyncd("--bwlimit=800", lab=mirrored.tree)
    upstream = mirrored.tree / "licenses"
    arrived = Folder.of(mirrored.state, "lab").staging / "licenses"

    def vanish(progress: object) -> None:
        if (upstream / "3").exists():  # the first time
            (upstream / "3").unlink()
            licences(mirrored, "4", "5", "6")
        if (arrived / "4").exists():
            (upstream / "6").unlink(missing_ok=True)

    before = mirrored.served()
    with pytest.raises(MirrorError) as caught:
        sync_with(mirrored, slow.url("lab"), on_progress=vanish, tries=1)
    assert mirrored.served() == before
    assert str(caught.value) == mirrored.said(
        "files vanished while they were copied, twice", slow.url("lab")
    )


def test_a_tree_that_went_back_by_a_day_is_refused_and_can_be_waived(mirrored: Any) -> None:
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "0")
    mirrored.stamp(NOON - DAY)
    assert mirrored.refused() == mirrored.said(
        "it went back: metadata/timestamp.chk says 2026-11-21 12:00:00 UTC, and "
        f"2026-11-22 12:00:00 UTC was seen before; {WAIVE.format('older')}"
    )
    assert mirrored.pauses == []
    assert mirrored.sync(waived={Waiver.OLDER}).changed
    assert not mirrored.sync().changed


def test_a_tree_that_lost_its_stamp_counts_as_older(mirrored: Any) -> None:
    mirrored.sync()
    (mirrored.tree / "metadata/timestamp.chk").unlink()
    assert mirrored.refused() == mirrored.said(
        "it went back: metadata/timestamp.chk is gone, and "
        f"2026-11-22 12:00:00 UTC was seen before; {WAIVE.format('older')}"
    )


def test_an_older_upstream_is_passed_over_for_the_next(
    mirrored: Any, start_rsyncd: Start, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(mirrored.tree, old)
    mirrored.stamp(NOON + DAY)
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + 2 * DAY)
    lagging = start_rsyncd(lab=old).url("lab")
    made = mirrored.sync(lagging, mirrored.url)
    assert (made.changed, made.upstream) == (True, mirrored.url)


def test_a_signed_time_that_goes_back_under_a_new_stamp_is_a_replay(mirrored: Any) -> None:
    mirrored.manifests()
    manifest = mirrored.tree / "Manifest"
    replayed = manifest.read_text()
    mirrored.sync()
    was, _ = re.findall(r"TIMESTAMP (\S+)T(\S+)Z", replayed)[0]
    manifest.write_text(replayed.replace(f"TIMESTAMP {was}", "TIMESTAMP 2020-01-01"))
    mirrored.stamp(NOON + DAY)
    said = mirrored.refused()
    assert re.sub(r"\d\d:\d\d:\d\d UTC", "… UTC", said) == mirrored.said(
        f"it went back: the TIMESTAMP of its Manifest says 2020-01-01 … UTC, and {was} … UTC was "
        f"seen before; {WAIVE.format('older')}"
    )


def test_a_tree_that_lost_too_many_files_is_refused_before_it_is_copied(mirrored: Any) -> None:
    for number in range(150):
        mirrored.put(f"licenses/{number:03}", "x")
    mirrored.sync()
    shutil.rmtree(mirrored.tree / "licenses")
    mirrored.stamp(NOON + DAY)
    said = mirrored.refused()
    assert said == mirrored.said(
        "150 of 167 files would be gone (licenses/149, licenses/148, licenses/147, …), and 100 may "
        f"be (max_deleted_percent, max_deleted_files); {WAIVE.format('deletions')}"
    )
    assert not Folder.of(mirrored.state, "lab").staging.exists()
    assert mirrored.sync(waived={Waiver.DELETIONS}).changed


def test_a_file_that_was_truncated_upstream_is_named(mirrored: Any) -> None:
    mirrored.manifests()
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAP")
    assert mirrored.refused(tries=1) == mirrored.said(
        "app-misc/hello/hello-2.ebuild does not match its Manifest: its size is 3 instead of 7"
    )


def test_an_altered_file_of_the_same_size_is_named(mirrored: Any) -> None:
    mirrored.manifests()
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    mirrored.put("app-misc/hello/hello-1.ebuild", "EAPI=7\n")
    said = mirrored.refused(tries=1)
    assert re.sub(r"[0-9a-f]{16}…", "…", said) == mirrored.said(
        "app-misc/hello/hello-1.ebuild does not match its Manifest: its BLAKE2B is … instead of …"
    )


def test_a_file_too_many_and_one_too_few_are_named(mirrored: Any) -> None:
    mirrored.manifests()
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    evil = mirrored.put("app-misc/hello/evil.ebuild", "EAPI=8\n")
    assert mirrored.refused(tries=1) == mirrored.said(
        "app-misc/hello/evil.ebuild is named by no Manifest"
    )
    evil.unlink()
    (mirrored.tree / "app-misc/pwgen/pwgen-1.ebuild").unlink()
    assert mirrored.refused(tries=1) == mirrored.said(
        "app-misc/pwgen/pwgen-1.ebuild is named by a Manifest and is not there"
    )


def test_an_upstream_that_is_half_updated_is_served_when_it_is_done(mirrored: Any) -> None:
    mirrored.manifests()
    mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    mirrored.ebuild("app-misc/hello", "3")
    mirrored.pauses = Pauses(mirrored.manifests)
    made = mirrored.sync()
    assert (made.changed, len(mirrored.pauses)) == (True, 1)


def test_a_tree_signed_by_a_stranger_is_refused(mirrored: Any, signers: Any) -> None:
    trusted, stranger = signers
    key = trusted.key
    mirrored.manifests()
    trusted.sign(mirrored.tree / "Manifest")
    mirrored.sync(openpgp_key=key)
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    assert mirrored.refused(openpgp_key=key) == mirrored.said(
        "its top-level Manifest is not signed, and openpgp_key asks for it"
    )
    stranger.sign(mirrored.tree / "Manifest")
    said = mirrored.refused(openpgp_key=key)
    assert re.sub(r"[0-9A-F]{40}", "…", said) == mirrored.said(
        f"its Manifest was signed by the key …, which is not in {key} (openpgp_key); "
        "if the signer has a new key, put it into that file"
    )
    assert mirrored.refused(openpgp_key=key.with_name("none")) == mirrored.said(
        f"the file {key.with_name('none')} (openpgp_key) is not there"
    )
    both = key.with_name("both.asc")
    both.write_text(key.read_text() + stranger.key.read_text())
    assert mirrored.sync(openpgp_key=both).changed


def test_a_manifest_that_was_altered_after_it_was_signed_is_refused(
    mirrored: Any, signers: Any
) -> None:
    trusted, _ = signers
    manifest = mirrored.tree / "Manifest"
    mirrored.manifests()
    trusted.sign(manifest)
    mirrored.sync(openpgp_key=trusted.key)
    manifest.write_text(manifest.read_text().replace("IGNORE local", "IGNORE metadata"))
    mirrored.stamp(NOON + DAY)
    assert mirrored.refused(openpgp_key=trusted.key) == mirrored.said(
        "its Manifest was altered after it was signed"
    )


def test_what_was_altered_under_an_old_manifest_is_not_taken(mirrored: Any) -> None:
    mirrored.manifests()
    first = mirrored.sync()
    mirrored.put("app-misc/hello/hello-1.ebuild", "EAPI=7\n")
    mirrored.stamp(NOON + DAY)
    again = mirrored.sync()
    assert (again.changed, again.stamp) == (False, first.stamp)
    assert (again.path / "app-misc/hello/hello-1.ebuild").read_text() == "EAPI=8\n"


def test_a_stamp_over_unchanged_content_has_to_be_signed_too(mirrored: Any, signers: Any) -> None:
    trusted, stranger = signers
    manifest = mirrored.tree / "Manifest"
    mirrored.manifests()
    unsigned = manifest.read_text()
    trusted.sign(manifest)
    mirrored.sync(openpgp_key=trusted.key)
    year = f"{datetime.now(UTC).year}"
    manifest.write_text(unsigned.replace(f"TIMESTAMP {year}", "TIMESTAMP 2090"))
    stranger.sign(manifest)
    mirrored.stamp(NOON + DAY)
    said = mirrored.refused(openpgp_key=trusted.key)
    assert re.sub(r"[0-9A-F]{40}", "…", said) == mirrored.said(
        f"its Manifest was signed by the key …, which is not in {trusted.key} (openpgp_key); "
        "if the signer has a new key, put it into that file"
    )


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "profiles/eapi",
            "99\n",
            "profiles/eapi says '99', which Portage {} does not know; install a newer one "
            "(`pip install --upgrade portage`)",
        ),
        (
            "profiles/profiles.desc",
            "amd64 lab/amd64 stable\nriscv gone exp\n",
            "profiles/profiles.desc names lab/amd64, and that is not there",
        ),
        (
            "profiles/amd64/parent",
            "../nowhere\n",
            "profiles/amd64/parent names a profile that is not there",
        ),
    ],
)
def test_a_repository_that_portage_cannot_read_is_refused(
    mirrored: Any, name: str, content: str, why: str
) -> None:
    import portage

    mirrored.put("profiles/profiles.desc", "amd64 amd64 stable\n")
    mirrored.put("profiles/amd64/eapi", "8\n")
    mirrored.sync()
    mirrored.put(name, content)
    mirrored.stamp(NOON + DAY)
    assert mirrored.refused() == mirrored.said(why.format(portage.VERSION))


def test_a_cache_that_lacks_an_ebuild_of_a_signed_tree_is_refused(mirrored: Any) -> None:
    mirrored.manifests()
    mirrored.sync()
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    mirrored.stamp(NOON + DAY)
    mirrored.manifests()
    assert mirrored.refused(tries=1) == mirrored.said(
        "its metadata/md5-cache lacks 1 ebuilds, such as app-misc/hello-2"
    )


def test_a_disk_that_fills_up_at_any_point_leaves_the_old_tree_or_the_new(
    small_disk: Path, mirrored: Any
) -> None:
    mirrored.state = small_disk / "state"
    mirrored.sync()
    old = mirrored.served()
    mirrored.ebuild("app-misc/hello", "2")
    for number in range(30):
        mirrored.put(f"licenses/{number:02}", "x" * 20_000)
    mirrored.stamp(NOON + DAY)
    free = shutil.disk_usage(small_disk).free
    ends = set()
    for left in (0, 4, 12, 40, 100, 300, 500, 600, 640, 680, 700, 740):
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * (free - left * 1024))
        try:
            made = mirrored.sync(tries=1)
            ends.add(made.changed)
        except MirrorError as error:
            assert mirrored.served() == old
            assert re.fullmatch(FULL.format(url=mirrored.url, state=mirrored.state), str(error))
            ends.add("full")
        ballast.unlink()
        shutil.rmtree(Folder.of(mirrored.state, "lab").staging, ignore_errors=True)
        current = current_snapshot(mirrored.state, "lab")
        assert current is not None
        if (current.path / "licenses").exists():
            assert {path.read_text() for path in (current.path / "licenses").iterdir()} == {
                "x" * 20_000
            }
            assert len(list((current.path / "licenses").iterdir())) == 30
    assert ends >= {"full", True}


def test_two_syncs_at_once_are_told_apart(mirrored: Any) -> None:
    mirrored.sync()
    lock = Folder.of(mirrored.state, "lab").path / "lock"
    with locked(lock, "the sync of lab"):
        assert mirrored.refused() == (
            f"the sync of lab (process {os.getpid()}) holds {lock}. "
            "Wait for it to end, then run this again."
        )


def test_no_round_begins_when_the_time_is_over(mirrored: Any, closed_port: str) -> None:
    mirrored.sync()
    down, later = f"rsync://{closed_port}/lab", f"rsync://{closed_port}/later"
    ticks = iter([0.0] * 3 + [1000.0] * 1000)
    with pytest.raises(MirrorError) as caught:
        sync_repo(
            mirrored.state,
            "lab",
            Repo(upstreams=(down, later), timeout_s=100),
            now=NOON + DAY,
            clock=lambda: next(ticks),
            sleep=mirrored.pauses.append,
        )
    assert str(caught.value).splitlines()[-2] == (
        f"  {later}: not tried, the 100 s (timeout_s) were over"
    )
    assert mirrored.pauses == []


def test_what_failed_is_remembered_with_its_reason(mirrored: Any, closed_port: str) -> None:
    first = mirrored.sync()
    good = mirrored.now
    down = f"rsync://{closed_port}/lab"
    mirrored.refused(down, tries=1)
    record = read_status(mirrored.state, "lab")
    assert (record.last_good, record.last_try) == (good, mirrored.now)
    assert record.failed == (
        f"No upstream of lab could be synced; the tree of {first.stamp} is still served."
    )
    assert record.upstreams[down].last_good is None
    assert record.upstreams[down].failed.startswith("no connection to the server (code 10): ")


def test_a_bandwidth_limit_is_kept_by_the_server(mirrored: Any) -> None:
    (mirrored.tree / "large").write_bytes(os.urandom(400_000))
    mirrored.sync(bwlimit_kib=200)
    assert read_status(mirrored.state, "lab").seconds > 1


def test_nothing_is_left_running(mirrored: Any) -> None:
    mirrored.sync()
    said = subprocess.run(["pgrep", "-af", mirrored.url], capture_output=True, text=True)
    assert said.stdout == ""
