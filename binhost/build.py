"""One build: what the sets need and the pool lacks, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath

from binhost import builder, rebuild
from binhost.build_ids import cpv_and_id
from binhost.builder import Workshop
from binhost.emerge import (
    Failure,
    Step,
    build_argv,
    lacking,
    parse_failures,
    plain,
    progress_line,
    unfetched,
)
from binhost.entry import name_of
from binhost.helped import Helped, Helpers, Report
from binhost.index import cp_of
from binhost.pool import package_names, remove_package
from binhost.records import BuildResult, Configuration, read, save
from config.portage import ETC, LOGDIR
from headnode.errors import BuildError, CommandError, PublishError
from headnode.node.running import Node
from headnode.process import last_lines
from headnode.wording import counted


def pool_name(step: Step) -> str:
    """The name in the pool (and below PKGDIR) of a binary that emerge chose. Pure."""
    if step.build_id is None:
        raise ValueError(f"{step.cpv} is no binary")
    return name_of(step.cpv, step.build_id)


def last_result(folder: Path) -> BuildResult | None:
    """The last good build in a class's build folder; None as well if its record is damaged."""
    try:
        return read(folder / "result.json", BuildResult)
    except PublishError:
        return None


def still_good(result: BuildResult | None, shop: Workshop, snapshots: str) -> bool:
    """Whether nothing that a build depends on has changed since `result`."""
    return (
        result is not None
        and result.snapshots == snapshots
        and result.configuration == configuration_of(shop)
        and result.blade == blade_configuration_of(shop)
        and all(_present(shop, name) for name in result.packages)
    )


def _present(shop: Workshop, name: str) -> bool:
    return (shop.pool.folder / name).is_file() or (shop.staging / name).is_file()


def configuration_of(shop: Workshop) -> Configuration:
    """The Portage configuration that the builder has, as a record.

    Less the keys that packages are checked against: what is built does not depend on them.
    """
    rendered = shop.configuration
    files = {path: text for path, text in rendered.files.items() if path.startswith(f"{ETC}/")}
    return Configuration(files=files, links=dict(rendered.links))


def blade_configuration_of(shop: Workshop) -> Configuration | None:
    """The Portage configuration that blades have with what is built, as a record."""
    if shop.blade is None:
        return None
    return Configuration(files=dict(shop.blade.files), links=dict(shop.blade.links))


def build(
    shop: Workshop,
    *,
    class_name: str,
    snapshots: str,
    atoms: tuple[str, ...],
    jobs: int,
    timeout_s: float,
    fresh: bool = False,
    helpers: Helpers | None = None,
    report: Report = lambda line: None,
) -> BuildResult:
    """Build what @blade needs and the pool lacks; nothing is started where nothing changed.

    `helpers` are asked to compile, where there is something to build.

    Raises:
        BuildError: a set cannot be resolved, or packages did not build. What was built stays in
            staging, and the next build goes on from there.
    """
    last = last_result(shop.folder)
    if not fresh and last is not None and still_good(last, shop, snapshots):
        report("Nothing changed since the last build.")
        return last.model_copy(update={"built": (), "seconds": 0.0, "distributed": None})
    started = time.monotonic()
    with builder.running(shop, fresh=fresh) as node, Helped(helpers, node, report) as helped:
        emerge = partial(_emerge, node, shop, helped, jobs=jobs, timeout_s=timeout_s, report=report)
        plan = builder.closure(node)
        if wanted := lacking(plan):
            report(f"{counted(len(wanted), 'package')} to build: {', '.join(wanted)}")
            emerge(wanted)
            plan = builder.closure(node)
        again, packages = _build_again(node, shop, plan, emerge, report)
        result = BuildResult(
            class_name=class_name,
            snapshots=snapshots,
            atoms=atoms,
            header=builder.read_header(node),
            packages=packages,
            built=tuple(dict.fromkeys((*wanted, *again))),
            configuration=configuration_of(shop),
            blade=blade_configuration_of(shop),
            finished=datetime.now(UTC),
            seconds=round(time.monotonic() - started, 1),
            distributed=helped.distributed(),
        )
    builder.check_root(shop)
    save(shop.folder / "result.json", result)
    return result


