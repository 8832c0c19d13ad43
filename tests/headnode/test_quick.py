"""Nothing new is said at once only while everything that decides it is as it was."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from binhost.records import BuildResult, Configuration, save
from config.model import Cluster
from headnode import quick
from headnode.cli import run
from headnode.commands import rings
from headnode.files import locked
from mirror.sets import write_set
from mirror.status import Status, write_status
from schedules.moving import publish_once

CONFIG = """\
[state]
path = "state"
reserve_mib = 0

[publish]
gates = []

[classes.blade]
packages = ["app-misc/a"]
rings = { canary = "blade01", fleet = "blade02" }
"""
SAID = "Ring canary has generation 1 already."


def synced(state: Path, ago: timedelta = timedelta(0)) -> None:
    write_status(state, Status(repo="gentoo", last_good=datetime.now(UTC) - ago))


def built(state: Path, seconds: float = 1.0) -> None:
    result = BuildResult(
        class_name="blade",
        snapshots=write_set(state, {"gentoo": "1"}),
        atoms=("app-misc/a",),
        header={},
        packages=(),
        built=(),
        configuration=Configuration(files={}, links={}),
        finished=datetime.now(UTC),
        seconds=seconds,
    )
    save(state / "build/blade/result.json", result)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published state of which a note was left, in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADNODE_CONFIG", raising=False)
    (tmp_path / "cluster.toml").write_text(CONFIG + '[signing]\nmode = "off"\n')
    folder = tmp_path / "state"
    (folder / "mirror/repos/gentoo/snapshots/1").mkdir(parents=True)
    synced(folder)
    built(folder)
    assert quick.nothing_new(["publish"]) is None
    assert run(["publish"]) == 0
    assert quick.nothing_new(["publish"]) == SAID
    return folder


def test_it_is_what_the_whole_command_says(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert run(["publish"]) == 0
    assert capsys.readouterr() == (f"{SAID}\n", "")
    monkeypatch.setattr(sys, "argv", ["headnode", "publish"])
    with pytest.raises(SystemExit) as ended:
        quick.main()
    assert ended.value.code == 0
    assert capsys.readouterr() == (f"{SAID}\n", "")


def test_nothing_large_is_imported_for_it(state: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['publish']\n"
        "from headnode.quick import main\n"
        "try: main()\n"
        "finally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, modules = done.stdout.splitlines()
    assert said == SAID
    assert {"click", "pydantic", "headnode.cli", "binhost"}.isdisjoint(modules.split())


@pytest.mark.parametrize("arguments", [[], ["build"], ["publish", "--json"], ["-v", "publish"]])
def test_any_other_command_line_is_left_to_the_whole_command(
    state: Path, arguments: list[str]
) -> None:
    assert quick.nothing_new(arguments) is None


def touch(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def test_what_was_packed_and_never_published_does_not_keep_it_from_being_quick(state: Path) -> None:
    staged = state / "build/blade/staging/dev-build/tool/tool-1-1.gpkg.tar"
    staged.parent.mkdir(parents=True)
    staged.write_text("only needed to build")
    assert quick.nothing_new(["publish"]) is None
    assert run(["publish"]) == 0
    assert quick.nothing_new(["publish"]) == SAID


CHANGES: dict[str, Callable[[Path], object]] = {
    "configuration": lambda state: touch(state.parent / "cluster.toml"),
    "build": lambda state: built(state, 2.0),
    "no build": lambda state: (state / "build/blade/result.json").unlink(),
    "staging": lambda state: (state / "build/blade/staging/app-misc").mkdir(parents=True),
    "generation": lambda state: (state / "binhost/blade/generations/2").mkdir(),
    "deployment": lambda state: touch(state / "binhost/blade/rings/canary/current/deployment.json"),
    "index": lambda state: (state / "binhost/blade/rings/canary/current/Packages").unlink(),
    "ring": lambda state: (state / "binhost/blade/rings/canary/current").unlink(),
    "keys": lambda state: (
        (state / "keys/trusted").mkdir(parents=True) or (state / "keys/trusted/A.asc").touch()
    ),
    "sync": synced,
    "no note": lambda state: (state / quick.NOTE).unlink(),
    "half a note": lambda state: (state / quick.NOTE).write_text('{"said"'),
    "another's note": lambda state: (state / quick.NOTE).write_text("[]"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_looked_at_by_the_whole_command(state: Path, change: str) -> None:
    CHANGES[change](state)
    assert quick.nothing_new(["publish"]) is None


def test_it_is_good_for_an_hour_and_not_before_it_was_made(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for seconds, said in ((3500, SAID), (3700, None), (-100, None)):
        monkeypatch.setattr(time, "time", lambda at=now + seconds: at)
        assert quick.nothing_new(["publish"]) == said


def test_who_is_at_work_is_said_by_the_whole_command(state: Path) -> None:
    with locked(state / "binhost/blade/.lock", "headnode publish"):
        assert quick.nothing_new(["publish"]) is None


def test_a_full_disk_is_said_by_the_whole_command(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.parent / "cluster.toml").write_text(
        CONFIG.replace("reserve_mib = 0", "reserve_mib = 1") + '[signing]\nmode = "off"\n'
    )
    assert run(["publish"]) == 0
    assert quick.nothing_new(["publish"]) == SAID
    full = os.statvfs_result((4096, 4096, 10, 10, 10, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert quick.nothing_new(["publish"]) is None


def test_no_note_is_left_of_what_changed_while_it_published(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(state, 2.0)

    def and_a_build_ends(site: object, *asked: object, **more: object) -> object:
        done = publish_once(site, *asked, **more)  # type: ignore[arg-type]
        built(state, 3.0)
        return done

    monkeypatch.setattr(rings, "publish_once", and_a_build_ends)
    assert run(["publish"]) == 0
    assert quick.nothing_new(["publish"]) is None


def test_no_note_is_left_while_a_tree_is_stale_or_soon_will_be(state: Path) -> None:
    for ago in (timedelta(days=9), timedelta(hours=Cluster().mirror.stale_h, minutes=-10)):
        synced(state, ago)
        run(["publish"])
        assert quick.nothing_new(["publish"]) is None


def test_a_deployment_is_renewed_when_half_of_its_time_is_over(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.parent / "cluster.toml").write_text(CONFIG + "[signing]\nvalid_days = 0.01\n")
    assert run(["keys", "add"]) == 0
    assert run(["publish"]) == 0
    assert quick.nothing_new(["publish"]) == SAID
    later = time.time() + 0.006 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert quick.nothing_new(["publish"]) is None
