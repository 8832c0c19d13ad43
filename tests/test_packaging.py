"""The wheel, built from the sdist, installed and used where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel of the project in `source`."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target]
    subprocess.run(argv, cwd=source, check=True, capture_output=True)
    [made] = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    sdist = build("sdist", ROOT, folder / "sdist")
    subprocess.run(["tar", "-x", "-C", folder, "-f", sdist], check=True)
    [unpacked] = folder.glob("headnode-*")
    return build("wheel", unpacked, folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python with the wheel's packages, before those of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    work = folder / "work"
    work.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
        argv = [sys.executable, "-P", *words]
        return subprocess.run(argv, cwd=work, env=environment, capture_output=True, text=True)

    return run


def test_the_sdist_s_wheel_has_what_the_checkout_s_has(wheel: Path, tmp_path: Path) -> None:
    direct = build("wheel", ROOT, tmp_path / "direct")
    ours, theirs = (set(zipfile.ZipFile(each).namelist()) for each in (direct, wheel))
    assert ours == theirs


def test_the_wheel_runs_outside_the_checkout(installed: Run) -> None:
    where = installed("-c", "import headnode, config; print(headnode.__file__, config.__file__)")
    assert all("/site/" in path for path in where.stdout.split())
    made = installed("-m", "headnode", "init", "--state", "state")
    assert (made.returncode, made.stderr) == (0, "")
    told = installed("-m", "headnode", "blades", "config", "blade01")
    assert told.returncode == 0, told.stderr
    assert "/usr/local/sbin/headnode-pull" in told.stdout
    doctor = installed("-m", "headnode", "doctor", "kernel", "keys")
    assert "signs, blades trust 1 keys" in doctor.stdout
    ended = installed(
        "-c",
        "from schedules.site import Site; from config.load import load; "
        "from pathlib import Path; Site(cluster=load(Path('cluster.toml'))).keys.end_agent()",
    )
    assert ended.returncode == 0
