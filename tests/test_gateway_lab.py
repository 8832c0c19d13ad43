"""Rollouts through gateways: real sshd and emerge on 3 blades, behind 2 machines with ClusterShell.

On the gateways, everything runs as a user without rights. The tests tell one story, in order. What
a test runs on blades beside pulls comes in by the administrator's own key: the gateways' keys are
bound to the gate.
"""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blades.gateway_keys import read_public
from blades.lab import addresses_in
from headnode import rehearsal
from headnode.errors import RolloutError
from headnode.process import Completed, run
from headnode.rehearsal import Rehearsal

BLADES = ("blade01", "blade02", "blade03")
GATEWAYS = ("gate1", "gate2")
USER = "headnode"
HOME = f"/home/{USER}"
SSHD = """Port 22
HostKey /etc/ssh/test_host_key
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile /run/sshd.pid
MaxStartups 100
"""
SCRIPT = """
import json, os, sys, threading
from blades import gateways
from blades.transport import run_on
from config.model import Rollout
asked = json.loads(sys.argv[1])
gateways.GRACE_S = asked["grace_s"]
has = lambda: (threading.active_count(), len(os.listdir("/proc/self/fd")))
way = Rollout.model_validate(asked["options"])
before = has() if asked["warm"] and run_on(asked["blades"][:1], "true", way) else has()
def shown(each):
    print("shown", each.blade, flush=True)
    if asked["refuse"]:
        raise BrokenPipeError
outcomes = run_on(asked["blades"], asked["line"], way, shown)
print(json.dumps({
    "left": [before, has()],
    "outcomes": {name: [each.code, each.output, each.seconds] for name, each in outcomes.items()},
}))
"""

WELL = """
import sys
from pathlib import Path
from config.load import load
from schedules.rollout import BladeReport, Result
from schedules.site import Site
from schedules.wellness import unwell
report = BladeReport(blade="blade01", ring="canary", result=Result.UPDATED, sequence=1)
print(unwell(Site(cluster=load(Path(sys.argv[1]))), [report]))
"""


@dataclass(frozen=True, kw_only=True)
class Here:
    """A rehearsal with sshd everywhere, and the administrator's own key."""

    up: Rehearsal

    @property
    def folder(self) -> Path:
        return self.up.lab.folder

    def on(self, node: str, line: str, *, check: bool = True) -> Completed:
        return self.up.lab.node(node).run(["sh", "-c", line], timeout_s=60, check=check)

    def serve(self, node: str, limit: str = "ulimit -S -n 64") -> None:
        """Start sshd. On a gateway it gives few file handles, as distributions do."""
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
        assert sshd, "no sshd: bootstrap.sh installs it"
        before = f"{limit}; " if node in GATEWAYS else ""
        self.on(node, f"{before}{sshd} -f /etc/ssh/test_config -E /var/log/sshd.log")
        self.wait(node, "test -s /run/sshd.pid")

    def stop(self, node: str) -> None:
        """End sshd, and every session of it."""
        self.on(node, "rm /run/sshd.pid; pkill -KILL -x sshd", check=False)
        self.wait(node, "! pgrep -x sshd")

    def wait(self, node: str, line: str) -> None:
        deadline = time.monotonic() + 30
        while self.on(node, line, check=False).code:
            assert time.monotonic() < deadline, f"{node}: {line}"
            time.sleep(0.05)

    def enrol(self, node: str, *, key: str | None = None, check: bool = True) -> Completed:
        user = USER if node in GATEWAYS else "root"
        words = ["--ssh", f"-i {self.folder / 'admin'} -l {user} -oBatchMode=yes"]
        key = key or self.on(node, "ssh-keygen -lf /etc/ssh/test_host_key.pub").output.split()[1]
        return self.up.headnode("blades", "enrol", node, *words, "--host-key", key, check=check)

    def rollout(self, *words: str, code: int = 0) -> tuple[list[Any], str]:
        done = self.up.headnode("rollout", "run", "--json", *words, check=False)
        assert done.code == code, done.errors
        return list(json.loads(done.output)), done.errors

    def options(self, **more: object) -> dict[str, object]:
        own = "-oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null -oLogLevel=ERROR"
        return {
            "gateways": ",".join(GATEWAYS),
            "gateway_python": sys.executable,
            "gateway_options": f"-i{self.folder / 'admin'} -l{USER} {own}",
            "ssh_options": f"-i{HOME}/admin -lroot {own}",
            "timeout_s": 30.0,
            **more,
        }

    def argv(
        self,
        line: str,
        blades: Sequence[str],
        grace_s: float,
        *,
        refuse: bool = False,
        **more: object,
    ) -> list[str]:
        """The command line of a run over gateways, for the lab's headnode."""
        asked = {"line": line, "blades": [*blades], "grace_s": grace_s, "warm": len(blades) > 3}
        asked["refuse"] = refuse
        asked["options"] = self.options(**more)
        return [sys.executable, "-c", SCRIPT, json.dumps(asked)]

    def run_on(
        self, line: str, blades: Sequence[str] = BLADES, grace_s: float = 30.0, **more: object
    ) -> tuple[dict[str, list[Any]], Completed]:
        argv: list[str | Path] = [*self.argv(line, blades, grace_s, **more)]
        done = self.up.lab.headnode.run(argv, timeout_s=120)
        said = json.loads(done.output.splitlines()[-1])
        assert sorted(re.findall("shown (.*)", done.output)) == sorted([*blades])
        before, after = said["left"]
        if len(blades) > 3:
            assert after == before  # no threads and no handles are left
        return said["outcomes"], done

    def came_from(self, node: str) -> set[str]:
        """The machines whose keys sshd has accepted since its log was emptied."""
        known = {str(ip): name for name, ip in addresses_in(self.hosts).items()}
        log = self.on(node, "cat /var/log/sshd.log; : > /var/log/sshd.log").output
        return {known[ip] for ip in re.findall(r"Accepted publickey for \S+ from (\S+)", log)}

    @property
    def hosts(self) -> str:
        return (self.folder / "hosts").read_text().partition("\n")[2]


