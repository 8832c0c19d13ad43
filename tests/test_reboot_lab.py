"""`headnode rollout reboot` on lab blades with the real pull, grub-mkconfig and GRUB's tools.

The headnode comes in by a real sshd of each blade, which was enrolled: by its own key, bound to the
gate, and with the blades' host keys checked. There is no other key on them.

A lab blade shares the machine's kernel, so this is simulated, and nothing else: what the kernel
says of itself (/proc/sys/kernel/osrelease and random/boot_id are files of the test), and a restart:
the blade's `reboot` leaves a file, upon which the test takes the node down and starts it again with
the entry that GRUB's environment block names, as GRUB's script would. grub-probe would look for a
disk. Kernels are made-up files; that they are due stands in the ledger as a pull would report it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from blades import drained
from blades import lab as labs
from blades.enrol import GATE_PATH, confirmed
from blades.inventory import all_blades
from blades.lab import Lab
from blades.setup import setup_files
from config import template
from config.load import load
from config.portage import Rendered
from headnode.commands.bladestates import known_blades
from headnode.node.spec import Bind, NodeSpec, empty_in_upper, write_upper
from headnode.process import Completed, run
from schedules.ledger.ledger import Ledger
from schedules.rollout import BladeReport, Result
from schedules.site import Site

pytestmark = pytest.mark.lab

NAMES = ("blade01", "blade02", "blade03")
OLD = "5.0-old"
NOW = "/var/lib/headnode/now"  # what the blade took from its deployment
ASKED = "var/lib/lab-reboot"
PROBE = """#!/bin/sh
case "$*" in
	*--target=abstraction*) ;;
	*--target=fs_uuid*|*--target=partuuid*) echo 0123-4567 ;;
	*--target=fs*) echo ext2 ;;
	*--target=device*) echo /dev/sda1 ;;
	*--target=compatibility_hint*|*--target=drive*|*--target=hints_string*) echo hd0,msdos1 ;;
	*--target=partmap*) echo msdos ;;
	*) echo "unexpected: grub-probe $*" >&2; exit 99 ;;
