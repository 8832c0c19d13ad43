"""The gateways of [rollout]: whether each is reached, has ClusterShell, and knows the blades."""

from __future__ import annotations

import re
from collections.abc import Iterator

import ClusterShell

from blades.gateway_keys import hosts_digest, look_line
from blades.inventory import all_gateways
from blades.transport import SSH_FAILED, Outcome, run_on
from headnode.doctor.findings import Finding, good, problem, warning
from schedules.site import Site

LOOK_S = 60.0


def gateways(site: Site) -> Iterator[Finding]:
    """Whether rollouts get through the gateways, if there are any."""
    names = all_gateways(site.cluster)
    if not names:
        yield good("none: the headnode reaches the blades itself")
        return
    options = site.rollout
    way = {"gateways": None, "ssh_options": options.gateway_options, "timeout_s": LOOK_S}
    line = look_line(options.gateway_python)
    outcomes = run_on(names, line, options.model_copy(update=way))
    digest = hosts_digest(site.wallet) if site.wallet.key.exists() else ""
    ours = str(ClusterShell.__version__)
    for name in names:
        yield judge(name, outcomes.get(name), options.gateway_python, ours, digest)


def judge(name: str, outcome: Outcome | None, python: str, ours: str, digest: str) -> Finding:
    """What a gateway's answer to `look_line` comes to. Pure.

    `ours` is the headnode's ClusterShell, `digest` that of its host keys; empty: gateways have the
    administrator's own.
    """
    said = outcome.output.strip() if outcome else ""
    last = said.splitlines()[-1] if said else "no answer"
    if outcome is None or outcome.code in (None, SSH_FAILED):
        own = f"headnode blades enrol {name}" if digest else "may this user enter by ssh?"
        return problem(f"{name}: not reached ({last})", f"is it on? {own}")
    found = re.search(r"^ClusterShell (\S+)$", said, re.MULTILINE)
    if not found:
        return problem(
            f"{name}: {python} there has no ClusterShell",
            "install dev-python/clustershell there, or name the Python that has it: [rollout] "
            "gateway_python",
        )
    if digest and digest not in said:
        return warning(
            f"{name}: it has other host keys of blades than the headnode",
            f"headnode blades enrol {name}",
        )
    if found[1] != ours:
        return warning(
            f"{name}: ClusterShell {found[1]}, and the headnode has {ours}",
            "the same version on both, if rollouts fail there",
        )
    return good(f"{name}: ClusterShell {found[1]}")
