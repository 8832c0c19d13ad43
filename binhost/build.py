"""One build: what the sets need and the pool lacks, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from binhost import builder
from binhost.builder import Workshop
from binhost.emerge import (
    Failure,
    Step,
    build_argv,
    lacking,
    parse_failures,
    progress_line,
)
from binhost.records import BuildResult, Configuration, read, save
from config.portage import LOGDIR
from headnode.errors import BuildError, PublishError
from headnode.node import Node
from headnode.process import last_lines

Report = Callable[[str], None]


def pool_name(step: Step) -> str:
    """The name in the pool (and below PKGDIR) of a binary that emerge chose. Pure.

    Source: portage.dbapi.bintree, `_allocate_filename_multi`.
    """
    from portage.versions import cpv_getkey

    version = PurePosixPath(step.cpv).name
    return f"{cpv_getkey(step.cpv)}/{version}-{step.build_id}.gpkg.tar"


def last_result(folder: Path) -> BuildResult | None:
    """The last good build in a class's build folder."""
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
        and all(_present(shop, name) for name in result.packages)
    )


def _present(shop: Workshop, name: str) -> bool:
    return (shop.pool.folder / name).is_file() or (shop.staging / name).is_file()


def configuration_of(shop: Workshop) -> Configuration:
    """The Portage configuration that the builder has, as a record."""
    rendered = shop.configuration
    return Configuration(files=dict(rendered.files), links=dict(rendered.links))


def build(
    shop: Workshop,
    *,
    class_name: str,
    snapshots: str,
    atoms: tuple[str, ...],
    jobs: int,
    timeout_s: float,
    fresh: bool = False,
    report: Report = lambda line: None,
) -> BuildResult:
    """Build what @blade needs and the pool lacks; nothing is started where nothing changed.

    Raises:
        BuildError: a set cannot be resolved, or packages did not build. What was built stays in
            staging, and the next build goes on from there.
    """
    last = last_result(shop.folder)
    if not fresh and last is not None and still_good(last, shop, snapshots):
        report("Nothing changed since the last build.")
        return last.model_copy(update={"built": ()})
    started = time.monotonic()
    with builder.running(shop, fresh=fresh) as node:
        plan = builder.closure(node)
        wanted = lacking(plan)
        if wanted:
            report(f"{len(wanted)} packages to build: {', '.join(wanted)}")
            _emerge(node, shop, wanted, jobs=jobs, timeout_s=timeout_s, report=report)
        result = BuildResult(
            class_name=class_name,
            snapshots=snapshots,
            atoms=atoms,
            header=builder.read_header(node),
            packages=_complete(builder.closure(node) if wanted else plan),
            built=tuple(wanted),
            configuration=configuration_of(shop),
            finished=datetime.now(UTC),
            seconds=round(time.monotonic() - started, 1),
        )
    save(shop.folder / "result.json", result)
    return result


def _complete(plan: list[Step]) -> tuple[str, ...]:
    missing = lacking(plan)
    if missing:
        raise BuildError(
            f"emerge built all it was asked to, and still has no binary for {', '.join(missing)}.",
            remedy="Look at the logs of these packages; `headnode build --fresh` starts over.",
        )
    return tuple(sorted(pool_name(step) for step in plan))


def _emerge(
    node: Node, shop: Workshop, wanted: list[str], *, jobs: int, timeout_s: float, report: Report
) -> None:
    def show(line: str) -> None:
        if text := progress_line(line):
            report(text)

    done = node.run(build_argv(wanted, jobs=jobs), timeout_s=timeout_s, check=False, on_line=show)
    (shop.logs / "emerge.out").write_text(done.output)
    if done.code:
        raise explain_failure(parse_failures(done.output), done.tail, shop.logs)


def explain_failure(failures: list[Failure], tail: str, logs: Path) -> BuildError:
    """The error for packages that did not build: each with its phase, its log and its end."""
    if not failures:
        return BuildError(f"emerge failed without naming a package:\n{tail}")
    parts = [_describe(failure, logs) for failure in failures]
    return BuildError(
        "\n".join(parts),
        remedy="\nWhat was built stays. Correct the cause and run headnode build again.",
    )


def _describe(failure: Failure, logs: Path) -> str:
    log = logs / PurePosixPath(failure.log).relative_to(LOGDIR) if failure.log else None
    text = log.read_text(errors="replace") if log and log.is_file() else ""
    return (
        f"{failure.package} did not build: its {failure.phase} phase failed. "
        f"Log: {log or 'none'}. It ends:\n{last_lines(text)}"
    )
