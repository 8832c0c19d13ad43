"""Rollouts on real parts: emerge on 3 blades, gates off. The tests tell one story, in order."""

import io
import json
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blades import lab as labs
from headnode.node.spec import NodeSpec
from headnode.process import Completed
from headnode.provision import environment_binds
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

pytestmark = pytest.mark.lab

PULL = "/usr/local/sbin/headnode-pull"
CONF = "/etc/motd-blade.conf"


def on(running: Rehearsal, blade: str, line: str, *, check: bool = True) -> Completed:
    """Run a shell line on a blade."""
    return running.lab.node(blade).run(["sh", "-c", line], timeout_s=300, check=check)


def pull(running: Rehearsal, blade: str, *words: str) -> Any:
    """A pull that the blade starts itself."""
    said = on(running, blade, " ".join([PULL, *words]), check=False).output
    return json.loads(said.splitlines()[-1])


@contextmanager
def configured(running: Rehearsal, **options: Any) -> Iterator[None]:
    """cluster.toml with other values of some options, for the block."""
    good = text = running.config.read_text()
    for name, value in options.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {json.dumps(value)}", text, flags=re.M)
        assert count == 1, name
    running.config.write_text(text)
    try:
        yield
    finally:
        running.config.write_text(good)


def made(running: Rehearsal) -> None:
    """Everything of a night but the rollout."""
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        running.headnode(*words)


def rolled_out(running: Rehearsal, *words: str, code: int = 0) -> list[Any]:
    done = running.headnode("rollout", "run", "--json", *words, check=False)
    assert done.code == code, done.errors + done.output
    return list(json.loads(done.output))


def version(running: Rehearsal, blade: str) -> str:
    return on(running, blade, "bladeinfo --version").output.split(",")[0].split()[1]


def generations(running: Rehearsal) -> dict[str, int]:
    """The generation that each ring has."""
    rings = running.lab.folder / "state/binhost/blade/rings"
    return {
        path.parent.parent.name: json.loads(path.read_text())["generation"]
        for path in rings.glob("*/current/deployment.json")
    }


def pool(running: Rehearsal) -> Path:
    return running.lab.folder / "state/binhost/blade/pool"


def test_one_rollout_brings_a_generation_from_the_canary_to_every_blade(
    running: Rehearsal,
) -> None:
    text = re.sub(r"^gates = \[.*?\]$", "gates = []", running.config.read_text(), flags=re.M | re.S)
    few = '"@system", "sys-apps/bladeinfo", "app-admin/motd-blade", "app-misc/bladecount"'
    running.config.write_text(text.replace('"cluster-meta/blade"', few))
    made(running)
    reports = rolled_out(running)
    assert [(each["blade"], each["result"]) for each in reports] == [
        ("blade01", "updated"),
        ("blade02", "updated"),
        ("blade03", "updated"),
    ]
    size = sum(path.stat().st_size for path in pool(running).rglob("*.gpkg.tar"))
    for each in reports:
        assert (each["warnings"], each["drift"], each["edited"]) == ([], [], [])
        assert (each["source_builds"], each["fetched_bytes"]) == (0, size)
    assert generations(running) == {"canary": 1, "fleet": 1}
    status = json.loads(running.headnode("rollout", "status", "--json").output)
    assert (status["running"], status["rollout"]["phase"]) == (False, "done")


def test_what_a_person_edited_is_kept_and_said_also_after_down_and_up_again(
    running: Rehearsal,
) -> None:
    on(running, "blade02", f"echo mine > {CONF}")
    bump(running.upstream, "app-admin/motd-blade")
    made(running)
    assert [each["edited"] for each in rolled_out(running)] == [[], [CONF], []]
    assert "1.1" in on(running, "blade03", f"cat {CONF}").output
    for number in (1, 2):
        running.headnode("promote", str(number), "--ring", "fleet")
        reports = rolled_out(running, "--nodes", "blade[02-03]")
        assert [(each["result"], each["edited"]) for each in reports] == [
            ("updated", [CONF]),
            ("updated", []),
        ]
        assert on(running, "blade02", f"cat {CONF}").output == "mine\n"
        assert f"1.{number - 1}" in on(running, "blade03", f"cat {CONF}").output


