"""The door to rsync, with real servers that behave and that do not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirror import rsync
from mirror.rsync import Progress, RsyncExit, Stats, UpstreamError, Verdict
from mirror.rsync_exit import MEANINGS, explain
from mirror.rsync_output import Output

Start = Callable[..., Any]

# Printed by rsync 3.5.0 with our options.
PRINTED = (
    b">f+++++++++ profiles/repo name\n"
    b"\r              2  33%    0.00kB/s    0:00:00  "
    b"\r      123456789  66%  117.95MB/s    1:02:03 (xfr#1, to-chk=2/4)\n"
    b"*deleting   old/\n"
    b"hf          not itemised\n"
    b"\nNumber of files: 4 (reg: 3, dir: 1)\n"
    b"Number of created files: 3 (reg: 3)\nNumber of deleted files: 1\n"
    b"Number of regular files transferred: 2\nTotal file size: 6 bytes\n"
    b"Total transferred file size: 6 bytes\nTotal bytes sent: 233\nTotal bytes received: 73\n"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "sub/two").write_text("2")
    return folder


def fetch(source: str, target: Path, **options: Any) -> rsync.Result:
    return rsync.fetch(source, target, **{"stall_s": 10, "timeout_s": 30, **options})


def test_argv_is_complete_and_never_in_place(tmp_path: Path) -> None:
    argv = rsync.build_argv(
        "rsync://host/module/",
        Path("/state/staging"),
        link_dest=tmp_path,
        stall_s=120,
        bwlimit_kib=500,
        exclude=("/local",),
    )
    assert argv == [
        "--recursive",
        "--links",
        "--safe-links",
        "--times",
        "--omit-dir-times",
        "--modify-window=-1",
        "--perms",
        "--chmod=D755,F644",
        "--whole-file",
        "--delete",
        "--compress",
        "--no-motd",
        "--info=progress2",
        "--no-human-readable",
        "--stats",
        "--out-format=%i %n",
        "--timeout=120",
        "--contimeout=30",
        "--sockopts=TCP_NODELAY",
        "--bwlimit=500",
        f"--link-dest={tmp_path}",
        "--exclude=/local",
        "rsync://host/module/",
        "/state/staging/",
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_output_is_understood_however_it_is_cut(size: int) -> None:
    seen: list[Progress] = []
    output = Output(seen.append)
    for start in range(0, len(PRINTED), size):
        output.feed(PRINTED[start : start + size])
    assert seen == [
        Progress(size_bytes=2, percent=33, rate_bps=0.0, eta_s=0),
        Progress(size_bytes=123456789, percent=66, rate_bps=117.95 * 2**20, eta_s=3723),
    ]
    assert output.changes == 2
    assert rsync.parse_stats(output.last) == Stats(
        files=4, created=3, deleted=1, transferred=2, total_bytes=6, received_bytes=73
    )


def test_every_exit_code_has_a_meaning_and_only_two_are_good() -> None:
    assert set(MEANINGS) == set(RsyncExit)
    assert [code for code in RsyncExit if code.verdict is Verdict.GOOD] == [
        RsyncExit.OK,
        RsyncExit.VANISHED,
    ]
    assert [code for code in RsyncExit if code.verdict is Verdict.PARTIAL] == [RsyncExit.PARTIAL]


def test_code_5_is_told_apart_by_what_rsync_said() -> None:
    busy = explain("u", Path("t"), 5, "", "@ERROR: max connections (1) reached -- try again later")
    assert busy.why == "the server has as many connections as it allows (code 5)"
    gone = explain("u", Path("t"), 5, "", "@ERROR: Unknown module 'nope'")
    assert gone.why == "the server has no such module (code 5)"
    assert explain("u", Path("t"), -9, "", "").why == "rsync ended with signal 9"
    assert explain("u", Path("t"), 99, "", "").why == "rsync ended with code 99"


@pytest.mark.parametrize(
    ("code", "tail", "lasting"),
    [
        (5, "@ERROR: max connections (1) reached -- try again later", False),
        (5, "@ERROR: Unknown module 'nope'", True),
        *((code, "", False) for code in (10, 12, 23, 30, 35)),
        *((code, "", True) for code in (2, 4, 6)),
    ],
)
def test_what_a_pause_cannot_cure_is_not_tried_again(code: int, tail: str, lasting: bool) -> None:
    assert explain("u", Path("t"), code, "", tail).lasting is lasting


def test_a_tree_arrives_with_its_figures_and_its_progress(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    (source / "one").chmod(0o600)
    seen: list[Progress] = []
    url = start_rsyncd(tree=source).url("tree")
    (source / "one").chmod(0o604)
    result = fetch(url, tmp_path / "target", on_progress=seen.append)
    assert (tmp_path / "target/sub/two").read_text() == "2"
    assert (tmp_path / "target/one").stat().st_mode & 0o777 == 0o644
    assert result.exit is RsyncExit.OK
    assert result.changes == 4  # two files, the folder, the root
    assert (result.stats.files, result.stats.transferred, result.stats.total_bytes) == (4, 2, 2)
    assert seen[-1].percent == 100


def test_a_dry_run_sees_deletions_and_writes_nothing(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    url, target = start_rsyncd(tree=source).url("tree"), tmp_path / "target"
    fetch(url, target)
    assert fetch(url, target, dry_run=True).changes == 0
    (source / "one").unlink()
    assert fetch(url, target, dry_run=True).changes == 1
    assert (target / "one").exists()


def test_a_module_that_is_not_there_says_so(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    url = start_rsyncd(tree=source).url("nope")
    with pytest.raises(UpstreamError) as caught:
        fetch(url, tmp_path / "target")
    assert caught.value.code == 5
    assert caught.value.verdict is Verdict.RETRY
    assert str(caught.value).splitlines()[:2] == [
        f"Syncing from {url} failed: the server has no such module (code 5).",
        "  @ERROR: Unknown module 'nope'",
    ]
    assert str(caught.value).splitlines()[-1] == (
        " Try again later, or name another upstream in cluster.toml ([mirror.repos])."
    )


def test_an_upstream_that_is_down_says_so(closed_port: str, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError) as caught:
        fetch(f"rsync://{closed_port}/tree", tmp_path / "target")
    assert caught.value.why == "no connection to the server (code 10)"
    assert "Connection refused" in caught.value.tail


def test_a_file_that_cannot_be_read_upstream_makes_it_partial(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    assert os.geteuid() == 0, "the server would run as the same user"
    (source / "one").chmod(0o600)  # the server reads as nobody
    with pytest.raises(UpstreamError) as caught:
        fetch(start_rsyncd(tree=source).url("tree"), tmp_path / "target")
    assert caught.value.verdict is Verdict.PARTIAL


def test_a_silent_server_is_given_up(silent_server: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        fetch(f"rsync://{silent_server}/tree", tmp_path / "target", stall_s=1)
    assert time.monotonic() - started < 6
    assert caught.value.verdict is Verdict.RETRY


def test_our_own_watchdog_ends_the_whole_group(silent_server: str, tmp_path: Path) -> None:
    argv = rsync.build_argv(f"rsync://{silent_server}/tree", tmp_path / "target", stall_s=99)
    out = Output(lambda progress: None)
    code, overdue = rsync._run(argv, out, out, stall_s=0.5, timeout_s=30)
    assert overdue == "the server sent nothing for 0.5 s (stall_s)"
    assert code in (RsyncExit.CANCELLED, -signal.SIGTERM, -signal.SIGKILL)
    assert running_rsyncs(silent_server) == []


def test_a_server_that_freezes_in_the_middle_is_given_up(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    (source / "large").write_bytes(os.urandom(4 << 20))
    daemon = start_rsyncd("--bwlimit=1000", tree=source)
    started = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        fetch(
            daemon.url("tree"),
            tmp_path / "target",
            stall_s=1.5,
            on_progress=lambda progress: daemon.signal(signal.SIGSTOP),
        )
    assert time.monotonic() - started < 15
    assert caught.value.verdict is Verdict.RETRY
    assert running_rsyncs(f"127.0.0.1:{daemon.port}/") == []


def test_a_transfer_that_takes_too_long_is_ended(
    start_rsyncd: Start, source: Path, tmp_path: Path
) -> None:
    (source / "large").write_bytes(os.urandom(4 << 20))
    url = start_rsyncd("--bwlimit=500", tree=source).url("tree")
    with pytest.raises(UpstreamError) as caught:
        fetch(url, tmp_path / "target", timeout_s=1)
    assert caught.value.why == "it took longer than 1 s (timeout_s)"


def test_a_full_disk_is_named_and_final(
    start_rsyncd: Start, source: Path, small_disk: Path
) -> None:
    (source / "large").write_bytes(os.urandom(3 << 20))
    with pytest.raises(UpstreamError) as caught:
        fetch(start_rsyncd(tree=source).url("tree"), small_disk / "target")
    assert caught.value.why == f"the disk of {small_disk / 'target'} is full"
    assert caught.value.verdict is Verdict.FINAL


def running_rsyncs(address: str) -> list[str]:
    """The command lines of rsync clients of this address that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text().replace("\0", " ")
        except OSError:
            continue
        if line.startswith(("rsync ", "/usr/bin/rsync ")) and address in line:
            found.append(line)
    return found
