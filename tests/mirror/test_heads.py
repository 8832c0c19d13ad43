"""What a tree says of its age, and what a stop rule says of a sync: pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from config.model import Repo
from mirror.guard import TreeError, Waiver, check_deletions, check_descent, deletion_limit
from mirror.heads import Head, News, newer, news, only_stamped, parse_head
from mirror.retry import pauses
from mirror.snapshots import prunable
from mirror.status import Status, staleness
from mirror.tree import due

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=30)
EARLIER = NOON - timedelta(days=1)
ENTRIES = ("DATA a 1 BLAKE2B 00", "MANIFEST b/Manifest.gz 2 BLAKE2B 11")
SIGNED = (
    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
    "TIMESTAMP 2026-11-22T12:00:00Z\nMANIFEST b/Manifest.gz 2 BLAKE2B 11\nDATA a 1 BLAKE2B 00\n"
    "-----BEGIN PGP SIGNATURE-----\n\niHUEARYK\n-----END PGP SIGNATURE-----\n"
)


def head(chk: datetime | None, manifest: datetime | None = None, entries: Any = ()) -> Head:
    return Head(chk=chk, manifest=manifest, entries=entries)


def test_a_head_is_read_from_the_stamp_and_the_signed_manifest() -> None:
    assert parse_head("Sun, 22 Nov 2026 12:00:00 +0000\n", SIGNED) == head(NOON, NOON, ENTRIES)
    assert parse_head("", "") == head(None)
    assert parse_head("<html>", "<html>") == head(None, None, ("<html>",))
    assert head(None, NOON).time == NOON
    assert newer(head(NOON, EARLIER), head(EARLIER, NOON)) == head(NOON, NOON)
    assert newer(head(None), head(NOON)) == head(NOON)


@pytest.mark.parametrize(
    ("have", "known", "offered", "expected"),
    [
        (head(NOON), head(NOON), head(NOON), News.NONE),
        (head(NOON), head(LATER), head(LATER), News.NONE),
        (head(NOON), head(NOON), head(LATER), News.MAYBE),
        (head(NOON), head(LATER), head(NOON), News.OLDER),
        (head(NOON), head(NOON), head(None), News.OLDER),
        (head(None), head(None), head(None), News.MAYBE),
        (head(NOON, NOON, ENTRIES),) * 3 + (News.NONE,),
        (head(NOON, NOON, ENTRIES),) * 2 + (head(LATER, LATER, ENTRIES), News.STAMP),
        (head(NOON, None, ENTRIES),) * 2 + (head(LATER, None, ENTRIES), News.STAMP),
        (head(NOON, NOON, ENTRIES),) * 2 + (head(LATER, LATER, ENTRIES[:1]), News.MAYBE),
        (head(NOON, NOON, ENTRIES),) * 2 + (head(NOON, NOON, ENTRIES[:1]), News.MAYBE),
        (head(NOON, NOON, ENTRIES),) * 2 + (head(LATER, EARLIER, ENTRIES), News.OLDER),
        (head(NOON, NOON, ENTRIES),) * 2 + (head(LATER), News.OLDER),
    ],
)
def test_news_is_told_from_two_small_files(
    have: Head, known: Head, offered: Head, expected: News
) -> None:
    assert news(have, known, offered) is expected


def test_what_a_stamping_writes_is_told_from_content() -> None:
    stamped = [
        *("metadata/timestamp.chk", "metadata/timestamp.x", "metadata/timestamp.commit"),
        *("metadata/dtd/timestamp.chk", "metadata/glsa/Manifest", "metadata/Manifest.gz"),
        *("Manifest", "metadata/"),
    ]
    assert only_stamped(stamped[:-1])
    for content in ("app-misc/hello/Manifest", "metadata/layout.conf", "metadata/md5-cache/a/b-1"):
        assert not only_stamped([*stamped[:-1], content])


def test_a_share_a_number_and_a_few_files_bound_what_may_go() -> None:
    repo = Repo(upstreams=("rsync://a/b",), max_deleted_percent=10, max_deleted_files=5000)
    assert deletion_limit(20, repo) == 100
    assert deletion_limit(10_000, repo) == 1000
    assert deletion_limit(170_000, repo) == 5000
    free = repo.model_copy(update={"max_deleted_percent": 0, "max_deleted_files": 0})
    assert deletion_limit(170_000, free) is None
    check_deletions(["x"] * 170_000, 170_000, free, ())
    check_deletions(["x"] * 1000, 10_000, repo, ())
    with pytest.raises(TreeError, match=r"^1001 of 10000 files would be gone"):
        check_deletions(["x"] * 1001, 10_000, repo, ())
    check_deletions(["x"] * 1001, 10_000, repo, {Waiver.DELETIONS})


def test_a_rewritten_history_is_waived_by_its_own_name_only() -> None:
    check_descent(True, "a", "b", ())
    check_descent(False, "a", "b", {Waiver.REWRITTEN})
    with pytest.raises(TreeError):
        check_descent(False, "a", "b", {Waiver.OLDER, Waiver.DELETIONS})


def test_pauses_double_up_to_a_minute_and_half_of_each_is_random() -> None:
    assert list(pauses(8, lambda low, high: high)) == [0, 2, 4, 8, 16, 32, 60, 60]
    assert list(pauses(4, lambda low, high: low)) == [0, 1, 2, 4]
    assert list(pauses(1, lambda low, high: high)) == [0]


def test_snapshots_in_use_and_the_newest_few_are_kept() -> None:
    stamps = ["1", "2", "3", "4", "5"]
    assert prunable(stamps, {"2"}, 2) == ["1", "3"]
    assert prunable(stamps, (), 5) == []
    assert prunable(stamps[::-1], {"1", "2"}, 1) == ["3", "4"]
    assert prunable((), {"1"}, 2) == []


def test_upstreams_are_asked_again_after_the_interval_and_one_s_own_folder_always() -> None:
    good = Status(repo="lab", last_good=NOON)
    rsync = Repo(upstreams=("rsync://a/b",))
    assert not due(good, rsync, NOON + timedelta(hours=19))
    assert due(good, rsync, NOON + timedelta(hours=20))
    assert due(good, rsync.model_copy(update={"min_interval_h": 0.0}), NOON)
    assert due(Status(repo="lab"), rsync, NOON)
    assert due(good, rsync, NOON - timedelta(seconds=1))  # a clock that was ahead once
    assert due(good, Repo.model_validate({"path": "/srv/own"}), NOON)


@pytest.mark.parametrize(
    ("status", "hours", "warning"),
    [
        (Status(repo="lab"), 0, "lab was never synced"),
        (Status(repo="lab", failed="no"), 0, "lab was never synced: no"),
        (Status(repo="lab", last_good=NOON), 48, ""),
        (
            Status(repo="lab", last_good=NOON + timedelta(days=365)),
            0,
            "lab was last synced at 2027-11-22 12:00 UTC, which is still to "
            "come: the clock was set back since",
        ),
        (Status(repo="lab", last_good=NOON), 49, "lab was last synced 49 hours ago"),
        (
            Status(repo="lab", last_good=NOON, failed="No upstream of lab could be synced."),
            96,
            "lab was last synced 4 days ago: No upstream of lab could be synced.",
        ),
        (
            Status(repo="lab", last_good=NOON + timedelta(hours=70), seen_chk=NOON),
            71,
            "lab: its upstream stamped its tree 71 hours ago, and nothing since",
        ),
        (Status(repo="lab", last_good=NOON + timedelta(hours=70), committed=NOON), 71, ""),
    ],
)
def test_a_stale_tree_says_since_when_and_why(status: Status, hours: int, warning: str) -> None:
    repo = Repo(upstreams=("rsync://a/b",))
    now = NOON + timedelta(hours=hours)
    assert staleness(status, repo, 48, now) == warning
    assert staleness(status, repo, 0, now) == ""