def drop_outdated(shop: Workshop, packages: Iterable[str]) -> None:
    """Drop from staging what no build from the newest trees, which `shop` has, takes any more.

    emerge packs also what was only needed to build, which is never published. It is kept for a
    builder that starts anew, for as long as a tree has that version.
    """
    for name in package_names(shop.staging).difference(packages):
        cpv, _ = cpv_and_id(name)
        if not builder.has_ebuild(shop, cpv):
            remove_package(shop.staging / name)


def _build_again(
    node: Node, shop: Workshop, plan: list[Step], emerge: Callable[..., None], report: Report
) -> tuple[list[str], tuple[str, ...]]:
    """Build what links to libraries that moved, until nothing does; with the closure's packages.

    Each package is built again once at most: where that did not help, the gate `soname` says so.
    """
    again: list[str] = []
    while True:
        packages = _complete(plan)
        moved = rebuild.left_behind(shop, packages)
        kept = [step.cpv for step in rebuild.preserved(shop, node)]
        todo = [cpv for cpv in dict.fromkeys((*moved, *kept)) if cpv not in again]
        if not todo:
            return again, packages
        for cpv in todo:
            why = f"it links to {', '.join(moved[cpv])}" if cpv in moved else "@preserved-rebuild"
            report(f"To build again: {cpv} ({why})")
        emerge(todo, anew=[cp_of(cpv) for cpv in todo])
        again += todo
        plan = builder.closure(node)


def _complete(plan: list[Step]) -> tuple[str, ...]:
    missing = lacking(plan)
    if missing:
        raise BuildError(
            f"emerge built all it was asked to, and still has no binary for {', '.join(missing)}.",
            remedy="Look at the logs of these packages; `headnode build --fresh` starts over.",
        )
    return tuple(sorted(pool_name(step) for step in plan))


def _emerge(
    node: Node,
    shop: Workshop,
    helped: Helped,
    wanted: list[str],
    *,
    jobs: int,
    timeout_s: float,
    report: Report,
    anew: Sequence[str] = (),
) -> None:
    before = package_names(shop.staging)
    with (shop.logs / "emerge.out").open("w", buffering=1) as out:

        def show(line: str) -> None:
            print(line, file=out)
            if text := progress_line(line):
                report(text)

        argv = helped.argv(build_argv(wanted, jobs=jobs, anew=anew))
        try:
            done = node.run(argv, timeout_s=timeout_s, check=False, on_line=show)
        except CommandError as error:
            raise BuildError(
                f"emerge was ended: it took longer than {timeout_s:g} s. Log: {out.name}.",
                remedy="What was built stays. Run headnode build again; [build] timeout_s in "
                "cluster.toml is the limit.",
            ) from error
    if done.code:
        failures = parse_failures(done.output)
        _drop_failed(shop.staging, failures, before)
        raise explain_failure(failures, done.tail, shop.logs)


def _drop_failed(staging: Path, failures: Iterable[Failure], before: set[str]) -> None:
    """Drop what was packed and then failed to install: it would pass for good the next time."""
    failed = {failure.package for failure in failures}
    for name in package_names(staging) - before:
        path = PurePosixPath(name)
        if f"{path.parts[0]}/{path.name.rpartition('-')[0]}" in failed:
            (staging / name).unlink()


def explain_failure(failures: list[Failure], tail: str, logs: Path) -> BuildError:
    """The error for packages that did not build: each with its phase, its log and its end."""
    again = "What was built stays. Correct the cause and run headnode build again."
    if not failures:
        return BuildError(
            f"emerge failed without naming a package:\n{tail}",
            remedy=f"{again} Log: {logs / 'emerge.out'}.",
        )
    parts: list[str] = []
    absent: list[str] = []
    for failure in failures:
        log = _log_path(failure, logs)
        text = plain(log.read_text(errors="replace")) if log and log.is_file() else ""
        files = unfetched(text)
        absent += files
        phase = failure.phase or ("fetch" if files else "unknown")
        said = f" The mirror has no {', '.join(files)}." if files else ""
        parts.append(
            f"{failure.package} did not build: its {phase} phase failed.{said} "
            f"Log: {log or 'none'}. It ends:\n{last_lines(text)}"
        )
    if absent:
        fetch = "headnode mirror sync fetches what is missing."
        again = f"{fetch} {again}"
    return BuildError("\n".join(parts), remedy=f"{again}")


def _log_path(failure: Failure, logs: Path) -> Path | None:
    """Where the log that emerge names lies on the headnode."""
    path = PurePosixPath(failure.log)
    return logs / path.relative_to(LOGDIR) if path.is_relative_to(LOGDIR) else None
