"""`headnode status`: the same object as the page's, on a terminal, as JSON, and again and again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from config import template
from headnode.cli import run
from headnode.process import environment
from headnode.status import terminal
from headnode.status.gather import Gatherer
from headnode.status.model import Status

PATIENCE_S = 60.0


@pytest.fixture
def config(filled: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    values = {"state": {"path": str(filled)}, "signing": {"mode": "off"}}
    path.write_text(template.render(values))
    return path


def shown(status: Status, width: int = 150) -> str:
    screen = StringIO()
    Console(file=screen, width=width, no_color=True).print(terminal.render(status))
    return screen.getvalue()


def test_the_terminal_shows_what_the_page_shows(
    look: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    lines = [line.rstrip() for line in shown(Gatherer(look(58).site).status(clock())).splitlines()]
    assert lines[:5] == [
        "54 of 58 blades have generation 5.",
        "  act  blade17: failed to update (emerge failed with exit code 1: no space left on "
        "device).  headnode rollout run --nodes blade17",
        "  look blade[31-32]: not reached.  headnode rollout run --nodes blade[31-32]",
        "  note blade50: drained (memory is to be replaced).  headnode blades undrain blade50",
        "  note blade44: still to take what the ring has.",
    ]
    assert "  ●●●●●●●●●●●●●●F●●●●●●●●●●●●●UU●●●●●●●●●●●B●●●●●D●●●●●●●●" in lines
    assert "● good 53   D drained 1   F failed 1   U unreached 2   B behind 1" in lines
    assert any(line.startswith("4           29 h ago    11        ↑1") for line in lines), lines


def test_hostile_text_sends_nothing_to_the_terminal(
    look: Callable[..., Any], clock: Callable[[], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = look(58)
    error = "\x1b]0;owned\x07\x1b[2J[bold]markup[/bold]"
    attack = replace(looked.fleet.heard["blade17"], error=error)
    fleet = replace(looked.fleet, heard={**looked.fleet.heard, "blade17": attack})
    monkeypatch.setattr("headnode.status.gather.read_fleet", lambda site, now: fleet)
    text = shown(Gatherer(looked.site).status(clock()))
    assert "\x1b" not in text
    assert "[bold]markup[/bold]" in text


def test_json_is_the_same_object_as_the_api_s(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--config", str(config), "status", "--json"]) == 0
    status = Status.model_validate_json(capsys.readouterr().out)
    assert status.verdict.headline == "No blade has reported yet; there are 58."
    assert [each.number for each in status.generations] == [5, 4, 3, 2, 1]


def test_watch_and_json_together_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--config", str(config), "status", "--json", "--watch"]) == 2
    assert "Error: Give --watch or --json, not both." in capsys.readouterr().err


def test_watch_off_a_terminal_prints_a_line_a_change_and_ends_with_ctrl_c(config: Path) -> None:
    argv = [sys.executable, "-m", "headnode", "--config", str(config), "status", "--watch"]
    watching = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment())
    assert watching.stdout is not None
    assert "No blade has reported yet; there are 58." in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE_S) == 130
    assert watching.stdout.read() == ""


def test_the_exit_code_tells_a_script_that_something_is_to_be_done(
    filled: Path, config: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "state/binhost/blade/rings/canary/current"
    broken.mkdir(parents=True)
    (broken / "deployment.json").write_text("{}")
    config.write_text(template.render({"state": {"path": str(tmp_path / "state")}}))
    assert run(["--config", str(config), "status"]) == 3


def test_json_has_no_more_and_no_less_than_the_model(
    look: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    status = Gatherer(look(3).site).status(clock())
    assert Status.model_validate(json.loads(status.model_dump_json())) == status
