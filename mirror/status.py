"""What the mirror remembers of each repository: last try, last good, what failed and why.

::

    <state>/mirror/status/<repo>.json           written at the end of every sync, good or bad
    <state>/mirror/status/<repo>.progress.json  how far the running sync is; gone when it ends

Only a record: a sync is as safe without it, but for two things that are known from here alone, the
newest stamp that was seen over an unchanged tree, and that the metadata cache is of our making.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from config.model import Cluster, Repo
from headnode.files import write_atomic
from headnode.node.running import start_time
from mirror.heads import Head
from mirror.snapshots import current_snapshot

log = logging.getLogger(__name__)


class Record(BaseModel):
    """JSON that is read back strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Tried(Record):
    """One upstream: when it was asked, when it last was good, why it failed (empty: it did not)."""

    last_try: datetime
    last_good: datetime | None = None
    failed: str = ""


class Status(Record):
    """What is remembered of one repository.

    `seen_chk` and `seen_manifest` are the newest stamps of upstream that the served tree is as
    fresh as. `size_bytes` and `files` are the tree's, `received_bytes` what the last transfer took.
    """

    repo: str
    last_try: datetime | None = None
    last_good: datetime | None = None
    seen_chk: datetime | None = None
    seen_manifest: datetime | None = None
    commit: str = ""
    committed: datetime | None = None
    own_cache: bool = False
    files: int = 0
    size_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0
    failed: str = ""
    upstreams: dict[str, Tried] = {}

    @property
    def seen(self) -> Head:
        """The stamps as a head."""
        return Head(chk=self.seen_chk, manifest=self.seen_manifest)


class Running(Record):
    """How far a sync is: bytes, percent, bytes a second, seconds to go.

    `pid` and `started` (see `headnode.node.running`) are its process, which may have been killed
    since.
    """

    upstream: str
    size_bytes: int
    percent: int
    rate_bps: float
    eta_s: int
    pid: int
    started: int


class Report(Record):
    """One repository as `mirror status` shows it; `age_h` is the tree's, in hours.

    `warning` says why it is stale, and is empty while it is not.
    """

    repo: str
    snapshot: str | None
    age_h: float | None
    warning: str
    status: Status
    running: Running | None


def path_of(state: Path, name: str) -> Path:
    """Where the record of a repository is."""
    return state / "mirror" / "status" / f"{name}.json"


def progress_path(state: Path, name: str) -> Path:
    """Where the progress of a running sync is."""
    return state / "mirror" / "status" / f"{name}.progress.json"


def read_status(state: Path, name: str) -> Status:
    """Read what is remembered of a repository; an empty record if none can be read."""
    path = path_of(state, name)
    try:
        return Status.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be read, and is begun anew: %s", path, error)
    return Status(repo=name)


def write_status(state: Path, status: Status) -> None:
    """Keep the record. A disk that is full loses the record and not the sync."""
    _write(path_of(state, status.repo), status)


def write_progress(state: Path, name: str, running: Running | None) -> None:
    """Keep how far a sync is; None: it ended."""
    path = progress_path(state, name)
    if running:
        _write(path, running)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _write(path: Path, record: Record) -> None:
    try:
        write_atomic(path, record.model_dump_json(indent=1) + "\n")
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)


def read_progress(state: Path, name: str) -> Running | None:
    """How far the running sync of a repository is; None if none is, or none says so."""
    with contextlib.suppress(OSError, ValidationError):
        found = Running.model_validate_json(progress_path(state, name).read_bytes())
        return found if start_time(found.pid) == found.started else None
    return None


def stamped(status: Status, repo: Repo) -> datetime | None:
    """When upstream stamped what is served; with a key only by what that signed. Pure.

    timestamp.chk is not signed: whoever answers in upstream's place can put today's beside the
    signed Manifest of an old state, and hold the tree there.
    """
    return status.seen_manifest if repo.openpgp_key else status.seen.time


def tree_time(status: Status, repo: Repo) -> datetime | None:
    """When upstream made what is served, as far as it says so."""
    return stamped(status, repo) or status.committed


def staleness(status: Status, repo: Repo, stale_h: float, now: datetime) -> str:
    """Say why a repository is stale, or nothing. Pure.

    A tree with a stamp is stamped anew every half hour by Gentoo, and so an old stamp means a
    server that was forgotten; a git tree may rest for weeks, and only an unanswered sync counts.
    """
    if not stale_h or repo.path is not None:
        return ""
    limit = timedelta(hours=stale_h)
    if status.last_good is None:
        return f"{status.repo} was never synced" + (f": {status.failed}" if status.failed else "")
    if status.last_good > now:
        return (
            f"{status.repo} was last synced at {status.last_good:%Y-%m-%d %H:%M} UTC, which is "
            "still to come: the clock was set back since"
        )
    if now - status.last_good > limit:
        why = f": {status.failed}" if status.failed else ""
        return f"{status.repo} was last synced {_ago(now - status.last_good)}{why}"
    made = stamped(status, repo)
    if made and now - made > limit:
        how = "signed" if repo.openpgp_key else "stamped"
        return f"{status.repo}: its upstream {how} its tree {_ago(now - made)}, and nothing since"
    return ""


def _ago(since: timedelta) -> str:
    hours = since.total_seconds() / 3600
    return f"{hours / 24:.0f} days ago" if hours >= 72 else f"{hours:.0f} hours ago"


def report(state: Path, cluster: Cluster, now: datetime) -> list[Report]:
    """What `mirror status` shows: one report for each configured repository."""
    return [
        _report(state, name, repo, cluster.mirror.stale_h, now)
        for name, repo in cluster.mirror.repos.items()
    ]


def _report(state: Path, name: str, repo: Repo, stale_h: float, now: datetime) -> Report:
    status = read_status(state, name)
    snapshot = current_snapshot(state, name)
    made = tree_time(status, repo)
    return Report(
        repo=name,
        snapshot=snapshot.stamp if snapshot else None,
        age_h=round((now - made).total_seconds() / 3600, 2) if made else None,
        warning=staleness(status, repo, stale_h, now),
        status=status,
        running=read_progress(state, name),
    )


def warnings(state: Path, repos: Mapping[str, Repo], stale_h: float, now: datetime) -> list[str]:
    """Why each stale repository is stale, for the end of every command that uses the trees."""
    said = (staleness(read_status(state, name), repo, stale_h, now) for name, repo in repos.items())
    return [each for each in said if each]
