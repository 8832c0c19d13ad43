"""Ways that were gone well are remembered, by everything that their result depends on."""

import os
from pathlib import Path

from binhost.records import GateReport
from schedules import walked
from schedules.walked import remember, remembered, way

GOOD = GateReport(gate="smoke", passed=True, report="Good.")


def test_a_way_is_another_when_anything_it_depends_on_is() -> None:
    assert way(start="a", end="b") == way(end="b", start="a")
    assert way(start="a", end="b") != way(start="b", end="a")


def test_what_was_remembered_is_there_and_nothing_else(tmp_path: Path) -> None:
    remember(tmp_path, "one", GOOD)
    assert remembered(tmp_path, "one") == GOOD
    assert remembered(tmp_path, "two") is None
    (tmp_path / "one.json").write_text("{")
    assert remembered(tmp_path, "one") is None


def test_the_oldest_are_dropped_where_there_are_many(tmp_path: Path) -> None:
    for number in range(walked.KEEP):
        (tmp_path / f"{number}.json").write_text("{}")
        os.utime(tmp_path / f"{number}.json", (number, number))
    remember(tmp_path, "new", GOOD)
    assert len(list(tmp_path.iterdir())) == walked.KEEP
    assert not (tmp_path / "0.json").exists()
    assert remembered(tmp_path, "new") == GOOD
