"""How work is shown that takes long: a bar with rate and time to go, and lines off a terminal."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from headnode.console import pace

WORK = """
from headnode.console import Watcher
with Watcher() as watch:
    watch.say("Building three")
    for done in (1, 2, 3):
        watch.amount("build", done, 3, "packages")
    watch.amount("tree", 5e6, 0, "B")
"""


@pytest.mark.parametrize(
    ("unit", "done", "total", "seconds", "said"),
    [
        ("packages", 3, 12, 90.0, "3 of 12 packages, 2.0/min, 0:04:30 to go"),
        ("blades", 50, 58, 10.0, "50 of 58 blades, 5.0/s, 0:00:02 to go"),
        ("B", 250e6, 1000e6, 25.0, "250.0 of 1000.0 MB, 10.0 MB/s, 0:01:15 to go"),
        ("B", 250e6, None, 25.0, "250.0 MB, 10.0 MB/s"),
        ("gates", 0, 7, 3.0, "0 of 7 gates, 0.0/min"),
        ("gates", 0, 7, 0.0, "0 of 7 gates, 0.0/min"),
        ("packages", 7, 7, 7200.0, "7 of 7 packages, 0.1/min, 0:00:00 to go"),
    ],
)
def test_a_pace_is_how_far_how_fast_and_how_long(
    unit: str, done: float, total: float | None, seconds: float, said: str
) -> None:
    assert pace(unit, done, total, seconds) == said


def test_a_terminal_has_a_bar_and_the_lines_above_it(
    on_terminal: Callable[[Sequence[str]], str],
) -> None:
    text = on_terminal([sys.executable, "-c", WORK])
    assert "Building three" in text
    assert "━" in text
    assert "3 of 3 packages, " in text
    assert "0:00:00 to go" in text
    assert "5.0 MB, " in text


def test_off_a_terminal_there_are_plain_lines_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "Building three\n")
