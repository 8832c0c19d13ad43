"""The helpers between builds: asked whether they could help, and looked at while they do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from binhost import builder
from binhost.build import last_result
from binhost.records import Distributed
from distcc.account import Account
from distcc.crew import Crew, account
from distcc.state import Task, tasks
from headnode.errors import ConfigError
from headnode.files import locked
from schedules.cycle import newest_set
from schedules.helpers import PROBE, distcc_folder, helpers_of
from schedules.observer import Observer
from schedules.site import Site


def probe_once(site: Site, class_name: str, *, watch: Observer) -> Crew:
    """Ask every helper to compile, from the builder of a class and with its flags.

    Raises:
        ConfigError: cluster.toml names no helper.
        MirrorError: there is no tree yet, and so no profile. BuildError, BusyError.
    """
    helpers = helpers_of(site, class_name, PROBE)
    if helpers is None:
        raise ConfigError(
            "cluster.toml names no helper.",
            remedy="Set `helpers` and `networks` in [distcc], or build with the headnode alone.",
        )
    shop = site.workshop(class_name, newest_set(site))
    with (
        locked(shop.folder / ".lock", "headnode distcc probe"),
        builder.running(shop) as node,
        helpers.crew(node, watch.say) as crew,
    ):
        return crew


@dataclass(frozen=True, slots=True, kw_only=True)
class Helping:
    """Who compiles what: `tasks` just now, `done` in the build that runs or ran last.

    `last` is the record of the last good build, None where it had no helpers.
    """

    tasks: tuple[Task, ...]
    done: Account
    last: Distributed | None


def look(site: Site, class_name: str, *, now: datetime) -> Helping:
    """Look at the helpers of a class's builds."""
    folder = distcc_folder(site, class_name)
    since = now.timestamp() - site.cluster.distcc.job_timeout_s
    last = last_result(site.state / "build" / class_name)
    return Helping(
        tasks=tuple(tasks(folder, since=since)),
        done=account(folder),
        last=last.distributed if last else None,
    )
