"""The command line as it is typed: exact messages, exit codes, and what is there afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from config.load import load
from config.model import Cluster, State
from headnode.cli import cli, run
from schedules.site import Site

SMALL = """\
[state]
path = "state"

[signing]
mode = "off"

[classes.blade]
packages = ["app-misc/hello"]
rings = { canary = "blade[01-02]", fleet = "blade[03-04]" }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configured(here: Path) -> Path:
    (here / "cluster.toml").write_text(SMALL)
    return here


def test_init_writes_a_file_that_loads_to_the_defaults(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "--state", "state"]) == 0
    made = load(here / "cluster.toml")
    assert made == Cluster(state=State(path=here / "state"))
    keys = Site(cluster=made).keys
    assert capsys.readouterr().out == (
        f"Wrote cluster.toml; {keys.signer()} signs. Set [serve] host, and the packages and rings "
        "of your class, next.\n"
    )
    assert (here / "state/keys/signing").stat().st_mode & 0o777 == 0o700


def test_init_does_not_replace_a_file(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init"]) == 2
    assert capsys.readouterr().err == (
        "headnode: cluster.toml is there already. --force replaces it.\n"
    )
    assert (configured / "cluster.toml").read_text() == SMALL


def test_without_a_configuration_every_command_says_how_to_get_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build"]) == 2
    assert capsys.readouterr().err == (
        "headnode: There is no configuration: neither cluster.toml nor "
        "/etc/headnode/cluster.toml. Run `headnode init` to write one, or name one with "
        "--config.\n"
    )


def test_a_publish_does_not_wait_for_what_it_does_not_use() -> None:
    code = "import headnode.cli, headnode.commands.rings, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {
        *("asyncio", "portage", "rich", "sh", "tomlkit", "zstandard"),
        *("binhost.builder", "headnode.commands.lab", "mirror.tree", "schedules.rehearse"),
    }
    assert slow.isdisjoint(done.stdout.split())


def test_every_command_of_the_table_is_there() -> None:
    with click.Context(cli) as context:
        names = cli.list_commands(context)
        found = [cli.get_command(context, name) for name in names]
    assert [command and command.name for command in found] == sorted(names)


def test_a_word_that_is_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bild"]) == 2
    assert "No such command 'bild'" in capsys.readouterr().err


def test_a_build_before_a_sync_says_what_to_run(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build"]) == 1
    assert capsys.readouterr().err == (
        "headnode: The repository gentoo was never synced. Run headnode mirror sync.\n"
    )


def test_a_ring_that_is_not_there_is_named_with_those_that_are(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["publish", "--ring", "flet"]) == 2
    assert capsys.readouterr().err == (
        "headnode: There is no ring 'flet'. The rings are canary, fleet.\n"
    )


def test_a_rollout_to_a_blade_in_no_ring_is_refused(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rollout", "run", "--nodes", "blade[04-06]"]) == 2
    assert capsys.readouterr().err == (
        "headnode: blade[05-06] is in no ring of cluster.toml. The blades are blade[01-04].\n"
    )


def test_the_blades_are_listed_with_their_rings(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["blades", "list", "--json"]) == 0
    assert [(each["name"], each["ring"]) for each in json.loads(capsys.readouterr().out)] == [
        ("blade01", "canary"),
        ("blade02", "canary"),
        ("blade03", "fleet"),
        ("blade04", "fleet"),
    ]


def test_a_blade_s_files_are_written_below_a_folder(configured: Path) -> None:
    assert run(["blades", "config", "blade03", "--output", "out"]) == 0
    assert (configured / "out/etc/portage/sets/blade").read_text() == "app-misc/hello\n"
    binrepos = configured / "out/etc/portage/binrepos.conf/gentoobinhost.conf"
    assert "/binhost/blade/fleet" in binrepos.read_text()
    assert os.access(configured / "out/usr/local/sbin/headnode-pull", os.X_OK)


def test_too_full_a_disk_is_said_before_anything_starts(
    configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve = f'path = "state"\nreserve_mib = {1 << 30}'
    (configured / "cluster.toml").write_text(SMALL.replace('path = "state"', reserve))
    assert run(["mirror", "sync"]) == 2
    said = capsys.readouterr().err
    assert f"The file system of {configured}/state is too full to start." in said
    assert f"{1 << 30} MiB wanted ([state] reserve_mib)" in said


def test_a_disk_that_fills_up_on_the_way_is_said_in_one_paragraph(
    configured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "/state/entries")

    monkeypatch.setattr("headnode.commands.rings.publish_once", full)
    assert run(["publish"]) == 1
    assert capsys.readouterr().err == (
        "headnode: /state/entries: No space left on device. What was served still is; put that "
        "right and run the command again.\n"
    )


def headnode(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headnode", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # also: reaped between open and read
        return False


@pytest.fixture
def lab(here: Path) -> Iterator[Path]:
    yield here
    headnode("lab", "down", folder=here)


@pytest.mark.lab
def test_a_lab_goes_up_runs_commands_and_comes_down(lab: Path) -> None:
    up = headnode("lab", "up", "2", folder=lab)
    assert up.returncode == 0, up.stderr
    assert "2 blades are up in .lab, and their headnode serves." in up.stdout
    assert headnode("lab", "exec", "blade02", "hostname", folder=lab).stdout == "blade02\n"
    assert headnode("lab", "exec", "blade01", "sh", "-c", "exit 7", folder=lab).returncode == 7
    again = headnode("lab", "up", "2", folder=lab)
    assert again.returncode == 1
    assert "A lab is up in" in again.stderr
    unknown = headnode("lab", "exec", "blade09", "true", folder=lab)
    assert unknown.returncode == 1
    assert "The lab has no node 'blade09'." in unknown.stderr
    pids = [node["pid"] for node in json.loads((lab / ".lab/lab.json").read_text())["nodes"]]
    assert headnode("lab", "down", folder=lab).stdout == "The lab is down.\n"
    assert not any(map(alive, pids))
    assert not (lab / ".lab/nodes").exists()
    assert headnode("lab", "down", folder=lab).stdout == "No lab is up in .lab.\n"


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_no_process_behind(
    here: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "headnode.demo", "--lab", "lab"],
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    record = here / "lab/lab.json"
    deadline = time.monotonic() + 60
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [node["pid"] for node in json.loads(record.read_text())["nodes"]]
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(60) in (130, -signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))
    if number == signal.SIGKILL:
        left = headnode("lab", "down", "--lab", "lab", folder=here)
        assert left.stdout == "The lab is down.\n"
    assert not (here / "lab/nodes").exists()


@pytest.mark.lab
@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_cleans_up(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headnode.demo", "--lab", "lab"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    for number in range(1, 5):
        [row] = [line for line in done.stdout.splitlines() if line.startswith(f"blade{number:02}")]
        assert row.split()[1:4] == ["canary" if number == 1 else "fleet", "2", "10"]
        assert "bladeinfo 1.1" in row
    assert "no emerge is started" in done.stderr
    assert not (here / "lab/nodes").exists()
