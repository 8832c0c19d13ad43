"""`headnode doctor`: everything that a newcomer trips over, looked at, with what to do about it.

`findings` is what a check says; `machine`, `programs`, `network`, `trust`, `cluster` and `gateways`
are the checks, each a function of the site that returns findings and changes nothing. A check that
cannot be made is a finding too, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from headnode.doctor import cluster, gateways, machine, network, programs, trust
from headnode.doctor.findings import Finding, problem
from headnode.errors import HeadnodeError
from schedules.site import Site

Check = Callable[[Site], Iterable[Finding]]
CHECKS: dict[str, Check] = {
    "kernel": machine.kernel,
    "disk": machine.disk,
    "clock": machine.clock,
    "programs": programs.programs,
    "portage": programs.portage,
    "distcc": programs.distcc,
    "ports": network.ports,
    "name": network.name,
    "keys": trust.keys,
    "mirror": cluster.mirror,
    "make.conf": cluster.make_conf,
    "deployments": cluster.deployments,
    "gateways": gateways.gateways,
    "blades": cluster.blades,
}


def examine(site: Site, names: Iterable[str] = CHECKS) -> Iterator[tuple[str, list[Finding]]]:
    """Make the checks one after the other: each one's name with what it found."""
    for name in names:
        try:
            yield name, list(CHECKS[name](site))
        except HeadnodeError as error:
            yield name, [problem(f"could not be looked at: {error.what}", error.remedy)]
        except OSError as error:
            yield name, [problem(f"could not be looked at: {error}", "is this the right user?")]