def codes(outcomes: dict[str, list[Any]]) -> dict[str, int | None]:
    return {name: each[0] for name, each in sorted(outcomes.items())}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("lab")
    names = {"canary": "blade01", "fleet": "blade[02-03],gate[1-2]"}
    few = ["@system", "sys-apps/bladeinfo"]
    blade = {"packages": few, "profile": rehearsal.PROFILE, "rings": names, "tree": "profiles"}
    more = {
        "classes": {"blade": blade},
        "publish": {"gates": []},
        "rollout": {
            "gateway_options": f"-l {USER}",
            "gateway_python": sys.executable,
            "settle_s": 0,
            "timeout_s": 120.0,
        },
    }
    with rehearsal.running(folder, 3, cache=tarballs, more=more) as up:
        text = up.config.read_text().replace("blade[02-03],gate[1-2]", "blade[02-03]")
        text, count = re.subn(r"^#?\s*gateways = .*$", 'gateways = "gate[1-2]"', text, flags=re.M)
        assert count == 1
        up.config.write_text(text)
        rehearsal.start_headnode(up)
        made = Here(up=up)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "admin"], timeout_s=60)
        public, secret = (folder / "admin.pub").read_text(), (folder / "admin").read_text()
        users = (
            "sshd:x:999:65534::/run/sshd:/usr/sbin/nologin",
            f"{USER}:x:4321:4321::{HOME}:/bin/bash",
        )
        for node in (*BLADES, *GATEWAYS):
            home, user = (HOME, USER) if node in GATEWAYS else ("/root", "root")
            made.on(
                node,
                "sed -i '/^sshd:/d' /etc/passwd\n"
                f"printf '%s\\n' {' '.join(users)} >> /etc/passwd\n"
                f"mkdir -p {home}/.ssh; rm -rf {home}/.ssh/* {home}/.bashrc\n"
                "mkdir -p /run/sshd /etc/ssh\n"
                "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/test_host_key\n"
                f"printf '%s' '{SSHD}' > /etc/ssh/test_config\n"
                f"printf '%s' '{public}' > {home}/.ssh/authorized_keys\n"
                f"printf '%s' '{secret if node in GATEWAYS else ''}' > {home}/admin\n"
                f"chown -R {user} {home}/.ssh {home}/admin; chmod 600 {home}/admin\n"
                f"chown {user} {home}; chmod 711 /root {home}",
            )
            made.serve(node)
        yield made