esac
"""
SSHD_CONFIG = (Path(__file__).parent / "data/sshd_config").read_text()
SSHD_USER = "sshd:x:999:65534::/run/sshd:/usr/sbin/nologin"
KEYS = "/root/.ssh/authorized_keys"
DOWN_S = 0.3  # between the command for a restart, the end of all processes, and of the node
ENTRY = "gnulinux-advanced-0123-4567>gnulinux-{}-advanced-0123-4567"


class Machines:
    """The lab's blades, and what of them is hardware: they restart when they ask for it."""

    def __init__(self, folder: Path, lab: Lab, specs: dict[str, NodeSpec]) -> None:
        self.folder, self.lab, self.specs = folder, lab, specs
        self.panics: set[str] = set()  # releases that do not come up
        self.boots: list[str] = []
        self.hold = threading.Event()  # set: whoever restarts stays down
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def site(self) -> Site:
        return Site(cluster=load(self.folder / "cluster.toml"))

    @property
    def binhost(self) -> Path:
        return self.site.binhost("blade").folder

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for name, spec in self.specs.items():
                if (spec.upper / ASKED).exists() and not self.hold.is_set():
                    self._restart(name, spec)

    def _restart(self, name: str, spec: NodeSpec) -> None:
        node = self.lab.node(name)
        time.sleep(DOWN_S)
        self.on(name, "kill -TERM -1", check=False)  # as init does: connections end, none hangs
        time.sleep(DOWN_S)
        node.stop()
        # Sockets that are being closed keep a network, and its address, for a minute more; and
        # where a machine keeps its card, the node has another.
        for words in (["link", "delete", f"port.{node.pid}"], ["neigh", "flush", "dev", "br0"]):
            self.lab.headnode.run(["ip", *words], timeout_s=30, check=False)
        (spec.upper / ASKED).unlink()
        release = self._loaded(spec)
        while release in self.panics:
            release = self._loaded(spec)  # panic=30: GRUB comes once more
        turn_on(self.folder, name, release)
        self.boots.append(f"{name} {release}")
        self.lab = labs.join(self.lab, spec)
        self.serve(name)

    def serve(self, blade: str) -> None:
        """Start the blade's sshd, as its init would."""
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
        assert sshd, "no sshd: bootstrap.sh installs it"
        self.on(blade, f"mkdir -p /run/sshd; {sshd} -f /etc/ssh/test_config")

    def new_host_key(self, blade: str) -> str:
        """Give the blade another host key; its fingerprint, as it is read on the console."""
        key = "/etc/ssh/test_host_key"
        self.on(blade, f"rm -f {key} {key}.pub; ssh-keygen -q -t ed25519 -N '' -f {key}")
        return self.on(blade, f"ssh-keygen -lf {key}.pub").output.split()[1]

    def enrol(self, blade: str) -> None:
        """Enrol the blade; then the administrator's key goes, and the headnode's alone is left."""
        self.on(blade, f"grep -q ^sshd: /etc/passwd || echo '{SSHD_USER}' >> /etc/passwd")
        self.on(blade, "chown -R root:root /root/.ssh && chmod 700 /root /root/.ssh")
        shown = self.new_host_key(blade)
        self.serve(blade)
        own = f"-i {self.folder / 'admin'} -oBatchMode=yes"
        self.headnode("blades", "enrol", blade, "--host-key", shown, "--ssh", own)
        self.on(blade, f"sed -i '/ admin$/d' {KEYS}")

    def _loaded(self, spec: NodeSpec) -> str:
        """The release that GRUB boots: next_entry once, else saved_entry."""
        block = spec.upper / "boot/grub/grubenv"
        lines = block.read_text().splitlines()
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        entry = said.get("next_entry") or said["saved_entry"]
        subprocess.run(["grub-editenv", block, "unset", "next_entry"], check=True)
        return entry.split("gnulinux-")[-1].removesuffix("-advanced-0123-4567")

    def on(self, blade: str, line: str, *, check: bool = True) -> Completed:
        return self.lab.node(blade).run(["sh", "-ec", line], timeout_s=120, check=check)

    def said(self, blade: str, *words: str) -> Any:
        """What the blade's own pull answers."""
        line = " ".join(["/usr/local/sbin/headnode-pull", *words])
        return json.loads(self.on(blade, line, check=False).output.splitlines()[-1])

    def argv(self, *words: str) -> list[str]:
        config = self.folder / "cluster.toml"
        return [sys.executable, "-m", "headnode", "--config", str(config), *words]

    def headnode(self, *words: str, code: int = 0) -> Completed:
        done = self.lab.headnode.run(self.argv(*words), timeout_s=300, check=False)
        assert done.code == code, done.tail
        return done

    def reboot(self, *words: str, code: int = 0) -> list[Any]:
        done = self.headnode("rollout", "reboot", "--json", *words, code=code)
        return list(json.loads(done.output))

    def listed(self) -> dict[str, Any]:
        return {each.blade.name: each.as_json() for each in known_blades(self.site, None)}

    def drained(self) -> dict[str, str]:
        return drained.drained(self.binhost, datetime.now(UTC))

    def default(self, blade: str) -> str:
        return self.on(blade, "grub-editenv /boot/grub/grubenv list").output

    def due(self, number: int) -> str:
        """A kernel that every blade is due: its files, and what a pull would have said of it."""
        release = f"6.1.9-site-r{number}"
        package = f"sys-kernel/headnode-site-6.1.9-r{number}"
        says = {"flavour": "site", "release": release, "package": package, "initramfs": []}
        folder = f"/lib/modules/{release}"
        with Ledger.of(self.site) as ledger:
            for blade in all_blades(self.site.cluster):
                self.on(
                    blade.name,
                    f"rm -rf /var/db/pkg/sys-kernel; mkdir -p {folder} /var/db/pkg/{package}\n"
                    f"for f in vmlinuz System.map config; do echo {release} > {folder}/$f; done\n"
                    f"echo '{json.dumps(says)}' > {folder}/headnode.json; headnode-kernel --settle",
                )
                said = self.said(blade.name, "status")["kernels"]
                report = BladeReport(
                    blade=blade.name,
                    ring=blade.ring,
                    result=Result.UPDATED,
                    kernel=said["running"],
                    kernel_due=said["due"],
                )
                ledger.pulled(report, datetime.now(UTC))
        return release

    def wait_for(self, what: str, path: Path) -> None:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)


