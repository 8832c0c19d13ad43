"""`headnode mirror`."""

from __future__ import annotations

import click

from headnode.commands.context import Settings, json_option, now, warn_if_stale
from headnode.console import Watcher, say, show_json, table
from mirror.guard import Waiver
from mirror.status import Report, report
from schedules.cycle import sync_once

MIB = 1 << 20


@click.group()
def mirror() -> None:
    """Copy the trees and the distfiles from upstream, once for all blades.

    Example: headnode mirror sync
    """


@mirror.command()
@click.option("--now", "ask", is_flag=True, help="Ask upstreams that were asked lately, too.")
@click.option(
    "--waive",
    "waived",
    multiple=True,
    type=click.Choice([each.value for each in Waiver]),
    help="Let a guard pass this once; may be given several times.",
)
@json_option
@click.pass_obj
def sync(settings: Settings, ask: bool, waived: tuple[str, ...], as_json: bool) -> None:
    """Sync the trees, and fetch the distfiles that the sets need.

    Example: headnode mirror sync --now
    """
    site = settings.site()
    try:
        with Watcher() as watch:
            done = sync_once(
                site, now=now(), watch=watch, ask=ask, waived={Waiver(each) for each in waived}
            )
    finally:
        warn_if_stale(site)
    if as_json:
        show_json(done)
        return
    trees = f"new: {', '.join(done.changed)}" if done.changed else "unchanged"
    say(
        f"Trees {trees} (snapshot set {done.snapshots}). "
        f"Distfiles: {len(done.fetched)} fetched, {done.present} there already."
    )
    if done.by_hand:
        say(f"To be fetched by hand (RESTRICT=fetch): {', '.join(done.by_hand)}")


@mirror.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show each repository's last sync, its age, and what failed.

    Example: headnode mirror status --json
    """
    site = settings.site()
    reports = report(site.state, site.cluster, now())
    warn_if_stale(site)
    if as_json:
        show_json(reports)
        return
    table(
        ("repository", "snapshot", "age", "files", "MiB", "last good", "last try", "upstream"),
        [row for each in reports for row in _rows(each)],
    )


def _rows(each: Report) -> list[tuple[str, ...]]:
    """The repository's row, and one for each upstream that was asked."""
    record = each.status
    first = (
        each.repo,
        each.snapshot or "-",
        f"{each.age_h:.1f} h" if each.age_h is not None else "-",
        str(record.files or "-"),
        f"{record.size_bytes / MIB:.1f}" if record.size_bytes else "-",
        f"{record.last_good:%Y-%m-%d %H:%M}" if record.last_good else "never",
        f"{record.last_try:%Y-%m-%d %H:%M}" if record.last_try else "never",
        _doing(each),
    )
    return [
        first,
        *(
            (
                *("",) * 5,
                f"{tried.last_good:%Y-%m-%d %H:%M}" if tried.last_good else "never",
                f"{tried.last_try:%Y-%m-%d %H:%M}",
                f"{upstream}: {tried.failed or 'good'}",
            )
            for upstream, tried in record.upstreams.items()
        ),
    ]


def _doing(each: Report) -> str:
    """How far a sync that runs is."""
    at = each.running
    if at is None:
        return ""
    return f"syncing: {at.percent} %, {at.rate_bps / MIB:.1f} MiB/s, {at.eta_s} s to go"
