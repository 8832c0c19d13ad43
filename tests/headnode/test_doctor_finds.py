"""Each check of `headnode doctor` on a machine where what it looks at is really wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """\
[state]
path = "state"
reserve_mib = {reserve}

[serve]
host = "127.0.0.1"

[signing]
mode = "off"

[build]
root = "{root}"

[distcc]
{helpers}
mode = "{mode}"

[classes.blade]
packages = ["app-misc/hello"]
make_conf = {{ {make_conf} }}
rings = {{ canary = "blade[01-02]" }}

[rollout]
transport = "exec"
exec_command = "false %h"
"""
Finding = tuple[str, str, str]


def write(folder: Path, **values: object) -> None:
    said = {"reserve": 0, "root": "/", "helpers": "", "mode": "plain", "make_conf": ""}
    (folder / "cluster.toml").write_text(CONFIG.format(**{**said, **values}))


def doctor(folder: Path, check: str, *before: str, **variables: str) -> list[Finding]:
    """What a check finds, asked below the command `before`, with environment `variables`."""
    argv = [*before, sys.executable, "-m", "headnode", "doctor", check, "--json"]
    environment = {**os.environ, **variables}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [(each["level"], each["text"], each["remedy"]) for each in json.loads(done.stdout)]


@pytest.mark.lab
def test_kernel_a_state_folder_on_an_overlay_holds_no_builder(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("lower", "real", "state"):
        (tmp_path / name).mkdir()
    mount = (
        "mount -t tmpfs tmpfs real && mkdir real/upper real/work && "
        "mount -t overlay overlay -o lowerdir=lower,upperdir=real/upper,workdir=real/work state "
        '&& exec "$@"'
    )
    found = doctor(tmp_path, "kernel", "unshare", "--mount", "sh", "-c", mount, "sh")
    where = tmp_path / "state"
    assert (
        "problem",
        f"the state folder is on overlay ({where}), which overlayfs takes no upper folder on",
        "set [state] path to a folder on ext4, xfs or btrfs",
    ) in found


@pytest.mark.lab
def test_kernel_without_root_no_node_can_run(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "state").mkdir()
    drop = ("unshare", "--user", "--map-user=12345", "--setgroups=deny")
    found = doctor(tmp_path, "kernel", *drop)
    assert ("problem", "no nodes can run: it lacks root's rights: run it as root (sudo)", "") in [
        (level, text, "") for level, text, _ in found
    ]


@pytest.mark.lab
def test_disk_a_full_one_is_a_problem_and_few_inodes_a_warning(tmp_path: Path) -> None:
    write(tmp_path, reserve=100)
    (tmp_path / "state").mkdir()
    mount = 'mount -t tmpfs -o size=50m,nr_inodes=1000 tmpfs state && exec "$@"'
    found = doctor(tmp_path, "disk", "unshare", "--mount", "sh", "-c", mount, "sh")
    (level, text, remedy), (also, names, _) = found
    assert (level, text.partition(" in ")[0], remedy) == (
        "problem",
        "0 GiB free",
        "free 0.0 GiB: nothing starts below it",
    )
    assert (also, names.endswith(" inodes free")) == ("warning", True)


CLOCK = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <unistd.h>
int clock_gettime(clockid_t which, struct timespec *now)
{
    int done = syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_REALTIME && getenv("LATE"))
        now->tv_sec -= atol(getenv("LATE"));
    return done;
}
int adjtimex(struct timex *state)
{
    return getenv("STEP") ? TIME_OK : TIME_ERROR;
}
"""


def test_clock_one_that_was_never_set_and_one_that_nobody_keeps(tmp_path: Path) -> None:
    """The machine's clock is everybody's: a library tells this one process another time."""
    write(tmp_path)
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    forty_years = str(40 * 365 * 86400)
    [(level, text, remedy)] = doctor(tmp_path, "clock", LD_PRELOAD=str(library), LATE=forty_years)
    assert (level, text[:20], remedy) == (
        "problem",
        "the clock says 198" + text[18:20],
        "set it, and run chrony or ntpd",
    )
    assert doctor(tmp_path, "clock", LD_PRELOAD=str(library)) == [
        (
            "warning",
            "nothing keeps the clock in step",
            "run chrony, ntpd or systemd-timesyncd here and on the blades",
        )
    ]
    [(level, text, _)] = doctor(tmp_path, "clock", LD_PRELOAD=str(library), STEP="1")
    assert (level, text.endswith(" UTC, kept in step")) == ("good", True)


