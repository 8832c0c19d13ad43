"""What is written down goes after so many days ([ledger]): runs, reports, logs."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from blades.inventory import all_blades
from headnode.files import is_regular
from schedules.ledger import pulls, runs
from schedules.ledger.ledger import Ledger
from schedules.site import Site

FORGET_BLADES = timedelta(days=30)  # after they left cluster.toml


def tidy_once(site: Site, ledger: Ledger, *, now: datetime) -> str:
    """Delete what is older than cluster.toml has it kept; what went, in words.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    options = site.cluster.ledger
    logs_before = before(now, options.logs_days)
    names = [blade.name for blade in all_blades(site.cluster)]
    with ledger.store.writing() as connection:
        reports = pulls.forget_reports(
            connection,
            reports_before=before(now, options.reports_days),
            logs_before=logs_before,
        )
        runs_before = before(now, options.runs_days)
        old_runs = runs.forget_runs(connection, runs_before) if runs_before else 0
        pulls.forget_blades(connection, names, now - FORGET_BLADES)
    logs = forget_logs(site.state, logs_before) if logs_before else 0
    return f"{old_runs} runs, {reports} reports and {logs} logs were old"


def before(now: datetime, days: int) -> datetime | None:
    """What is older than that goes; None: nothing does."""
    return now - timedelta(days=days) if days else None


def forget_logs(state: Path, moment: datetime) -> int:
    """Delete logs of builds and jobs, and reports that nobody could read, that are older; how many.

    What ebuilds said (`elog`) stays: it is of packages that are in use, and may be unread.
    """
    folders = [*state.glob("build/*/logs"), state / "logs", state / "reports" / "odd"]
    gone = 0
    for folder in folders:
        for path in folder.rglob("*"):
            is_old = path.lstat().st_mtime < moment.timestamp() and "elog" not in path.parts
            if is_old and is_regular(path):
                path.unlink()
                gone += 1
    return gone
