"""What stops a sync though rsync is content: decided from figures, with the way round it. Pure.

A guard that was right a thousand times is wrong once: upstream does drop half a tree, or goes back
on purpose. So each can be waived, by name, for one sync.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum

from config.model import Repo
from headnode.errors import MirrorError
from mirror.heads import CHK, Head

# In a small overlay one package is a large share of the files.
FEW = 100
SHOWN = 3


class Waiver(StrEnum):
    """A guard that a person may waive."""

    OLDER = "older"
    DELETIONS = "deletions"
    REWRITTEN = "rewritten"


class TreeError(MirrorError):
    """An upstream answers, and its tree is not to be served: `why`, without the upstream's name.

    `passing`: the same upstream may be right a little later, such as one that is just updated.
    """

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.passing = passing


def _way_round(waiver: Waiver) -> str:
    return f"`headnode mirror sync --waive {waiver}` takes it all the same"


def check_age(known: Head, offered: Head, waived: Collection[Waiver]) -> None:
    """Check that a tree is not older than the newest that was seen.

    Raises:
        TreeError: it is, or it has lost its stamp, and that is not waived.
    """
    if Waiver.OLDER in waived:
        return
    for name, before, after in (
        (CHK, known.chk, offered.chk),
        ("the TIMESTAMP of its Manifest", known.manifest, offered.manifest),
    ):
        if before is None or (after is not None and after >= before):
            continue
        said = f"says {_shown(after)}" if after else "is gone"
        raise TreeError(
            f"it went back: {name} {said}, and {_shown(before)} was seen before; "
            f"{_way_round(Waiver.OLDER)}"
        )


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def check_deletions(
    gone: Sequence[str], files_before: int, repo: Repo, waived: Collection[Waiver]
) -> None:
    """Check that not too many of `files_before` are gone (`gone` has their names).

    Raises:
        TreeError: more than the repository's options allow are, and that is not waived.
    """
    limit = deletion_limit(files_before, repo)
    if limit is None or len(gone) <= limit or Waiver.DELETIONS in waived:
        return
    shown = ", ".join(gone[:SHOWN]) + (", …" if len(gone) > SHOWN else "")
    raise TreeError(
        f"{len(gone)} of {files_before} files would be gone ({shown}), and {limit} may be "
        f"(max_deleted_percent, max_deleted_files); {_way_round(Waiver.DELETIONS)}"
    )


def deletion_limit(files_before: int, repo: Repo) -> int | None:
    """How many of `files_before` may be gone in one sync; None if that is not limited."""
    limits = []
    if repo.max_deleted_percent:
        limits.append(max(FEW, files_before * repo.max_deleted_percent // 100))
    if repo.max_deleted_files:
        limits.append(repo.max_deleted_files)
    return min(limits, default=None)


def check_descent(descends: bool, before: str, after: str, waived: Collection[Waiver]) -> None:
    """Check that a git upstream's commit `after` came from `before`, which is served.

    Raises:
        TreeError: it did not, and that is not waived.
    """
    if not descends and Waiver.REWRITTEN not in waived:
        raise TreeError(
            f"its history was rewritten: commit {after[:12]} does not descend from {before[:12]}, "
            f"which is served; {_way_round(Waiver.REWRITTEN)}"
        )
