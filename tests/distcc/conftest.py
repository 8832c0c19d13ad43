"""Helpers in a lab: real distccd on its blades, started as OpenRC starts it there."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headnode.process import environment
from headnode.rehearsal import PROFILE, Rehearsal

LOG = "/var/log/distccd.log"
USER = "distccd"  # Debian's
# /etc/init.d/distccd of sys-devel/distcc: --user, --daemon and --no-detach are the script's own.
START = f"""
. /etc/conf.d/distccd
: > {LOG}
chown {USER} {LOG}
exec "$DISTCCD_EXEC" --user distcc --daemon --no-detach $DISTCCD_OPTS --log-file {LOG} "$@"
"""


def tables(packages: Sequence[str], count: int, **distcc: Any) -> dict[str, Any]:
    """cluster.toml's tables for a lab whose `count` blades all help."""
    nodes = f"blade[01-{count:02}]"
    return {
        "classes": {
            "blade": {"packages": list(packages), "profile": PROFILE, "rings": {"all": nodes}}
        },
        "distcc": {
            "helpers": nodes,
            "networks": ["10.77.0.0/16"],
            "slots": 2,
            "user": USER,
            **distcc,
        },
    }


def start_distccd(lab: Rehearsal, blade: str, *options: str) -> "subprocess.Popen[bytes]":
    """Start distccd on a blade; it ends with the blade."""
    argv = lab.lab.node(blade).argv(["sh", "-c", START, "distccd", *options])
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, env=environment(), start_new_session=True
    )


def put(lab: Rehearsal, blade: str, path: str, script: str) -> None:
    """Write a program on a blade."""
    line = f"printf %s {shlex.quote(script)} > {path}; chmod 755 {path}"
    lab.lab.node(blade).run(["sh", "-c", line], timeout_s=30)


def log_of(lab: Rehearsal, blade: str) -> list[str]:
    """The lines that a blade's distccd has logged of its jobs."""
    path = Path(lab.lab.folder, "nodes", blade, "upper", LOG.lstrip("/"))
    return [line for line in path.read_text().splitlines() if "dcc_job_summary" in line]
