"""distccd as it runs on a helper, rendered from cluster.toml. Pure.

Every helper is given the settings of both service managers, and takes those of its own::

    /etc/systemd/system/distccd.service   systemd: in place of the unit that comes with distcc
    /etc/conf.d/distccd                   OpenRC: options of the script that comes with distcc
    /usr/lib/distcc/<compiler>            which compilers distccd may start

Since 3.3 distccd starts only what has a link in /usr/lib/distcc (CVE-2004-2687: without that, a
client may name any program). A job names its compiler as the package does, so with the CHOST's
prefix as well.

Source: distccd(1) of distcc 3.4; sys-devel/distcc-3.4-r9 of Gentoo for paths, user and script.
"""

from __future__ import annotations

import shlex
from math import ceil

from ClusterShell.NodeSet import NodeSet

from config.model import Cluster, Distcc
from config.portage import HEADER, Rendered

DISTCCD = "/usr/bin/distccd"
MASQUERADE = "/usr/lib/distcc"
DISTCC_LINK = "../../bin/distcc"
COMPILERS = ("gcc", "g++", "cc", "c++")
UNIT_PATH = "/etc/systemd/system/distccd.service"
CONF_PATH = "/etc/conf.d/distccd"
WANTED = {
    "/etc/systemd/system/multi-user.target.wants/distccd.service": UNIT_PATH,
    "/etc/runlevels/default/distccd": "/etc/init.d/distccd",
}
# Compilers come with the job's own PATH left out: where Gentoo and Debian have them.
DAEMON_PATH = "/usr/local/bin:/usr/bin:/bin"

UNIT = """\
[Unit]
Description=Compile jobs of the headnode (distccd)
Wants=network-online.target
After=network-online.target

[Service]
User={user}
Environment=PATH={path}
ExecStart={command}
Restart=on-failure
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
"""
CONF = """\
DISTCCD_EXEC="{program}"
# The script adds --daemon and --no-detach.
DISTCCD_OPTS="{options}"
export PATH="{path}"
# Without it, stopping ends the first process only, and its children go on serving.
rc_cgroup_cleanup="yes"
"""


def compiler_names(chost: str) -> tuple[str, ...]:
    """The compilers that packages call: plain, and with the CHOST's prefix. Pure."""
    return (*COMPILERS, *(f"{chost}-{name}" for name in COMPILERS))


def daemon_options(options: Distcc) -> list[str]:
    """The options of distccd on a helper, but for user and service manager. Pure.

    The level `notice` has a line for each job.
    """
    return [
        *("--port", str(options.port), "--jobs", str(options.jobs or options.slots)),
        *("--nice", str(options.nice), "--job-lifetime", str(ceil(options.job_timeout_s))),
        *("--log-level", "notice"),
        *(word for network in options.networks for word in ("--allow", network)),
    ]


def distccd_files(cluster: Cluster, blade: str) -> Rendered:
    """What lets a blade help to compile; nothing for one that is no helper."""
    options, place = cluster.distcc, cluster.place_of(blade)
    if place is None or blade not in NodeSet(options.helpers or ""):
        return Rendered(files={})
    words = daemon_options(options)
    command = [DISTCCD, "--daemon", "--no-detach", "--log-stderr", *words]
    unit = UNIT.format(user=options.user, path=DAEMON_PATH, command=shlex.join(command))
    conf = CONF.format(
        program=DISTCCD, path=DAEMON_PATH, options=shlex.join([*words, "--user", options.user])
    )
    names = compiler_names(cluster.classes[place[0]].chost)
    return Rendered(
        files={UNIT_PATH: HEADER + unit, CONF_PATH: HEADER + conf},
        links={**{f"{MASQUERADE}/{name}": DISTCC_LINK for name in names}, **WANTED},
    )
