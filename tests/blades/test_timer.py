"""What starts a blade's own pull, read by the programs that will: systemd's, and cron's syntax."""

import shutil
import subprocess
from pathlib import Path

import pytest

from blades.boot import SYSTEMD
from blades.timer import CRON, LINK, SERVICE, TIMER, moment, splay_s, timer_files
from config.cron import parse
from config.load import load
from headnode.errors import ConfigError

BLADES = [f"blade{number:02}" for number in range(1, 59)]


def test_each_blade_has_a_moment_of_its_own_and_all_lie_in_the_window() -> None:
    found = {name: splay_s(name, 3600) for name in BLADES}
    assert found == {name: splay_s(name, 3600) for name in reversed(BLADES)}
    assert all(0 <= each < 3600 for each in found.values())
    # Spread, as well as by chance: each tenth of the window has some of the 58.
    assert {each // 360 for each in found.values()} == set(range(10))
    assert {splay_s(name, 0) for name in BLADES} == {0}


def test_a_window_goes_on_after_midnight() -> None:
    hours = {moment(name, "23:30", 3600)[0] for name in BLADES}
    assert hours == {23, 0}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    rendered = timer_files("blade07", "02:30", 3600)
    for name in (SERVICE, TIMER):
        text = rendered.files[f"{SYSTEMD}/{name}"].replace(
            "/usr/local/sbin/headnode-pull", "/bin/true"
        )
        (tmp_path / name).write_text(text)
    argv = ["systemd-analyze", "--man=no", "verify", tmp_path / TIMER, tmp_path / SERVICE]
    done = subprocess.run(argv, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "headnode-pull" in line]
    assert (done.returncode, ours) == (0, [])
    (line,) = [each for each in (tmp_path / TIMER).read_text().splitlines() if "OnCal" in each]
    when = line.removeprefix("OnCalendar=")
    said = subprocess.run(
        ["systemd-analyze", "calendar", when], capture_output=True, text=True, check=True
    )
    assert f"Normalized form: {when}" in said.stdout
    hour, minute, second = moment("blade07", "02:30", 3600)
    assert when == f"*-*-* {hour:02}:{minute:02}:{second:02}"


def test_crons_line_comes_in_the_same_minute_and_not_under_systemd() -> None:
    rendered = timer_files("blade07", "02:30", 3600)
    hour, minute, second = moment("blade07", "02:30", 3600)
    comment, line, at_boot = rendered.files[CRON].splitlines()
    *when, user, command = line.split(" ", 6)
    cron = parse(" ".join(when))
    assert (cron.hours, cron.minutes, user) == ((hour,), (minute,), "root")
    assert command == (
        f"[ -d /run/systemd/system ] || {{ sleep {second}; "
        "/usr/local/sbin/headnode-pull --report; } > /dev/null"
    )
    assert (comment[0], at_boot.split(" ")[:2]) == ("#", ["@reboot", "root"])
    assert "%" not in rendered.files[CRON]  # which cron takes for the end of a line
    subprocess.run(["sh", "-n", "-c", command], check=True)
    assert rendered.links == {LINK: f"../{TIMER}"}


def test_a_blade_that_is_pushed_gets_none_of_it() -> None:
    rendered = timer_files("blade07", "", 3600)
    assert (rendered.files, rendered.links) == ({}, {})


@pytest.mark.parametrize("text", ["2:30", "24:00", "02:60", "nightly"])
def test_what_is_no_time_of_day_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f'[pull]\nown_at = "{text}"\n')
    with pytest.raises(ConfigError, match=f"'{text}' is no time of day, as 02:30 is"):
        load(path)
