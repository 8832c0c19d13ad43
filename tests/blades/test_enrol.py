"""A blade is enrolled by a real sshd on a lab blade; the headnode then comes in by its own key."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blades import lab as labs
from blades.boot import SYSTEMD
from blades.enrol import GATE_PATH, Wallet, authorized_line, confirmed, fingerprint
from blades.lab import Lab
from blades.setup import PULL_PATH
from blades.timer import CRON, LINK, PATHS, TIMER, timer_files
from config import template
from config.portage import Rendered
from headnode.errors import RolloutError
from headnode.process import Completed, run

SSHD = (Path(__file__).parents[1] / "data/sshd_config").read_text()


@dataclass(frozen=True, kw_only=True)
class Here:
    """A lab of one blade with sshd, and the administrator's own key."""

    lab: Lab
    folder: Path

    def headnode(self, *words: str, check: bool = True) -> Completed:
        argv = [sys.executable, "-m", "headnode", "--config", self.folder / "cluster.toml", *words]
        return self.lab.headnode.run(argv, timeout_s=300, check=check)

    def on(self, line: str, *, check: bool = True) -> Completed:
        return self.lab.node("blade01").run(["sh", "-c", line], timeout_s=60, check=check)

    def enrol(self, *words: str, check: bool = True) -> Completed:
        own = f"-i {self.folder / 'admin'} -oBatchMode=yes"
        return self.headnode("blades", "enrol", "blade01", "--ssh", own, *words, check=check)

    def ssh(self, line: str) -> Completed:
        """What somebody with the headnode's key can do on the blade."""
        keys = self.folder / "state/keys/ssh"
        argv = ["ssh", f"-i{keys / 'id_ed25519'}", f"-oUserKnownHostsFile={keys / 'known_hosts'}"]
        argv += ["-oIdentitiesOnly=yes", "-oBatchMode=yes", "-l", "root", "blade01", line]
        return self.lab.headnode.run(argv, timeout_s=60, check=False)

    def serve(self) -> None:
        """Start sshd on the blade, with a host key that is new."""
        self.on(
            "kill $(cat /run/sshd.pid) 2> /dev/null; rm -f /etc/ssh/test_host_key*", check=False
        )
        self.on("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/test_host_key")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
        assert sshd, "no sshd: bootstrap.sh installs it"
        self.on(f"mkdir -p /run/sshd; {sshd} -f /etc/ssh/test_config")
        deadline = time.monotonic() + 30
        while self.on("test -s /run/sshd.pid", check=False).code:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def fingerprint(self) -> str:
        """The host key as it is read on the blade's console."""
        return self.on("ssh-keygen -lf /etc/ssh/test_host_key.pub").output.split()[1]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("enrol")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "admin"], timeout_s=60)
    values: dict[str, Any] = {
        "state": {"path": str(folder / "state"), "reserve_mib": 0},
        "signing": {"mode": "off"},
        "classes": {"blade": {"packages": ["app-misc/a"], "rings": {"canary": "blade01"}}},
        "rollout": {"ssh_options": "-l root"},
    }
    (folder / "cluster.toml").write_text(template.render(values))
    files = {
        "/etc/ssh/test_config": SSHD,
        "/root/.ssh/authorized_keys": (folder / "admin.pub").read_text(),
    }
    with labs.running(folder / "lab", {"blade01": Rendered(files=files)}) as lab:
        made = Here(lab=lab, folder=folder)
        user = "sshd:x:999:65534::/run/sshd:/usr/sbin/nologin"
        made.on(f"grep -q ^sshd: /etc/passwd || echo {user} >> /etc/passwd")
        made.on("chown -R root:root /root/.ssh && chmod 700 /root /root/.ssh")
        made.serve()
        yield made


@pytest.mark.lab
def test_without_a_fingerprint_the_keys_are_shown_and_nothing_is_sent(here: Here) -> None:
    done = here.enrol(check=False)
    assert done.code == 2
    assert f"  {here.fingerprint} (ssh-ed25519)\n" in done.errors
    assert here.on("test -e /etc/headnode", check=False).code == 1


