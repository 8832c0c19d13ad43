"""The files that start `headnode serve` with a machine, checked by the programs that read them."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from config.service import Program, logrotate, openrc, systemd
from headnode.cli import run
from headnode.errors import ConfigError

CONFIG = """\
[state]
path = "state"

[classes.blade]
packages = ["app-misc/hello"]
rings = { canary = "blade01" }
"""


@pytest.fixture
def program() -> Program:
    return Program(
        path=Path("/bin/true"),
        config=Path("/etc/headnode/cluster.toml"),
        rsyncd_log=Path("/var/lib/headnode/rsyncd.log"),
        access_log=Path("/var/log/headnode-access.log"),
    )


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_no_fault_with_the_unit(program: Program, tmp_path: Path) -> None:
    unit = tmp_path / "headnode.service"
    unit.write_text(systemd(program))
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", unit], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "headnode.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_closes_nothing_that_builds_and_labs_need(program: Program) -> None:
    options = {line.partition("=")[0] for line in systemd(program).splitlines()}
    # systemd.exec(5): a node sets its host name, packages are built for 32 bits too, and images are
    # mounted by loop devices.
    needed = {"ProtectHostname", "SystemCallArchitectures", "LockPersonality", "ProtectClock"}
    needed |= {"PrivateDevices", "RestrictNamespaces", "ProtectKernelModules", "ProtectHome"}
    assert not options & needed


@pytest.mark.parametrize("render", [systemd, openrc, logrotate])
def test_a_path_that_would_mean_something_else_there_is_refused(
    render: Callable[[Program], str], program: Program
) -> None:
    with pytest.raises(ConfigError) as error:
        render(replace(program, config=Path("/etc/c c/50%/cluster.toml")))
    assert str(error.value) == (
        "'/etc/c c/50%/cluster.toml' cannot be written into a service's file. Have it at a path of "
        "letters, digits and any of / . _ + - alone."
    )


def test_the_openrc_script_is_a_shell_script_that_reloads_by_signal(
    program: Program, tmp_path: Path
) -> None:
    script = tmp_path / "headnode"
    script.write_text(openrc(program).replace("#!/sbin/openrc-run", "#!/bin/sh"))
    stubs = (
        'RC_SVCNAME=headnode; ebegin() { :; }; eend() { return "$1"; }; '
        'supervise-daemon() { echo "$@"; }'
    )
    subprocess.run(["sh", "-n", script], check=True)
    done = subprocess.run(
        ["bash", "-c", f'{stubs}; . "{script}"; reload; echo "$supervisor $command $command_args"'],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "headnode --signal HUP",
        "supervise-daemon /bin/true --config /etc/headnode/cluster.toml serve",
    ]


def test_logrotate_reads_its_file(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "rotate"
    file.write_text(logrotate(program))
    file.chmod(0o644)
    argv = ["logrotate", "--debug", "--state", tmp_path / "status", file]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, "error:" in done.stderr) == (0, False)
    assert "Handling 3 logs" in done.stderr


def test_a_rotated_access_log_is_told_to_the_daemon_and_logrotate_succeeds(
    program: Program, tmp_path: Path
) -> None:
    daemon = tmp_path / "headnode"
    daemon.write_text(
        "#!/bin/sh\ntrap 'echo told; exit 0' USR1\necho up\nwhile :; do sleep 0.1; done\n"
    )
    daemon.chmod(0o755)
    ours = replace(program, path=daemon, access_log=tmp_path / "access.log")
    (tmp_path / "access.log").write_text("a line\n")
    text = logrotate(ours)
    (tmp_path / "rotate").write_text(text[text.index(f"{ours.access_log} {{") :])
    argv = [daemon, "--config", ours.config, "serve"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stdout is not None
            assert serve.stdout.readline() == "up\n"
            done = subprocess.run(
                ["logrotate", "--force", "--state", tmp_path / "status", tmp_path / "rotate"],
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert serve.communicate(timeout=30)[0] == "told\n"
        finally:
            serve.kill()


def test_serve_prints_the_unit_of_this_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text(CONFIG)
    assert run(["serve", "--systemd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(line for line in lines if line.startswith("ExecStart="))
    path, *rest = start.removeprefix("ExecStart=").split()
    assert Path(path).is_file()
    assert rest == ["--config", str(tmp_path / "cluster.toml"), "serve"]