def turn_on(folder: Path, name: str, release: str) -> None:
    """Another boot of a blade, with that kernel."""
    (folder / f"{name}.release").write_text(f"{release}\n")
    (folder / f"{name}.boot").write_text(f"{uuid.uuid4()}\n")


def specs_of(folder: Path, lab: Lab, site: Site) -> Iterator[NodeSpec]:
    for blade in all_blades(site.cluster):
        turn_on(folder, blade.name, OLD)
        kernel = PurePosixPath("/proc/sys/kernel")
        binds = (
            Bind(source=folder / f"{blade.name}.release", target=kernel / "osrelease"),
            Bind(source=folder / f"{blade.name}.boot", target=kernel / "random/boot_id"),
        )
        setup = setup_files(site.cluster, blade, [], None)
        files = {"/usr/local/sbin/reboot": f"#!/bin/sh\ntouch /{ASKED}\n"}
        files |= {"/etc/default/grub": "GRUB_DEFAULT=saved\n", "/etc/fstab": "# none\n"}
        # bash reads that for a command over ssh; the machine's own is none of a blade's business.
        files |= {"/root/.bashrc": ""}
        files |= {"/etc/ssh/test_config": SSHD_CONFIG, KEYS: (folder / "admin.pub").read_text()}
        rendered = Rendered(files={**setup.files, **files}, links=setup.links)
        spec = labs.blade_spec(lab.folder, blade.name, Path("/"), rendered, binds=binds)
        for path in ("/boot", "/lib/modules", "/var/db/pkg"):
            empty_in_upper(spec, str(Path(path).resolve()))
        write_upper(spec, {"/usr/sbin/grub-probe": PROBE}, mode=0o755)
        write_upper(
            spec, {f"/boot/{each}-{OLD}": "" for each in ("vmlinuz", "System.map", "config")}
        )
        (spec.upper / "boot/grub").mkdir()
        yield spec


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("reboot")
    values: dict[str, Any] = {
        "state": {"path": str(folder / "state"), "reserve_mib": 0},
        "signing": {"mode": "off"},
        "classes": {
            "blade": {
                "packages": ["app-misc/a"],
                "rings": {"canary": "blade01", "fleet": "blade[02-03]"},
            }
        },
        "rollout": {
            "ssh_options": "-l root",
            "drain_s": 0.0,
            "reboot_s": 60.0,
            "drain_command": f"echo drain $HEADNODE_NODES >> {folder}/slurm",
            "undrain_command": f"echo resume $HEADNODE_NODES >> {folder}/slurm",
        },
    }
    text, count = re.subn('^kernel = ""$', 'kernel = "site"', template.render(values), flags=re.M)
    assert count == 1
    (folder / "cluster.toml").write_text(text)
    site = Site(cluster=load(folder / "cluster.toml"))
    words: list[str | Path] = ["-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f"]
    run(["ssh-keygen", *words, folder / "admin"], timeout_s=60)
    with labs.running(folder / "lab", {}, later=NAMES) as lab:
        specs = {spec.name: spec for spec in specs_of(folder, lab, site)}
        for spec in specs.values():
            lab = labs.join(lab, spec)
        made = Machines(folder, lab, specs)
        for name in NAMES:
            made.enrol(name)
        yield made
        made.end()


def test_a_pending_kernel_is_shown_and_planned(machines: Machines) -> None:
    release = machines.due(1)
    listed = machines.headnode("blades", "list").output.splitlines()
    assert [line.split()[-2] for line in listed[-3:]] == ["pending"] * 3
    assert machines.headnode("rollout", "reboot", "--plan", "--at-once", "2").output == (
        f"1 of 2: blade[01-02] to {release}\n2 of 2: blade03 to {release}\n"
    )
    assert machines.headnode("rollout", "plan").output.splitlines()[-1] == (
        f"reboot pending: blade[01-03] to {release} (headnode rollout reboot)"
    )
    assert "blade[01-03]: reboot pending." in machines.headnode("status").output