def test_programs_one_that_is_too_old_and_one_that_does_not_run(tmp_path: Path) -> None:
    write(tmp_path)
    old = tmp_path / "old"
    old.mkdir()
    for name, line in (
        ("rsync", "echo 'rsync  version 3.0.9  protocol version 30'"),
        ("gpg", "echo 'gpg (GnuPG) 1.4.23'"),
        ("distccd", "exit 1"),
    ):
        (old / name).write_text(f"#!/bin/sh\n{line}\n")
        (old / name).chmod(0o755)
    found = doctor(tmp_path, "programs", PATH=f"{old}:{os.environ['PATH']}")
    assert ("problem", "rsync 3.0.9 is too old", "3.1 or newer") in found
    assert ("problem", "gpg 1.4.23 is too old", "2.1.17 or newer") in found
    assert ("problem", "distccd does not run: exit code 1", "install it anew") in found


def test_programs_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "bin").mkdir()
    found = doctor(tmp_path, "programs", PATH=str(tmp_path / "bin"))
    assert [(level, text) for level, text, _ in found if text.startswith("no ")][:3] == [
        ("problem", "no rsync: it mirrors the trees"),
        ("problem", "no gpg: it signs"),
        ("warning", "no git: it mirrors git repositories"),
    ]
    assert all(remedy.startswith("install ") for level, text, remedy in found if "no " in text[:3])


def test_portage_an_old_one_in_the_builders_root_and_what_is_known_of_ours(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var/db/pkg/sys-apps/portage-3.0.60").mkdir(parents=True)
    write(tmp_path, root=root)
    ours, theirs = doctor(tmp_path, "portage")
    assert theirs == (
        "warning",
        f"{root}'s Portage is 3.0.60",
        "this was tried with 3.0.83; update to 3.0.77",
    )
    if ours[1].endswith("3.0.83"):
        assert ours[2].startswith("known of it: emaint binhost --fix reads every package again")
    (root / "var/db/pkg/sys-apps/portage-3.0.60").rename(
        root / "var/db/pkg/sys-apps/portage-3.0.81"
    )
    assert doctor(tmp_path, "portage")[1] == (
        "warning",
        f"{root}'s Portage is 3.0.81",
        "before 3.0.82 a build does not show its phases",
    )
    write(tmp_path, root=tmp_path / "nowhere")
    assert doctor(tmp_path, "portage")[1] == (
        "problem",
        f"[build] root {tmp_path / 'nowhere'} is not there",
        "unpack a stage3 there",
    )


def test_distcc_within_the_sandbox_and_pump_that_is_not_there_or_debians(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    write(
        tmp_path,
        root=root,
        helpers='helpers = "blade01"\nnetworks = ["10.0.1.0/24"]',
        mode="pump",
        make_conf='FEATURES = "distcc parallel-fetch"',
    )
    texts = [(level, text) for level, text, _ in doctor(tmp_path, "distcc")]
    assert texts == [
        ("warning", "class blade has FEATURES=distcc in make_conf"),
        ("warning", f"[distcc] mode is pump, and {root} has no pump"),
        ("warning", f"[distcc] helpers are named, and {root} has no distcc"),
    ]
    (root / "usr/bin/distcc-pump").touch()
    (root / "etc/debian_version").write_text("12.11\n")
    found = doctor(tmp_path, "distcc")
    assert found[1][1] == f"[distcc] mode is pump, by {root}/usr/bin/distcc-pump of Debian"
    assert "PY_SSIZE_T_CLEAN" in found[1][2]
    assert "network-sandbox" in found[0][2]


def test_make_conf_at_odds_with_the_binhost(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/portage").mkdir(parents=True)
    (root / "etc/portage/make.conf").write_text('COMMON_FLAGS="-O2 -march=native"\n')
    write(
        tmp_path,
        root=root,
        make_conf='PORTAGE_BINHOST = "http://other/", BINPKG_FORMAT = "xpak", CHOST = "i686"',
    )
    texts = [(level, text) for level, text, _ in doctor(tmp_path, "make.conf")]
    assert texts[:-1] == [
        (
            "warning",
            f"{root}/etc/portage/make.conf has -march=native: what it built traps on blades with "
            "another CPU",
        ),
        ("warning", "class blade sets CHOST in make_conf"),
        ("warning", "class blade sets BINPKG_FORMAT in make_conf, which is as headnode writes it"),
        ("warning", "class blade sets PORTAGE_BINHOST in make_conf"),
    ]


def test_blades_that_are_off(tmp_path: Path) -> None:
    write(tmp_path)
    assert doctor(tmp_path, "blades") == [
        (
            "problem",
            "blade[01-02]: not reached (no answer)",
            "are they on, and may this user enter by ssh without a password?",
        )
    ]


def test_a_name_that_has_no_address(tmp_path: Path) -> None:
    write(tmp_path)
    text = (tmp_path / "cluster.toml").read_text().replace("127.0.0.1", "no-such-host.invalid")
    (tmp_path / "cluster.toml").write_text(text)
    [(level, said, _)] = doctor(tmp_path, "name")
    assert (level, said.partition(":")[0]) == ("problem", "no-such-host.invalid has no address")