# Removes a package file as soon as it is merged, as an administrator with a small disk may have it.
CLEANS = "post_pkg_postinst() { rm -f /var/cache/binhost/headnode/*/${PN}/${PF}-*.gpkg.tar; }"
# An emerge that compiles something beside what it was told, and packages it like a headnode would.
COMPILES = """#!/bin/sh
/usr/local/bin/emerge "$@" || exit
case "$*" in
	*--update*@blade) ;;
	*) exit 0 ;;
esac
export EMERGE_DEFAULT_OPTS=
export FEATURES="buildpkg binpkg-ignore-signature -binpkg-request-signature"
FEATURES="$FEATURES -sandbox -usersandbox -userpriv -network-sandbox"
export PORTAGE_REPOSITORIES="[gentoo]
location = /var/db/repos/gentoo
[own]
location = /var/lib/own"
exec /usr/local/bin/emerge --quiet --usepkg=n --getbinpkg=n app-misc/own
"""
OWN = """EAPI=8
DESCRIPTION="Nobody's"
SLOT=0
KEYWORDS="amd64"
S=${WORKDIR}
src_install() { echo mine > own || die; insinto /usr/share/own; doins own; }
"""
OWN_FILES = {
    "/usr/local/sbin/emerge": COMPILES,
    "/var/lib/own/profiles/repo_name": "own\n",
    "/var/lib/own/metadata/layout.conf": "masters = gentoo\nthin-manifests = true\n",
    "/var/lib/own/app-misc/own/own-1.ebuild": OWN,
}


def put(running: Rehearsal, blade: str, files: dict[str, str]) -> None:
    """Write files on a blade; all may run them."""
    for path, text in files.items():
        line = f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} > {path}"
        on(running, blade, f"{line}; chmod 755 {path}")


def test_a_pull_tells_what_it_fetched_and_what_was_compiled_on_the_blade(
    running: Rehearsal,
) -> None:
    put(running, "blade02", {"/etc/portage/bashrc": CLEANS})
    put(running, "blade03", OWN_FILES)
    new = bump(running.upstream, "app-misc/bladecount")
    made(running)
    reports = rolled_out(running)
    size = (pool(running) / f"app-misc/bladecount/bladecount-{new}-1.gpkg.tar").stat().st_size
    assert [each["fetched_bytes"] for each in reports] == [size] * 3
    cached = f"ls /var/cache/binhost/headnode/app-misc/bladecount/bladecount-{new}-1.gpkg.tar"
    assert [on(running, each, cached, check=False).code for each in ("blade01", *FLEET)] == [
        0,
        2,
        0,
    ]
    assert [each["source_builds"] for each in reports] == [0, 0, 1]
    assert reports[2]["warnings"] == [
        "merged, and no package of this deployment (compiled here?): app-misc/own-1"
    ]
    # Portage has noted a package file for that one, too: it is not one that the index names.
    assert on(running, "blade03", "cat /var/db/pkg/app-misc/own-1/BINPKGMD5").output.strip()
    known = json.loads(shown(running, "blade03"))
    assert (known["source_builds"], known["fetched_bytes"]) == (1, size)
    on(running, "blade02", "rm /etc/portage/bashrc")
    on(running, "blade03", "rm /usr/local/sbin/emerge; rm -r /var/lib/own /var/cache/binpkgs/*")
    on(running, "blade03", "emerge --quiet --unmerge app-misc/own")
    assert [each["source_builds"] for each in rolled_out(running)] == [0, 0, 0]


def test_own_world_entries_are_kept_and_listed(running: Rehearsal) -> None:
    on(running, "blade03", "emerge --quiet --noreplace dev-libs/libblade")
    bump(running.upstream, "app-misc/bladecount")
    made(running)
    reports = rolled_out(running)
    assert [each["world"] for each in reports] == [[], [], ["dev-libs/libblade"]]
    assert [each["warnings"] for each in reports] == [[], [], []]


def test_a_canary_that_breaks_its_health_check_goes_back_and_the_fleet_is_untouched(
    running: Rehearsal,
) -> None:
    before = generations(running)
    old = version(running, "blade01")
    new = bump(running.upstream, "sys-apps/bladeinfo")
    calls = [on(running, blade, "cat /var/lib/headnode/applied.json").output for blade in FLEET]
    with configured(running, health=[f"! bladeinfo --version | grep -qF {new}"]):
        made(running)
        reports = rolled_out(running, code=1)
    assert [each["result"] for each in reports] == ["went back", "not tried", "not tried"]
    assert reports[0]["error"] == (
        f"`! bladeinfo --version | grep -qF {new}` failed with exit code 1"
    )
    assert reports[0]["changes"] == [f"-sys-apps/bladeinfo-{new}", f"+sys-apps/bladeinfo-{old}"]
    assert generations(running) == before
    assert [version(running, blade) for blade in ("blade01", *FLEET)] == [old] * 3
    assert [
        on(running, blade, "cat /var/lib/headnode/applied.json").output for blade in FLEET
    ] == calls


