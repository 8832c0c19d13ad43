"""What `headnode doctor` says of a machine and a cluster that are not as they should be."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from blades.inventory import Blade
from blades.transport import Outcome
from headnode.cli import run
from headnode.doctor import CHECKS, gateways, programs
from headnode.doctor.cluster import judge
from headnode.doctor.findings import Finding, good, problem, warning
from tests.ports import free_port

CONFIG = """\
[state]
path = "state"
reserve_mib = 0

[serve]
host = "127.0.0.1"
listen = "127.0.0.1"
http_port = {port}
rsync_port = {other}

[classes.blade]
packages = ["app-misc/hello"]
make_conf = {{ USE = "-doc" }}
rings = {{ canary = "blade[01-02]" }}

[rollout]
transport = "exec"
exec_command = "env BLADE=%h sh -c"
"""


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A configured headnode without a key, whose HTTP port somebody else has."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = int(taken.getsockname()[1])
        (tmp_path / "cluster.toml").write_text(CONFIG.format(port=number, other=free_port()))
        yield number


@pytest.mark.usefixtures("port")
def test_every_check_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {each["check"] for each in found} == set(CHECKS)
    assert all(each["remedy"] for each in found if each["level"] == "problem")


def test_what_is_wrong_is_said_with_what_to_do(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "state/keys/signing"
    home.mkdir(parents=True)
    home.chmod(0o755)
    assert run(["doctor", "ports", "name", "keys", "make.conf", "deployments"]) == 1
    said = capsys.readouterr().out.splitlines()
    free = said[4].split()[3]
    assert said == [
        "warn  ports: headnode serve does not run",
        "      -> start it: blades get nothing meanwhile",
        f"BAD   ports: port {port} for HTTP is taken",
        "      -> end what holds it (ss -ltnp), or set [serve] http_port",
        f"ok    ports: port {free} is free for rsync",
        "BAD   name: 127.0.0.1 is 127.0.0.1: blades would ask themselves",
        "      -> set [serve] host to this machine's address in the cluster",
        f"BAD   keys: {home} is open to others (055)",
        f"      -> chmod 700 {home}",
        "BAD   keys: nothing can be signed: There is no key to sign with.",
        '      -> headnode keys add makes one; [signing] mode = "off" does without.',
        "warn  make.conf: class blade sets USE in make_conf",
        "      -> set use instead: the index and the gates go by that",
        "ok    make.conf: classes have their own configuration",
        "warn  deployments: ring canary of blade has nothing",
        "      -> headnode publish",
        "4 problems, 3 warnings.",
    ]


def test_behind_nginx_its_port_is_to_be_answered_and_ours_to_be_free(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, backend = tmp_path / "cluster.toml", free_port()
    text = config.read_text()
    config.write_text(text.replace("[serve]\n", f"[serve]\nbackend_port = {backend}\n"))
    assert run(["doctor", "ports"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == [
        f"ok    ports: nginx answers on port {port}",
        f"ok    ports: port {backend} is free for HTTP",
    ]


def test_an_unknown_check_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "weather"]) == 2
    assert "'weather' is not one of 'kernel', 'disk'" in capsys.readouterr().err


def answered(blade: str, *digests: str, code: int | None = 0) -> Outcome:
    lines = [f"{digest}  /etc/{name}" for digest, name in zip(digests, "ab", strict=False)]
    return Outcome(blade=blade, code=code, output="\n".join(lines), seconds=0.1)


def test_blades_are_told_apart_by_what_they_have() -> None:
    known = [Blade(name=f"blade{number}", class_name="blade", ring="r") for number in range(1, 6)]
    wanted = {blade.name: {"/etc/a": "1", "/etc/b": "2"} for blade in known}
    lost = Outcome(blade="blade4", code=255, output="ssh: no route to host", seconds=0.1)
    outcomes = {
        each.blade: each
        for each in (
            answered("blade1", "1", "2"),
            answered("blade2", "1", "9"),
            answered("blade3"),
            lost,
            answered("blade5", code=None),
        )
    }
    setup = "headnode blades config BLADE --tar | ssh BLADE tar -x -C /"
    assert list(judge(known, wanted, outcomes)) == [
        problem(
            "blade[4-5]: not reached (ssh: no route to host)",
            "are they on, and may this user enter by ssh without a password?",
        ),
        warning("blade3: not set up", setup),
        warning("blade2: /etc/b differ from what it was given", setup),
        good("1 of 5 blades are as they should be"),
    ]


def test_a_version_is_compared_as_numbers() -> None:
    assert programs.parse_version("rsync  version 3.10.1  protocol") == (3, 10, 1)
    assert programs._judge("Portage", (3, 0, 9)) == Finding(
        level=warning("").level,
        text="Portage is 3.0.9",
        remedy="this was tried with 3.0.83; update to 3.0.77",
    )


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (None, problem("gate1: not reached (no answer)", "is it on? may this user enter by ssh?")),
        (
            Outcome(blade="gate1", code=None, output="", seconds=60.0),
            problem("gate1: not reached (no answer)", "is it on? may this user enter by ssh?"),
        ),
        (
            Outcome(blade="gate1", code=0, output="Hello!\nClusterShell 1.9.3", seconds=1.0),
            warning(
                "gate1: ClusterShell 1.9.3, and the headnode has 1.10.1",
                "the same version on both, if rollouts fail there",
            ),
        ),
        (
            Outcome(blade="gate1", code=0, output="ClusterShell 1.10.1", seconds=1.0),
            good("gate1: ClusterShell 1.10.1"),
        ),
    ],
)
def test_gateways_with_the_administrators_own_keys_are_judged(
    outcome: Outcome | None, expected: Finding
) -> None:
    assert gateways.judge("gate1", outcome, "python3", "1.10.1", "") == expected
