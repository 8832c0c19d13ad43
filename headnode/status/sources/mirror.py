"""How fresh the mirror is, from what it remembers of each repository."""

from __future__ import annotations

from datetime import datetime

from headnode.status.model import Repo
from mirror.status import Report, report
from schedules.site import Site


def repos(site: Site, now: datetime) -> list[Repo]:
    """Every configured repository."""
    return [_repo(each) for each in report(site.state, site.cluster, now)]


def _repo(each: Report) -> Repo:
    return Repo(
        name=each.repo,
        snapshot=each.snapshot,
        age_h=each.age_h,
        last_good=each.status.last_good,
        last_try=each.status.last_try,
        warning=each.warning,
        percent=each.running.percent if each.running else None,
        eta_s=each.running.eta_s if each.running else None,
    )
