"""`headnode mirror`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from headnode.commands.context import Settings, json_option, now, warn_if_stale
from headnode.console import Watcher, say, show_json, table
from headnode.errors import ExitCode
from headnode.wording import counted
from mirror.audit import Audit
from mirror.distfiles import REMEDY, in_words
from mirror.guard import Waiver
from mirror.status import Report, report
from schedules.cycle import sync_once
from schedules.distfiles import add_once, verify_once

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
        say(
            f"To be fetched by hand (RESTRICT=fetch): {', '.join(done.by_hand)}. Get each as its "
            "ebuild says, then: headnode mirror add FILE"
        )
    if done.recycled:
        say(f"No longer served, since no tree in use names them: {', '.join(done.recycled)}")
    if done.not_mirrored:
        say(f"{len(done.not_mirrored)} files of the trees can be had nowhere; --json has them.")


@mirror.command()
@json_option
@click.pass_obj
def verify(settings: Settings, as_json: bool) -> ExitCode:
    """Read every distfile again, compare it with the Manifests, and fetch damaged ones anew.

    Example: headnode mirror verify
    """
    with Watcher() as watch:
        done = verify_once(settings.site(), now=now(), watch=watch)
    if as_json:
        show_json(done)
    else:
        show_audit(done)
    return ExitCode.FAILED if done.failed else ExitCode.OK


def show_audit(done: Audit) -> None:
    """Print what was found damaged, what came of it, and what no Manifest explains."""
    for name, why in done.damaged.items():
        what = "not served until it is fetched anew" if name in done.failed else "fetched anew"
        say(f"{name}: damaged ({why}), {what}")
    for name in done.older:
        what = "could not be fetched" if name in done.failed else "fetched"
        say(f"{name}: as only an older tree wants it, the newer one {what}")
    if done.unnamed:
        names = (os.fsencode(name).decode(errors="backslashreplace") for name in done.unnamed)
        say(f"No Manifest of a tree in use names: {', '.join(names)}")
    say(
        f"{counted(done.files, 'distfile')} read, {done.size_bytes / 1e6:.1f} MB: "
        f"{len(done.damaged) + len(done.older)} wrong, {len(done.repaired)} repaired."
    )
    if done.failed:
        say(f"Not repaired:{in_words(done.failed)}\n{REMEDY}")


@mirror.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def add(settings: Settings, files: tuple[Path, ...]) -> None:
    """Put distfiles that you fetched yourself (RESTRICT=fetch) in place, once they are checked.

    Example: headnode mirror add ~/Downloads/firmware-1.2.bin
    """
    for name in add_once(settings.site(), files):
        say(f"{name} is in place.")


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
