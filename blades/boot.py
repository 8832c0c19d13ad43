"""How a blade gets its trees back after a boot, before anything is pulled. Pure.

An image is mounted by nobody but us, so a boot loses it, and plain `emerge` needs its profile also
while the headnode is off. systemd and OpenRC are given a file each, and neither reads the other's.

Source: systemd.service(5), OpenRC's local.d(8).
"""

from __future__ import annotations

from config.portage import Rendered

TREE_PATH = "/usr/local/sbin/headnode-tree"
UNIT = "headnode-tree.service"
SYSTEMD = "/etc/systemd/system"
OPENRC = "/etc/local.d/headnode-tree.start"

UNIT_TEXT = f"""[Unit]
Description=The trees of ebuilds that headnode last gave this blade
RequiresMountsFor=/var/lib/headnode /var/db/repos

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={TREE_PATH} restore

[Install]
WantedBy=multi-user.target
"""
OPENRC_TEXT = f"""#!/bin/sh
# The trees of ebuilds that headnode last gave this blade.
exec {TREE_PATH} restore
"""


def boot_files() -> Rendered:
    """What starts the trees' program at boot."""
    return Rendered(
        files={f"{SYSTEMD}/{UNIT}": UNIT_TEXT, OPENRC: OPENRC_TEXT},
        links={f"{SYSTEMD}/multi-user.target.wants/{UNIT}": f"../{UNIT}"},
    )
