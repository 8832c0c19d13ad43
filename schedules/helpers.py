"""The helpers of a class's builds: distcc's crew, as the binhost knows help.

The builder's DISTCC_DIR lies among its logs, since both are for looking into afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from binhost.builder import flags_of
from binhost.helped import Help, Report
from binhost.records import Distributed
from config.model import Distcc
from config.portage import LOGDIR
from distcc.account import Account
from distcc.crew import Crew, Yard, account, assembled
from headnode.node.running import Node
from schedules.site import Site

BUILD, PROBE = "distcc", "distcc-probe"


def distcc_folder(site: Site, class_name: str, name: str = BUILD) -> Path:
    """The DISTCC_DIR of a class's builder, as the headnode sees it."""
    return site.state / "build" / class_name / "logs" / name


def helpers_of(site: Site, class_name: str, name: str = BUILD) -> ClassHelpers | None:
    """Who helps to build a class; None where cluster.toml names nobody.

    `name` keeps a probe apart from the build whose log is to stay.
    """
    if site.cluster.distcc.helpers is None:
        return None
    return ClassHelpers(
        options=site.cluster.distcc,
        folder=distcc_folder(site, class_name, name),
        chost=site.klass(class_name).chost,
        cores=site.jobs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassHelpers:
    """The helpers of cluster.toml for one class's builder."""

    options: Distcc
    folder: Path
    chost: str
    cores: int

    @contextmanager
    def crew(self, node: Node, report: Report) -> Iterator[Crew]:
        """Probe the helpers from the builder `node`, and keep them in reach for the block."""
        yard = Yard(
            node=node,
            folder=self.folder,
            inside=PurePosixPath(LOGDIR, self.folder.name),
            chost=self.chost,
            flags=flags_of(node),
            cores=self.cores,
        )
        with assembled(self.options, yard, report) as crew:
            yield crew

    @contextmanager
    def join(self, node: Node, report: Report) -> Iterator[Help]:
        """Help the builder `node` for the block."""
        with self.crew(node, report) as crew:
            for line in told(crew):
                report(line)
            yield Help(
                variables=crew.variables,
                prefix=crew.prefix,
                account=lambda: distributed(crew, account(self.folder)),
            )


def told(crew: Crew) -> list[str]:
    """What is said of a crew before it starts."""
    lines = [f"{name} is left out: {reason}." for name, reason in crew.left_out.items()]
    if crew.helpers:
        lines.append(f"{len(crew.helpers)} helpers compile: make {crew.make_options}")
    return lines


def distributed(crew: Crew, done: Account) -> Distributed:
    """The record of what a crew did. Pure."""
    return Distributed(
        jobs={name: done.jobs.get(name, 0) for name in crew.helpers},
        failures=dict(done.failures),
        left_out=crew.left_out,
        local=done.local,
        fallbacks=done.fallbacks,
        faulty=done.faulty,
        mode=crew.mode.value,
        pump=crew.pump,
        unpumped=done.unpumped,
        make_options=crew.make_options,
    )
