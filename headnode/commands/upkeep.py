"""`headnode generations verify` and `gc`."""

from __future__ import annotations

from pathlib import Path

import click

from binhost.repair import Repaired, repair
from binhost.verify import Verified, in_rings
from binhost.verify import verify as verify_all
from headnode.commands.context import Settings, chosen_class, class_option, json_option, now
from headnode.console import Watcher, say, show_json
from headnode.errors import ExitCode
from headnode.wording import counted
from schedules.upkeep import gc_once


@click.command()
@click.argument("generations", metavar="[GENERATION]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every generation, not only what rings have.")
@click.option("--repair", "mend", is_flag=True, help="Put back what can be, by its digest.")
@click.option(
    "--from",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For --repair: a folder to look in besides, such as a copy of a blade's package cache.",
)
@class_option
@json_option
@click.pass_obj
def verify(
    settings: Settings,
    generations: tuple[str, ...],
    every: bool,
    mend: bool,
    folders: tuple[Path, ...],
    class_name: str | None,
    as_json: bool,
) -> int:
    """Read every file of what rings have (or of the named generations), and compare digests.

    Exit code 1 if anything is damaged or missing, and not repaired.

    Example: headnode generations verify --all --repair --from blade07-cache
    """
    site = settings.site()
    binhost = site.binhost(chosen_class(site, class_name))
    known = binhost.generations
    numbers = [known.find(word).number for word in generations] or in_rings(binhost)
    with Watcher() as watch:
        report = verify_all(
            binhost,
            known.numbers() if every else numbers,
            lambda done, total: watch.amount("packages", done, total, "B"),
        )
    mended = repair(binhost, report.findings, folders) if mend and report.findings else []
    left = [each for each in mended if not each.source] if mend else list(report.findings)
    if as_json:
        show_json({"verified": report, "repaired": mended})
    else:
        _show(report, mended)
    return ExitCode.FAILED if left else ExitCode.OK


def _show(report: Verified, mended: list[Repaired]) -> None:
    sources = {each.finding: each.source for each in mended}
    for each in report.findings:
        done = ""
        if mended:
            done = f"; put back from {sources[each]}" if sources[each] else "; NOT put back"
        say(f"{each}{done}")
    numbers = ", ".join(map(str, report.generations)) or "none"
    found = (
        f"{counted(len(report.findings), 'file is', 'files are')} damaged or missing"
        if report.findings
        else "all good"
    )
    say(
        f"Generations {numbers}: {counted(report.packages, 'package')}, {report.size_bytes} bytes: "
        f"{found}."
    )


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@class_option
@json_option
@click.pass_obj
def gc(settings: Settings, dry_run: bool, class_name: str | None, as_json: bool) -> None:
    """Delete the generations and packages that no ring, tag or recent blade needs.

    [binhost] keep_generations and keep_days in cluster.toml say what stays besides.

    Example: headnode generations gc --dry-run
    """
    site = settings.site()
    name = chosen_class(site, class_name)
    with Watcher() as watch:
        plan = gc_once(site, name, now=now(), dry_run=dry_run, watch=watch)
    if as_json:
        show_json(plan)
        return
    for line in plan.lines():
        say(line)