@pytest.mark.lab
def test_a_gateway_makes_a_key_of_its_own_and_is_given_the_blades_host_keys(here: Here) -> None:
    for number, gateway in enumerate(GATEWAYS):
        said = here.enrol(gateway).output
        assert said == (
            f"{gateway} is enrolled as a gateway. Blades that are enrolled from now on know its "
            "key.\n"
        )
        public = here.on(gateway, f"cat {HOME}/.ssh/headnode/id_ed25519.pub").output
        kept = here.folder / f"state/keys/ssh/gateways/{gateway}.pub"
        assert kept.read_text() == public
        assert public.endswith(f" headnode/{gateway}\n")
        mode = here.on(gateway, f"stat -c '%a %U' {HOME}/.ssh/headnode/id_ed25519").output
        assert mode == f"600 {USER}\n"
        assert len([*kept.parent.iterdir()]) == number + 1
    for blade in BLADES:
        assert here.enrol(blade).errors == ""
    known = (here.folder / "state/keys/ssh/known_hosts").read_text()
    assert {line.split()[0] for line in known.splitlines()} == {*BLADES, *GATEWAYS}
    for gateway in GATEWAYS:
        assert here.on(gateway, f"cat {HOME}/.ssh/headnode/known_hosts").output == known


@pytest.mark.lab
def test_blades_bind_the_keys_of_headnode_and_gateways_to_the_gate(here: Here) -> None:
    lines = here.on("blade01", "cat /root/.ssh/authorized_keys").output.splitlines()
    admin, *others = lines
    assert admin == (here.folder / "admin.pub").read_text().strip()
    gate = 'restrict,command="/usr/local/sbin/headnode-gate" ssh-ed25519 '
    assert [line.startswith(gate) for line in others] == [True] * 3
    assert [line.split()[-1] for line in others] == ["headnode", "headnode/gate1", "headnode/gate2"]
    before = here.on("gate1", f"cat {HOME}/.ssh/headnode/id_ed25519").output
    here.enrol("gate1")  # again: the same key, and no second line
    here.enrol("blade01")
    assert here.on("gate1", f"cat {HOME}/.ssh/headnode/id_ed25519").output == before
    assert here.on("blade01", "cat /root/.ssh/authorized_keys").output.splitlines() == lines
    assert len(here.on("gate1", f"cat {HOME}/.ssh/authorized_keys").output.splitlines()) == 2


@pytest.mark.lab
def test_doctor_finds_what_gateways_lack(here: Here) -> None:
    def says() -> list[tuple[str, str]]:
        found = json.loads(here.up.headnode("doctor", "gateways", "--json", check=False).output)
        return [(each["level"], each["text"]) for each in found]

    assert [level for level, _ in says()] == ["good", "good"]
    assert says()[0][1].startswith("gate1: ClusterShell 1.")
    here.on("gate1", f"echo >> {HOME}/.ssh/headnode/known_hosts")
    assert says()[0] == (
        "warning",
        "gate1: it has other host keys of blades than the headnode",
    )
    here.stop("gate2")
    level, text = says()[1]
    assert (level, text.startswith("gate2: not reached (ssh: connect to host gate2 ")) == (
        "problem",
        True,
    )
    here.serve("gate2")
    here.enrol("gate1")
    good = here.up.config.read_text()
    here.up.config.write_text(good.replace(f'"{sys.executable}"', '"/usr/bin/no-python"'))
    assert says() == [
        ("problem", f"{gateway}: /usr/bin/no-python there has no ClusterShell")
        for gateway in GATEWAYS
    ]
    here.up.config.write_text(good)
    assert [level for level, _ in says()] == ["good", "good"]