@pytest.mark.lab
def test_another_host_key_than_the_one_on_the_console_is_refused(here: Here) -> None:
    wanted = "SHA256:" + "A" * 43
    done = here.enrol("--host-key", wanted, check=False)
    assert (done.code, done.errors) == (
        1,
        f"headnode: The blade shows other host keys than {wanted}:\n  {here.fingerprint} "
        "(ssh-ed25519)\nIt is another machine, was installed anew, or somebody is in between.\n",
    )
    assert here.on("test -e /etc/headnode", check=False).code == 1


@pytest.mark.lab
def test_an_enrolled_blade_has_its_files_and_a_secret_that_only_root_reads(here: Here) -> None:
    done = here.enrol("--host-key", here.fingerprint)
    assert done.output == "blade01 is enrolled: it pulls with the next rollout.\n"
    assert json.loads(here.on("cat /etc/headnode/pull.json").output)["blade"] == "blade01"
    secret = here.on("cat /etc/headnode/secret").output
    assert len(secret.strip()) == 64
    assert secret == (here.folder / "state/keys/blades/blade01").read_text()
    assert here.on("stat -c %a /etc/headnode/secret").output == "600\n"
    before = here.on("cat /root/.ssh/authorized_keys").output
    assert before.startswith((here.folder / "admin.pub").read_text())
    here.enrol("--host-key", here.fingerprint)  # again: the same, and no second line
    assert here.on("cat /root/.ssh/authorized_keys").output == before
    assert here.on("cat /etc/headnode/secret").output == secret


@pytest.mark.lab
def test_a_blade_that_pulls_by_itself_is_given_its_timer_and_loses_it_again(here: Here) -> None:
    config = here.folder / "cluster.toml"
    text = config.read_text()
    config.write_text(text.replace('own_at = ""', 'own_at = "02:30"'))
    here.enrol("--host-key", here.fingerprint)
    wanted = timer_files("blade01", "02:30", 3600.0)
    assert {path: here.on(f"cat {path}").output for path in wanted.files} == wanted.files
    assert here.on(f"cat {LINK}").output == wanted.files[f"{SYSTEMD}/{TIMER}"]
    assert here.on(f"stat -c %a {CRON}").output == "644\n"
    config.write_text(text)
    here.enrol("--host-key", here.fingerprint)
    assert here.on(f"ls -d {' '.join(PATHS)}", check=False).output == ""


@pytest.mark.lab
def test_doctor_tells_a_blade_that_was_edited_one_that_is_enrolled_and_one_that_is_off(
    here: Here,
) -> None:
    def says(*config: str) -> list[tuple[str, str]]:
        found = json.loads(here.headnode(*config, "doctor", "blades", "--json", check=False).output)
        return [(each["level"], each["text"]) for each in found]

    # The headnode's key alone: it may not look at files, and learns that the pull is there.
    assert says() == [("good", "blade01: enrolled; their pulls look after their files")]
    known = here.folder / "state/keys/ssh/known_hosts"
    own = f"-i {here.folder / 'admin'} -l root -oBatchMode=yes -oUserKnownHostsFile={known}"
    text = (here.folder / "cluster.toml").read_text()
    (here.folder / "own.toml").write_text(text.replace('"-l root"', f'"{own}"'))
    with_his = ("--config", str(here.folder / "own.toml"))
    assert says(*with_his) == [("good", "1 of 1 blades are as they should be")]
    here.on("echo 'USE=\"-doc\"' >> /etc/portage/make.conf")
    assert says(*with_his) == [
        ("warning", "blade01: /etc/portage/make.conf differ from what it was given")
    ]
    here.on("kill $(cat /run/sshd.pid)")
    [(level, said)] = says(*with_his)
    assert (level, said.startswith("blade01: not reached (")) == ("problem", True)
    here.on("$(command -v sshd || echo /usr/sbin/sshd) -f /etc/ssh/test_config")
    here.enrol("--host-key", here.fingerprint)  # which puts the file right
    assert says(*with_his) == [("good", "1 of 1 blades are as they should be")]