def test_blades_come_back_with_the_kernel_that_stays_one_after_another(machines: Machines) -> None:
    release = machines.listed()["blade01"]["kernel_due"]
    drained.drain(machines.binhost, ["blade03"], "memory test", datetime.now(UTC))
    reports = machines.reboot()
    assert [(each["blade"], each["fate"], each["kernel"], each["error"]) for each in reports] == [
        ("blade03", "drained", "", ""),
        ("blade01", "rebooted", release, ""),
        ("blade02", "rebooted", release, ""),
    ]
    assert machines.boots == [f"blade01 {release}", f"blade02 {release}"]
    assert machines.default("blade01") == f"saved_entry={ENTRY.format(release)}\n"
    assert machines.drained() == {"blade03": "memory test"}
    assert (machines.folder / "slurm").read_text().splitlines() == [
        *("drain blade01", "resume blade01", "drain blade02", "resume blade02")
    ]
    assert {name: each["reboot_pending"] for name, each in machines.listed().items()} == {
        "blade01": False,
        "blade02": False,
        "blade03": True,
    }
    drained.undrain(machines.binhost, ["blade03"])
    assert [each["blade"] for each in machines.reboot("--ring", "fleet")] == ["blade03"]
    assert machines.headnode("rollout", "reboot").output == "No blade has a reboot pending.\n"


def test_a_kernel_that_panics_stops_at_the_first_blade(machines: Machines) -> None:
    old, release = machines.listed()["blade01"]["kernel"], machines.due(2)
    machines.panics.add(release)
    why = (
        f"{release} was booted and fell back to {old}. It is not tried again until another "
        "kernel is due, or headnode-kernel --again was run on the blade"
    )
    reports = machines.reboot(code=1)
    assert [(each["blade"], each["fate"], each["error"]) for each in reports] == [
        ("blade01", "failed", f"{why}. It stays drained; headnode rollout reboot tries it again"),
        ("blade02", "not tried", ""),
        ("blade03", "not tried", ""),
    ]
    assert machines.drained() == {"blade01": f"headnode rollout reboot: {why}"}
    assert machines.default("blade01") == f"saved_entry={ENTRY.format(old)}\n"
    assert machines.listed()["blade01"]["error"].startswith(why)
    machines.panics.clear()  # somebody has put the machine right
    machines.on("blade01", "headnode-kernel --again")
    assert [each["fate"] for each in machines.reboot("--at-once", "3")] == ["rebooted"] * 3
    assert machines.drained() == {}


def test_a_blade_that_is_not_well_stays_drained_and_goes_back_when_it_is_restarted(
    machines: Machines,
) -> None:
    old, release = machines.listed()["blade01"]["kernel"], machines.due(3)
    health = json.dumps({"health": [f"! grep -q {release} /proc/sys/kernel/osrelease"]})
    machines.on(
        "blade01",
        f"mkdir -p {NOW}; echo '{health}' > {NOW}/blade.json",
    )
    (report, *others) = machines.reboot(code=1)
    assert report["error"].startswith(f"it is not well with {release}: `! grep -q {release} ")
    assert [each["fate"] for each in others] == ["not tried"] * 2
    assert machines.default("blade01") == f"saved_entry={ENTRY.format(old)}\n"
    machines.on("blade01", f"rm {NOW}/blade.json")
    assert [each["fate"] for each in machines.reboot("--at-once", "3")] == ["rebooted"] * 3
    assert sorted(machines.boots[-2:]) == [f"blade02 {release}", f"blade03 {release}"]
    assert machines.drained() == {}