@pytest.mark.lab
def test_every_blade_pulls_through_a_gateway_and_none_is_reached_by_the_headnode(
    here: Here,
) -> None:
    plan = here.up.headnode("rollout", "plan").output
    assert plan.splitlines()[0] == "through 2 gateways, gate[1-2]"
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        here.up.headnode(*words)
    for node in (*BLADES, *GATEWAYS):
        here.came_from(node)
    reports, errors = here.rollout()
    assert [(each["blade"], each["result"]) for each in reports] == [
        (blade, "updated") for blade in BLADES
    ]
    assert errors.count("WARNING") == 0, errors
    for blade in BLADES:
        assert "," in here.on(blade, "bladeinfo --version").output  # emerge has installed it
    ways = [here.came_from(blade) for blade in BLADES]
    assert all(way and way <= {*GATEWAYS} for way in ways), ways
    assert set.union(*ways) == {*GATEWAYS}
    assert [here.came_from(gateway) for gateway in GATEWAYS] == [{"headnode"}] * 2
    reports, _ = here.rollout()
    assert {each["result"] for each in reports} == {"unchanged"}


@pytest.mark.lab
def test_a_gateways_key_can_do_nothing_else_on_a_blade(here: Here) -> None:
    line = f"ssh -i {HOME}/.ssh/headnode/id_ed25519 -oIdentitiesOnly=yes -oBatchMode=yes "
    line += f"-oUserKnownHostsFile={HOME}/.ssh/headnode/known_hosts blade01 id"
    done = here.on("gate1", line, check=False)
    assert done.code == 126
    assert "headnode-gate: the headnode may not run this here: id" in done.errors


@pytest.mark.lab
def test_every_blade_has_its_own_output_and_code(here: Here) -> None:
    outcomes, done = here.run_on(
        "echo \"I am  $(hostname) 100% %h '$X'\"; echo err >&2; echo; cat; "
        "case $(hostname) in blade02) exit 3;; blade03) kill -TERM $$;; esac"
    )
    assert codes(outcomes) == {"blade01": 0, "blade02": 3, "blade03": 255}
    for name in ("blade01", "blade02"):
        assert sorted(outcomes[name][1].split("\n")) == ["", f"I am  {name} 100% %h ''", "err"]
    assert done.errors == ""


@pytest.mark.lab
def test_a_blade_that_hangs_behind_a_gateway_is_cut_off_and_holds_up_no_other(here: Here) -> None:
    started = time.monotonic()
    outcomes, _ = here.run_on(
        "echo so far; case $(hostname) in blade01) sleep 60;; esac", fanout=2, timeout_s=8.0
    )
    assert time.monotonic() - started < 40
    assert codes(outcomes) == {"blade01": None, "blade02": 0, "blade03": 0}
    assert outcomes["blade01"][1] == "so far"
    assert 7.5 < outcomes["blade01"][2] < 16
    assert all(outcomes[name][2] < 7.5 for name in ("blade02", "blade03"))
    for gateway in GATEWAYS:
        here.wait(gateway, "! pgrep -f [C]lusterShell.Gateway && ! pgrep -x ssh")


@pytest.mark.lab
def test_seconds_are_a_blades_own_and_never_more_than_the_fan_out_run_at_once(here: Here) -> None:
    outcomes, _ = here.run_on("sleep 3; date +%s.%N", fanout=1)
    ended = sorted(float(each[1]) for each in outcomes.values())
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(ended))
    assert all(3 <= each[2] < 7 for each in outcomes.values())


@pytest.mark.lab
def test_a_gateway_takes_more_blades_than_it_was_given_file_handles_for(here: Here) -> None:
    assert here.on("gate1", "cat /proc/$(cat /run/sshd.pid)/limits").output.count(" 64 ") >= 1
    many = [f"b{number:03}" for number in range(60)]  # names of one blade: ssh_options say so
    where = f"{here.options()['ssh_options']} -oHostName=blade01"
    outcomes, _ = here.run_on("hostname", many, fanout=8, gateways="gate1", ssh_options=where)
    assert {(each[0], each[1]) for each in outcomes.values()} == {(0, "blade01")}
    assert len(outcomes) == 60


