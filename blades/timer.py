"""What starts a blade's own pull, where blades are not only pushed ([pull] own_at). Pure.

Each blade comes at a moment of its own in the window, told by its name alone: it is the same every
night, and 58 blades do not come at once. systemd and cron (OpenRC) are given a file each, and
cron's line does nothing under systemd. Both make up for a night that a blade was off, when it is on
again.

Source: systemd.timer(5), systemd.time(7), crontab(5) of cronie (`/etc/cron.d`, `@reboot`).
"""

from __future__ import annotations

import hashlib

from blades.boot import SYSTEMD
from blades.boot import UNIT as TREE_UNIT
from blades.places import PULL
from config.portage import Rendered

DAY_S = 24 * 3600
SERVICE = "headnode-pull.service"
TIMER = "headnode-pull.timer"
CRON = "/etc/cron.d/headnode-pull"
LINK = f"{SYSTEMD}/timers.target.wants/{TIMER}"
PATHS = (f"{SYSTEMD}/{SERVICE}", f"{SYSTEMD}/{TIMER}", CRON, LINK)
BOOTED_S = 60  # for the network and the clock
COMMAND = f"{PULL} --report"

SERVICE_TEXT = f"""[Unit]
Description=Brings this blade to what its ring has
Wants=network-online.target
After=network-online.target time-sync.target {TREE_UNIT}

[Service]
Type=oneshot
ExecStart={COMMAND}
"""


def splay_s(blade: str, window_s: float) -> int:
    """How many seconds after the window's beginning a blade comes: less than `window_s`."""
    number = int.from_bytes(hashlib.sha256(blade.encode()).digest()[:8])
    return number % max(1, int(window_s))


def moment(blade: str, own_at: str, window_s: float) -> tuple[int, int, int]:
    """The hour, minute and second at which a blade pulls, for a window that begins at `HH:MM`."""
    hour, minute = (int(part) for part in own_at.split(":"))
    at_s = (hour * 3600 + minute * 60 + splay_s(blade, window_s)) % DAY_S
    return at_s // 3600, at_s // 60 % 60, at_s % 60


def timer_files(blade: str, own_at: str, window_s: float) -> Rendered:
    """What a blade is given; nothing where it does not pull by itself (an empty `own_at`)."""
    if not own_at:
        return Rendered(files={})
    hour, minute, second = moment(blade, own_at, window_s)
    files = {
        f"{SYSTEMD}/{SERVICE}": SERVICE_TEXT,
        f"{SYSTEMD}/{TIMER}": _timer(hour, minute, second),
        CRON: _cron(hour, minute, second),
    }
    return Rendered(files=files, links={LINK: f"../{TIMER}"})


def _timer(hour: int, minute: int, second: int) -> str:
    return f"""[Unit]
Description=When this blade pulls by itself

[Timer]
OnCalendar=*-*-* {hour:02}:{minute:02}:{second:02}
AccuracySec=1s
Persistent=yes

[Install]
WantedBy=timers.target
"""


def _cron(hour: int, minute: int, second: int) -> str:
    return f"""# When this blade pulls by itself. By headnode; under systemd a timer does it.
{minute} {hour} * * * root {_unless_systemd(second)}
@reboot root {_unless_systemd(BOOTED_S)}
"""


def _unless_systemd(wait_s: int) -> str:
    return f"[ -d /run/systemd/system ] || {{ sleep {wait_s}; {COMMAND}; }} > /dev/null"


def settle_line() -> str:
    """The shell line that has a running systemd know what came or went."""
    return (
        "if [ -d /run/systemd/system ]; then systemctl daemon-reload; "
        f"if [ -e {LINK} ]; then systemctl restart {TIMER}; "
        f"else systemctl stop {TIMER} 2> /dev/null || true; fi; fi"
    )
