"""Who is drained, why and until when: the file that rollouts and blades go by."""

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from blades import drained
from headnode.cli import run
from headnode.errors import BusyError, ConfigError
from headnode.files import locked

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3)
CONFIG = """
[state]
path = "{state}"
reserve_mib = 0

[schedule]
time_zone = "Europe/Berlin"

[classes.blade]
packages = ["app-misc/hello"]
rings = {{ fleet = "blade[1-3]" }}
"""


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("12h", NOW + timedelta(hours=12)),
        ("2026-12-01", datetime(2026, 11, 30, 23, tzinfo=UTC)),
        ("2026-12-01T06:30", datetime(2026, 12, 1, 5, 30, tzinfo=UTC)),
        ("2026-12-01T06:30Z", datetime(2026, 12, 1, 6, 30, tzinfo=UTC)),
        ("2w", NOW + timedelta(days=14)),
        ("3d", LATER),
    ],
)
def test_an_end_is_a_length_or_a_moment_where_the_schedule_is(text: str, end: datetime) -> None:
    assert drained.end_of(text, NOW, ZoneInfo("Europe/Berlin")) == end


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("2026-11-28", "2026-11-28 00:00 UTC is over. Name a later moment."),
        *(
            (text, f"{text!r} is no end. Write it as 2026-12-01, 2026-12-01T06:30, 12h, 3d or 2w.")
            for text in ("", "-3d", "12 March", "2026-13-01", "3")
        ),
    ],
)
def test_what_is_no_end_or_over_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        drained.end_of(text, NOW, UTC)
    assert str(raised.value) == error


def test_a_drain_is_over_by_itself_at_its_end(tmp_path: Path) -> None:
    drained.drain(tmp_path, ["blade1", "blade2"], "memory test", NOW, LATER)
    drained.drain(tmp_path, ["blade3"], "its disk", NOW)
    until = "until 2026-12-01 12:00 UTC"
    assert drained.drained(tmp_path, LATER - timedelta(seconds=1)) == {
        "blade1": f"memory test ({until})",
        "blade2": f"memory test ({until})",
        "blade3": "its disk",
    }
    assert drained.drained(tmp_path, LATER) == {"blade3": "its disk"}


def test_a_new_end_and_none_replace_the_one_before(tmp_path: Path) -> None:
    drained.drain(tmp_path, ["blade1"], "", NOW, LATER)
    drained.drain(tmp_path, ["blade1"], "", NOW, LATER + timedelta(days=1))
    assert drained.drained(tmp_path, LATER) == {"blade1": "until 2026-12-02 12:00 UTC"}
    drained.drain(tmp_path, ["blade1"], "for good", NOW)
    assert drained.drained(tmp_path, LATER + timedelta(days=9)) == {"blade1": "for good"}


def test_one_that_is_over_is_free_for_a_restart_and_its_date_begins_anew(tmp_path: Path) -> None:
    drained.drain(tmp_path, ["blade1", "blade2"], "memory test", NOW, LATER)
    assert drained.claim(tmp_path, ["blade1"], "restart", NOW) == []
    assert drained.claim(tmp_path, ["blade1"], "restart", LATER) == ["blade1"]
    said = json.loads((tmp_path / drained.FILE).read_text())
    assert said == {"blade1": {"since": "2026-12-01T12:00:00Z", "why": "restart"}}


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: drained.drain(folder, ["blade1"], "its disk", NOW),
    lambda folder: drained.undrain(folder, ["blade1"]),
    lambda folder: drained.claim(folder, ["blade1"], "restart", NOW),
    lambda folder: drained.release(folder, ["blade1"], "restart"),
]


@pytest.mark.parametrize("change", CHANGES, ids=["drain", "undrain", "claim", "release"])
def test_somebody_who_writes_the_file_just_now_is_waited_for(
    tmp_path: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held = tmp_path / ".drained.lock", threading.Event()

    def hold() -> None:
        with locked(lock, "headnode blades drain"):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    change(tmp_path)
    thread.join()
    monkeypatch.setattr(drained, "WAIT_S", 0.2)
    with locked(lock, "headnode blades drain"), pytest.raises(BusyError) as error:
        change(tmp_path)
    assert str(error.value) == (
        f"headnode blades drain (process {os.getpid()}) holds {lock}. Wait for it to end, then run "
        "this again."
    )


@pytest.mark.parametrize("text", ["[1]", '{"blade1": 3}', "{"])
def test_nonsense_drains_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / drained.FILE).write_text(text)
    assert drained.drained(tmp_path, NOW) == {}


def test_the_command_says_until_when_and_a_rollout_leaves_them_out_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text(CONFIG.format(state=tmp_path / "state"))
    words = ["blades", "drain", "blade[1-2]", "--why", "memory test", "--until"]
    assert run([*words, "2126-12-01"]) == 0
    assert capsys.readouterr().out == (
        "Drained blade[1-2]: no pull changes anything there until 2126-11-30 23:00 UTC, or "
        "`headnode blades undrain`.\n"
    )
    assert run(["rollout", "plan"]) == 0
    assert "blade/fleet: left out, drained: blade[1-2]\n" in capsys.readouterr().out
    assert run([*words, "2020-12-01"]) == 2
    assert capsys.readouterr().err == (
        "headnode: 2020-11-30 23:00 UTC is over. Name a later moment.\n"
    )
    folder = tmp_path / "state/binhost/blade"
    assert drained.drained(folder, datetime(2126, 11, 30, 23, tzinfo=UTC)) == {}