FLEET = ("blade02", "blade03")


def test_a_blade_that_dies_in_the_middle_of_a_merge_goes_on_with_the_next_pull(
    running: Rehearsal,
) -> None:
    running.headnode("promote", "--ring", "canary")
    on(running, "blade01", f"{PULL} > /tmp/said 2>&1 & echo $! > /tmp/pull.pid")
    # As a power cut would: everything of it at once, while emerge is at work.
    mark = "/var/lib/headnode/emerge.pid"
    cut = f"until test -s {mark} && grep -q -- --update /var/log/headnode-pull.log; do sleep 0.1"
    cut += f"; done; sleep 1; read -r pid started < {mark}"
    cut += "; kill -KILL $(cat /tmp/pull.pid) -$pid"
    on(running, "blade01", f"timeout 120 sh -c '{cut}'")
    report = pull(running, "blade01")
    assert report["result"] == "updated", report
    (warning,) = report["warnings"]
    assert warning.endswith(" did not end well: it was cut off")
    assert pull(running, "blade01")["result"] == "unchanged"
    assert not on(running, "blade01", "find /var/db/pkg -name '-MERGING-*'").output


def test_a_full_disk_puts_the_pull_off_and_nothing_is_touched(running: Rehearsal) -> None:
    running.headnode("promote", "--ring", "fleet")
    before = on(running, "blade02", "find /var/db/pkg /etc/portage | sort | md5sum").output
    on(running, "blade02", "mount -t tmpfs -o size=1m none /var/cache")
    try:
        report = pull(running, "blade02")
    finally:
        on(running, "blade02", "umount /var/cache")
    assert report["result"] == "deferred"
    assert report["error"].startswith("the file system of /var/cache has ")
    assert on(running, "blade02", "find /var/db/pkg /etc/portage | sort | md5sum").output == before
    assert pull(running, "blade02")["result"] == "updated"


def test_a_drained_blade_is_left_out_and_told_so_itself(running: Rehearsal) -> None:
    running.headnode("blades", "drain", "blade03", "--why", "memory test")
    assert [each["result"] for each in rolled_out(running, "--nodes", "blade[02-03]")] == [
        "unchanged",
        "drained",
    ]
    report = pull(running, "blade03")
    assert (report["result"], report["error"]) == ("deferred", "drained: memory test")
    said = running.headnode("blades", "undrain", "blade03").output
    assert said == "blade03 pulls again.\n"
    assert pull(running, "blade03")["result"] == "updated"


def test_a_blade_that_loses_its_headnode_by_a_pull_goes_back_by_itself(
    running: Rehearsal,
) -> None:
    """The network goes down as soon as the pull is done; all that it has is on its disk."""
    old = version(running, "blade01")
    new = bump(running.upstream, "sys-apps/bladeinfo")
    with configured(running, confirm_s=5, back_command="ip link set eth0 up"):
        made(running)
        report = pull(running, "blade01", "--confirm")
    assert (report["result"], report["confirm"]) == ("updated", True)
    assert version(running, "blade01") == new
    on(running, "blade01", "ip link set eth0 down")
    deadline = time.monotonic() + 120
    while on(running, "blade01", "test -e /var/lib/headnode/unconfirmed", check=False).code == 0:
        assert time.monotonic() < deadline, on(
            running, "blade01", "cat /var/log/headnode-pull.log"
        ).output
        time.sleep(0.5)
    deadline = time.monotonic() + 30
    while on(running, "blade01", "ip -o link show eth0 up").output == "":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert version(running, "blade01") == old
    refused = rolled_out(running, "--nodes", "blade01", code=1)
    assert "went back from generation" in refused[0]["error"]
    assert pull(running, "blade01", "--now")["result"] == "updated"
    assert version(running, "blade01") == new


