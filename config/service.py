"""What starts `headnode serve` with the machine, and rotates its logs: rendered, nothing is run.

    python3 -m config.service systemd|openrc|logrotate    for a headnode installed as a package

The daemon builds packages, so it is root, mounts overlays and makes namespaces; what it needs none
of is closed to it. Source: systemd.exec(5), openrc-run(8), logrotate(8).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from headnode.errors import ConfigError

PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The installed program, its configuration, rsyncd's log, and the access log, if any."""

    path: Path
    config: Path
    rsyncd_log: Path
    access_log: Path | None


def _require_plain_paths(program: Program) -> None:
    """Check that paths mean the same in a unit, a shell script and a file of logrotate's.

    Raises:
        ConfigError: naming one that does not.
    """
    paths = (program.path, program.config, program.rsyncd_log, program.access_log)
    for path in filter(None, paths):
        if not PLAIN.fullmatch(str(path)):
            raise ConfigError(
                f"{str(path)!r} cannot be written into a service's file.",
                remedy="Have it at a path of letters, digits and any of / . _ + - alone.",
            )


def systemd(program: Program) -> str:
    """A unit: /etc/systemd/system/headnode.service."""
    # What a build in namespaces of its own needs stays open: mounts, namespaces, set-uid files of
    # packages, the list of the kernel's modules, a key in root's home. So do a node's host name
    # (ProtectHostname makes /proc/sys/kernel/hostname read-only), 32-bit programs of multilib
    # packages (SystemCallArchitectures, LockPersonality), and loop devices (ProtectClock closes all
    # devices but a few).
    _require_plain_paths(program)
    return f"""\
[Unit]
Description=headnode: mirror and binhost of a Gentoo cluster
Documentation=man:headnode(8)
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
Type=exec
ExecStart={program.path} --config {program.config} serve
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
TimeoutStopSec=120
Restart=on-failure
RestartSec=5
UMask=0022
LimitNOFILE=65536
ProtectSystem=full
PrivateTmp=yes
NoNewPrivileges=yes
ProtectKernelLogs=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
"""


def openrc(program: Program) -> str:
    """A service script: /etc/init.d/headnode, executable.

    Supervised, since start-stop-daemon starts again nothing that has ended; the pid file is then
    the supervisor's. Source: openrc-run(8), supervise-daemon(8).
    """
    _require_plain_paths(program)
    return f"""\
#!/sbin/openrc-run
# Written by headnode serve --openrc.

description="mirror and binhost of a Gentoo cluster"
command="{program.path}"
command_args="--config {program.config} serve"
supervisor="supervise-daemon"
pidfile="/run/headnode.pid"
output_log="/var/log/headnode.log"
error_log="/var/log/headnode.log"
retry="SIGTERM/120/SIGKILL/5"
respawn_delay="5"
respawn_max="0"
extra_started_commands="reload"
rc_ulimit="-n 65536"
umask="0022"

depend() {{
	need net localmount
	use dns ntp-client
	after ntpd chronyd
}}

reload() {{
	ebegin "Reloading headnode"
	supervise-daemon "$RC_SVCNAME" --signal HUP
	eend $?
}}
"""


ROTATED = """\
	weekly
	rotate 8
	compress
	delaycompress
	missingok
	notifempty"""


def logrotate(program: Program) -> str:
    """A file of /etc/logrotate.d: the log, rsyncd's, and the access log if there is one.

    `headnode serve` goes on in a new access log at SIGUSR1. Its own log is the service manager's.
    rsyncd opens its log for each client. The pattern must not match the shell that runs pkill,
    which has it in its own command line: hence the brackets.
    """
    _require_plain_paths(program)
    serve = f"{program.path} --config {program.config} serv[e]"
    access = f"""
{program.access_log} {{
{ROTATED}
	postrotate
		pkill -USR1 -f '{serve}' || true
	endscript
}}
"""
    return f"""\
/var/log/headnode.log {{
	weekly
	rotate 8
	compress
	missingok
	notifempty
	copytruncate
}}

{program.rsyncd_log} {{
{ROTATED}
}}
{access if program.access_log else ""}"""


KINDS = {"systemd": systemd, "openrc": openrc, "logrotate": logrotate}
PACKAGED = Program(
    path=Path("/usr/bin/headnode"),
    config=Path("/etc/headnode/cluster.toml"),
    rsyncd_log=Path("/var/lib/headnode/rsyncd.log"),
    access_log=None,
)

if __name__ == "__main__":
    print(KINDS[sys.argv[1]](PACKAGED), end="")