@pytest.mark.lab
def test_ctrl_c_ends_the_gateways_and_their_ways_to_blades(here: Here) -> None:
    argv = here.argv("echo > /tmp/begun; sleep 60", BLADES, 30.0)
    process = subprocess.Popen(
        here.up.lab.headnode.argv(argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for blade in BLADES:
        here.wait(blade, "test -e /tmp/begun")
    inside = here.up.lab.headnode.run(["pgrep", "-f", "asked ="], timeout_s=60).output.split()
    here.on("headnode", f"kill -INT {inside[-1]}")
    output, errors = process.communicate(timeout=30)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "gateway" not in [line.split()[0] for line in errors.splitlines()]
    assert output == ""  # it is no outcome of a blade's
    for gateway in GATEWAYS:
        here.wait(gateway, "! pgrep -f [C]lusterShell.Gateway && ! pgrep -x ssh")


@pytest.mark.lab
def test_an_error_while_an_outcome_is_shown_comes_out_and_ends_the_rest(here: Here) -> None:
    line = "case $(hostname) in blade01) exit;; esac; sleep 60"
    argv = here.argv(line, BLADES, 30.0, refuse=True)
    done = here.up.lab.headnode.run([*argv], timeout_s=60, check=False)
    assert done.output == "shown blade01\n"
    assert done.errors.splitlines()[-1] == "BrokenPipeError"
    for gateway in GATEWAYS:
        here.wait(gateway, "! pgrep -f [C]lusterShell.Gateway && ! pgrep -x ssh")


@pytest.mark.lab
def test_a_gateway_that_cannot_go_on_says_why_and_another_takes_the_rest(here: Here) -> None:
    here.stop("gate1")
    here.serve("gate1", limit="ulimit -n 64")  # the hard limit, too
    many = [f"b{number:03}" for number in range(90)]
    where = f"{here.options()['ssh_options']} -oHostName=blade01"
    outcomes, done = here.run_on("hostname", many, fanout=8, ssh_options=where)
    assert len(outcomes) == 90
    cut_off = [each for each in outcomes.values() if each[0]]
    assert 0 < len(cut_off) <= 8, cut_off
    assert {each[0] for each in cut_off} == {255}
    assert all("gateway gate1: [Errno 24] Too many open files" in each[1] for each in cut_off)
    assert "gateway gate1 cannot go on" in done.errors
    here.stop("gate1")
    here.serve("gate1")


@pytest.mark.lab
def test_a_blade_is_not_unwell_because_its_gateway_went_down_while_it_was_asked(
    here: Here,
) -> None:
    gate = "/usr/local/sbin/headnode-gate"
    slow = f"mkdir /tmp/asked 2> /dev/null && sleep 60\\nexec {gate}.real"
    here.on(
        "blade01",
        f"mv {gate} {gate}.real; printf '#!/bin/sh\\n{slow}\\n' > {gate}; chmod 755 {gate}",
    )
    argv = [sys.executable, "-c", WELL, here.up.config]
    process = subprocess.Popen(
        here.up.lab.headnode.argv(argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    here.wait("blade01", "test -e /tmp/asked")
    here.stop("gate1")
    output, errors = process.communicate(timeout=60)
    assert output == "{}\n", errors
    assert "gateway gate1 went down" in errors
    here.serve("gate1")
    here.on("blade01", f"mv {gate}.real {gate}")


@pytest.mark.lab
def test_a_gateway_that_is_off_has_its_blades_go_through_another_and_is_named(here: Here) -> None:
    here.stop("gate1")
    for blade in BLADES:
        here.came_from(blade)
    reports, errors = here.rollout()
    assert {each["result"] for each in reports} == {"unchanged"}
    assert (
        "gateway gate1 is not reached: ssh: connect to host gate1 port 22: Connection refused"
        in errors
    )
    assert [here.came_from(blade) for blade in BLADES] == [{"gate2"}] * 3


@pytest.mark.lab
def test_a_gateway_without_clustershell_is_named_with_what_its_python_says(here: Here) -> None:
    outcomes, _ = here.run_on("true", gateways="gate2", gateway_python="/usr/bin/no-python")
    assert codes(outcomes) == dict.fromkeys(BLADES, 255)
    assert outcomes["blade03"][1].startswith("no gateway is reached; gate2: ")
    assert "no-python" in outcomes["blade03"][1]


@pytest.mark.lab
def test_a_gateway_that_goes_down_leaves_its_blades_unreached_and_is_named(here: Here) -> None:
    line = "echo so far; echo > /tmp/long; sleep 60"
    argv = here.argv(line, BLADES[:1], 30.0, gateways="gate2")
    process = subprocess.Popen(
        here.up.lab.headnode.argv(argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    here.wait("blade01", "test -e /tmp/long")
    here.stop("gate2")
    output, errors = process.communicate(timeout=40)
    said = json.loads(output.splitlines()[-1])["outcomes"]["blade01"]
    assert said[0] == 255
    assert said[1].startswith("so far\ngateway gate2 went down")
    assert "gateway gate2 went down" in errors


@pytest.mark.lab
def test_without_any_gateway_no_blade_is_reached_and_both_are_named(here: Here) -> None:
    reports, _ = here.rollout(code=1)
    assert {each["result"] for each in reports} == {"unreached", "not tried"}
    refused = "ssh: connect to host {0} port 22: Connection refused"
    assert reports[0]["error"] == "no gateway is reached; " + "; ".join(
        f"{gateway}: {refused.format(gateway)}" for gateway in GATEWAYS
    )
    for gateway in GATEWAYS:
        here.serve(gateway)


@pytest.mark.lab
def test_a_gateway_that_hangs_is_given_up_and_the_others_go_on(here: Here) -> None:
    argv = here.argv("echo > /tmp/$$.began; sleep 1", BLADES, 3.0, fanout=1, timeout_s=8.0)
    freeze = "until pkill -STOP -f [C]lusterShell.Gateway; do sleep 0.02; done"
    ways = [here.up.lab.node("gate1").argv(["sh", "-c", freeze])]
    frozen = [subprocess.Popen(each) for each in ways]
    done = subprocess.run(
        here.up.lab.headnode.argv(argv), capture_output=True, text=True, timeout=60, check=True
    )
    for each in frozen:
        each.wait(10)
    here.on("gate1", "pkill -KILL -f [C]lusterShell.Gateway", check=False)
    outcomes = json.loads(done.stdout.splitlines()[-1])["outcomes"]
    assert sorted(codes(outcomes).values(), key=str) == [0, 0, 255]
    [said] = [each[1] for each in outcomes.values() if each[0]]
    assert said == "gateway gate1 did not answer within 11 s"
    assert said in done.stderr


@pytest.mark.lab
def test_a_gateway_whose_shell_prints_something_is_named(here: Here) -> None:
    here.on("gate1", "printf 'echo \"<hello\"\\n' > " + f"{HOME}/.bashrc")
    outcomes, _ = here.run_on("true", gateways="gate1")
    assert codes(outcomes) == dict.fromkeys(BLADES, 255)
    assert outcomes["blade01"][1].startswith("gateway gate1 went down: not well-formed ")
    here.on("gate1", f"rm {HOME}/.bashrc")


@pytest.mark.lab
def test_a_blade_that_is_off_behind_a_gateway_is_unreached_and_the_others_pull(here: Here) -> None:
    here.stop("blade03")
    reports, _ = here.rollout(code=3)
    assert [each["result"] for each in reports] == ["unchanged", "unchanged", "unreached"]
    assert re.fullmatch(
        r"through gateway gate[12]: ssh: connect to host blade03 port 22: Connection refused",
        reports[2]["error"],
    )
    here.up.lab.node("blade03").stop()  # power off: nobody refuses any more
    reports, _ = here.rollout(code=3)
    assert [each["result"] for each in reports] == ["unchanged", "unchanged", "unreached"]
    assert re.match(r"through gateway gate[12]: ssh: connect to host blade03 ", reports[2]["error"])


def test_a_gateways_key_is_found_below_a_greeting_and_nothing_else_is_taken() -> None:
    said = "Welcome to gate1!\nssh-ed25519 AAAAC3Nza/+= me@somewhere\n"
    assert read_public("gate1", said) == "ssh-ed25519 AAAAC3Nza/+= headnode/gate1"
    with pytest.raises(RolloutError) as error:
        read_public("gate1", 'command="x" ssh-rsa AAAA\n')
    assert str(error.value) == ("gate1 shows no key of its own. Look at ~/.ssh/headnode there.")