def test_a_pull_without_news_costs_less_than_six_hundredths_of_a_second(
    running: Rehearsal,
) -> None:
    """CPU of the whole command, launcher and Python's start included; the best of several."""
    measure = (
        "import resource, subprocess, sys\n"
        "def used():\n"
        "    now = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    return now.ru_utime + now.ru_stime\n"
        "def cost(pull):\n"
        "    before = used()\n"
        "    subprocess.run([pull], check=True, stdout=subprocess.DEVNULL)\n"
        "    return used() - before\n"
        "print(min(cost(sys.argv[1]) for _ in range(10)))\n"
    )
    assert pull(running, "blade01")["result"] == "unchanged"
    done = running.lab.node("blade01").run(["python3", "-c", measure, PULL], timeout_s=120)
    assert float(done.output) < 0.06


@pytest.mark.parametrize("how", ["line", pytest.param("crond", marks=pytest.mark.slow)])
def test_a_pull_that_the_blades_own_cron_starts_is_in_the_ledger(
    running: Rehearsal, how: str
) -> None:
    """By the line that the blade was given: run as cron does, or by a real crond in its minute.

    BusyBox's crond has one crontab a user, so the name of the user goes from the line.
    """
    with configured(running, own_at="02:30", own_splay_s=1):
        tar = ["blades", "config", "blade02", "--tar"]
        given = subprocess.run(running.argv(*tar), capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(given)) as archive:
        member = archive.extractfile("etc/cron.d/headnode-pull")
        assert member is not None
        (line, _) = member.read().decode().splitlines()[1:]
    before = json.loads(shown(running, "blade02"))
    if how == "line":
        *_, command = line.split(" ", 6)
        assert line.startswith("30 2 * * * root ")
        on(running, "blade02", command)
    else:
        tab = line.replace("30 2 * * * root", "* * * * *")
        on(running, "blade02", f"mkdir -p /tmp/tabs; echo '{tab}' > /tmp/tabs/root")
        crond = "busybox crond -f -c /tmp/tabs -L /tmp/crond.log"
        on(running, "blade02", f"{crond} > /dev/null 2>&1 & echo $! > /tmp/crond")
    deadline = time.monotonic() + 300
    while (known := json.loads(shown(running, "blade02")))["contact"] == before["contact"]:
        assert time.monotonic() < deadline
        time.sleep(1)
    if how == "crond":
        on(running, "blade02", "kill $(cat /tmp/crond)")
    newest = known["reports"][0]
    assert newest["number"] is not None, "the blade sent it, by HTTP"
    assert (newest["result"], known["ring"]) == ("unchanged", "fleet")


def shown(running: Rehearsal, blade: str) -> str:
    return running.headnode("blades", "show", blade, "--json").output


@pytest.mark.slow
def test_a_blade_that_was_off_in_the_night_catches_up_when_it_is_on_again(
    running: Rehearsal,
) -> None:
    """Only the daemon does something after the rollout: it looks when it begins anew, by SIGHUP."""
    for ring in ("canary", "fleet"):  # all well, whatever the tests before have left
        running.headnode("promote", "--ring", ring, check=False)
    rolled_out(running)
    old, new = version(running, "blade03"), bump(running.upstream, "sys-apps/bladeinfo")
    made(running)
    node = running.lab.node("blade03")
    node.stop()
    results = {each["blade"]: each["result"] for each in rolled_out(running, code=3)}
    assert results == {"blade01": "updated", "blade02": "updated", "blade03": "unreached"}
    spec = NodeSpec(
        name="blade03",
        store=node.store,
        lower=Path("/"),
        binds=environment_binds(),
        hidden=(running.lab.folder,),
        throwaway=True,
    )
    again = replace(running, lab=labs.join(running.lab, spec))
    assert version(again, "blade03") == old
    before = json.loads(again.headnode("rollout", "status", "--json").output)
    with configured(again, missed_min=0.1, time_zone="Europe/Berlin"):
        lock = (again.lab.folder / "state/serve.lock").read_text()
        (pid,) = re.findall(r"process (\d+)", lock)
        again.lab.headnode.run(["kill", "-HUP", pid], timeout_s=30)
        deadline = time.monotonic() + 300
        while version(again, "blade03") != new:
            assert time.monotonic() < deadline
            time.sleep(1)
        while (said := json.loads(shown(again, "blade03")))["result"] != "updated":
            assert time.monotonic() < deadline
            time.sleep(1)
    assert said["generation"] == generations(again)["fleet"]
    assert json.loads(again.headnode("rollout", "status", "--json").output) == before
    done = again.headnode("rollout", "run", "--missed").output
    assert done == "No blade that missed a rollout answers now.\n"