@pytest.mark.parametrize(
    ("number", "how"),
    [(4, signal.SIGKILL), pytest.param(5, signal.SIGINT, marks=pytest.mark.slow)],
)
def test_what_was_stopped_while_a_blade_restarts_is_gone_on_with(
    machines: Machines, number: int, how: signal.Signals
) -> None:
    release = machines.due(number)
    machines.hold.set()
    argv = machines.lab.headnode.argv(machines.argv("rollout", "reboot", "--nodes", "blade[01-02]"))
    begun = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    machines.wait_for("blade01 asks for a restart", machines.specs["blade01"].upper / ASKED)
    busy = machines.headnode("rollout", "run", code=1)
    assert busy.errors.startswith("headnode: headnode rollout reboot (process ")
    said = json.loads(machines.headnode("rollout", "status", "--json").output)
    assert (said["running"], said["reboot_running"]) == (False, True)
    assert said["reboot"]["blades"]["blade01"]["does"] == "restarts"
    os.killpg(begun.pid, how)  # as a terminal does
    errors = begun.communicate(timeout=60)[1]
    machines.hold.clear()
    if how is signal.SIGINT:
        assert errors.endswith(
            "Stopped. blade01 may be restarting, and stays drained: headnode rollout reboot goes "
            "on with it.\n\nheadnode: stopped\n"
        )
    assert machines.drained() == {"blade01": "headnode rollout reboot"}
    plan = machines.headnode("rollout", "reboot", "--plan", "--nodes", "blade01")
    assert plan.output == f"1 of 1: blade01 to {release}, left by a run that was cut off\n"
    said = json.loads(machines.headnode("rollout", "status", "--json").output)
    ended = "running" if how is signal.SIGKILL else "interrupted"
    assert (said["reboot_running"], said["reboot"]["phase"]) == (False, ended)
    assert [each["fate"] for each in machines.reboot("--at-once", "3")] == ["rebooted"] * 3
    assert machines.drained() == {}
    said = json.loads(machines.headnode("rollout", "status", "--json").output)
    assert (said["reboot"]["phase"], len(said["reboot"]["blades"])) == ("done", 3)


def test_a_blade_with_a_job_is_left_as_it_is(machines: Machines) -> None:
    machines.due(6)
    pull = {"pull": {"defer_command": "true"}}
    machines.on(
        "blade01",
        f"mkdir -p {NOW}; echo '{json.dumps(pull)}' > {NOW}/blade.json",
    )
    (report,) = machines.reboot("--nodes", "blade01", code=1)
    assert (report["fate"], report["error"]) == ("deferred", "busy: `true` says so")
    assert machines.drained() == {}
    machines.on("blade01", f"touch /var/lib/headnode/applying; rm {NOW}/blade.json")
    (report,) = machines.reboot("--nodes", "blade01", code=1)
    assert (report["fate"], report["error"]) == (
        "failed",
        "its last pull is not through: headnode rollout run goes on with it",
    )
    machines.on("blade01", "rm /var/lib/headnode/applying")


def test_the_headnode_came_in_by_its_own_key_and_may_do_nothing_else(machines: Machines) -> None:
    wallet = machines.site.wallet
    line = f'restrict,command="{GATE_PATH}" {wallet.public()}\n'
    assert [machines.on(name, f"cat {KEYS}").output for name in NAMES] == [line] * 3

    def ssh(word: str) -> Completed:
        argv = ["ssh", *wallet.ssh_options(), "-oBatchMode=yes", "-l", "root", "blade01", word]
        return machines.lab.headnode.run(argv, timeout_s=60, check=False)

    assert ssh("reboot").code == 126
    assert ssh("/usr/local/sbin/headnode-pull reboot; reboot").code == 126
    assert json.loads(ssh("/usr/local/sbin/headnode-pull status").output)["result"] == "status"


def test_a_blade_that_shows_another_host_key_is_not_restarted(machines: Machines) -> None:
    machines.due(7)
    boots = list(machines.boots)
    machines.on("blade01", "kill $(cat /run/sshd.pid)")
    shown = machines.new_host_key("blade01")
    machines.serve("blade01")
    (report,) = machines.reboot("--nodes", "blade01", code=1)
    assert report["fate"] == "unreached"
    assert "Host key verification failed." in report["error"]
    assert (machines.boots, machines.drained()) == (boots, {})
    known = machines.site.wallet.known_hosts
    key = machines.on("blade01", "cut -d' ' -f1,2 /etc/ssh/test_host_key.pub").output.strip()
    machines.site.wallet.trust("blade01", confirmed([f"blade01 {key}"], shown))
    assert key in known.read_text()
    (report,) = machines.reboot("--nodes", "blade01")
    assert report["fate"] == "rebooted"