@pytest.mark.lab
@pytest.mark.parametrize(
    "line",
    [
        "id",
        "",
        "sh -c id",
        f"{PULL_PATH} --now",
        f"{PULL_PATH} dead-man 1",
        f"{PULL_PATH} confirm 1; id",
        f"{PULL_PATH} confirm 1 2",
        f"{PULL_PATH} confirm $(id)",
        f"{PULL_PATH} status; id",
        f"{PULL_PATH}  status",
    ],
)
def test_the_headnodes_key_can_do_nothing_else(here: Here, line: str) -> None:
    done = here.ssh(line)
    assert done.code == 126
    assert f"headnode-gate: the headnode may not run this here: {line}" in done.errors
    assert "uid=" not in done.output


@pytest.mark.lab
def test_the_headnodes_key_can_ask_and_confirm(here: Here) -> None:
    assert json.loads(here.ssh(f"{PULL_PATH} status").output)["result"] == "status"
    assert json.loads(here.ssh(f"{PULL_PATH} health").output)["result"] == "well"
    said = json.loads(here.ssh(f"{PULL_PATH} confirm 7").output)
    assert said["error"] == "no pull of deployment 7 waits to be confirmed"
    # Without a kernel of headnode's nothing is due, and nothing restarts.
    assert json.loads(here.ssh(f"{PULL_PATH} reboot").output)["result"] == "current"
    assert json.loads(here.ssh(f"{PULL_PATH} booted").output)["result"] == "current"


@pytest.mark.lab
def test_a_rollout_comes_in_by_that_key(here: Here) -> None:
    """There is no `headnode serve` in this lab: that the pull says so shows that it ran."""
    done = here.headnode("rollout", "run", "--json", check=False)
    (report,) = json.loads(done.output)
    assert report["result"] == "unreached", report
    assert report["error"] == (
        "the blade cannot reach the headnode at http://headnode:8080: "
        "[Errno 111] Connection refused"
    )
    warning = (
        "no blade that answers can reach the headnode at http://headnode:8080: [Errno 111] "
        "Connection refused. Is headnode serve down? Start it (headnode serve), then headnode "
        "rollout run"
    )
    assert f"WARNING: {warning}\n" in done.errors
    status = json.loads(here.headnode("rollout", "status", "--json").output)["rollout"]
    assert (status["phase"], status["why"]) == ("stopped", warning)


@pytest.mark.lab
def test_a_host_key_that_has_changed_is_refused_and_said(here: Here) -> None:
    here.serve()
    done = here.headnode("rollout", "run", "--json", check=False)
    (report,) = json.loads(done.output)
    assert report["result"] == "unreached"
    assert "Host key verification failed." in report["error"]
    here.enrol("--host-key", here.fingerprint)
    (report,) = json.loads(here.headnode("rollout", "run", "--json", check=False).output)
    assert (report["result"], report["kernel"] != "") == ("unreached", True)


def test_a_fingerprint_is_what_ssh_keygen_prints(tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], timeout_s=60)
    said = run(["ssh-keygen", "-lf", tmp_path / "key.pub"], timeout_s=60).output
    line = "blade01 " + (tmp_path / "key.pub").read_text()
    assert fingerprint(line) == said.split()[1]
    assert confirmed([line], said.split()[1]) == [line]


@pytest.mark.parametrize("line", ["", "blade01", "blade01 ssh-ed25519 !!!"])
def test_what_is_no_host_key_is_refused(line: str) -> None:
    with pytest.raises(RolloutError) as error:
        fingerprint(line)
    assert str(error.value) == f"{line!r} is no host key."


def _trust(folder: Path, number: int) -> None:
    Wallet(folder=folder).public()
    Wallet(folder=folder).trust(f"blade{number:02}", [f"blade{number:02} ssh-ed25519 AAAA"])


def test_blades_that_are_enrolled_side_by_side_keep_all_their_host_keys(tmp_path: Path) -> None:
    with ProcessPoolExecutor(max_workers=8) as several:
        list(several.map(_trust, [tmp_path / "ssh"] * 58, range(1, 59)))
    known = Wallet(folder=tmp_path / "ssh").known_hosts.read_text().splitlines()
    assert known == [f"blade{number:02} ssh-ed25519 AAAA" for number in range(1, 59)]


def test_the_key_is_bound_to_the_gate_and_to_nothing_but_a_command() -> None:
    assert authorized_line("ssh-ed25519 AAAA headnode") == (
        f'restrict,command="{GATE_PATH}" ssh-ed25519 AAAA headnode'
    )
