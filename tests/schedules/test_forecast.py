"""When a patch is everywhere: from what each step took last time, and only from that."""

from datetime import UTC, datetime

import pytest

from blades.inventory import Blade
from config.model import OnStop, Rollout
from schedules.forecast import Forecast, build_time, in_words, rollout_seconds
from schedules.waves import Stage, plan_rollout

NOW = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)


def stage(count: int, options: Rollout) -> Stage:
    names = [f"blade{number:02}" for number in range(count)]
    blades = [Blade(name=name, class_name="blade", ring="fleet") for name in names]
    [found] = plan_rollout(blades, {}, options, whole=True).stages
    return found


def test_the_line_says_when_in_how_long_and_what_of() -> None:
    steps = {"build": 12.0, "gates": 40.0, "ring canary": 3.0, "ring fleet": 65.0}
    assert Forecast(steps=steps).line(NOW) == (
        "ETA: 00:01:30 UTC, in 2 min, if all takes as long as last time (build 12 s, gates 40 s, "
        "ring canary 3 s, ring fleet 65 s)."
    )


def test_what_was_never_done_is_said_and_not_guessed() -> None:
    steps = {"build": None, "gates": 30.0, "ring canary": None}
    assert Forecast(steps=steps).line(NOW) == (
        "ETA: not before 00:00:00 UTC, in 30 s, if all takes as long as last time (gates 30 s; not "
        "known: build, ring canary)."
    )
    assert Forecast(steps={"build": None}).line(NOW) == (
        "ETA: not known, none of it was done before."
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5400, "1 h 30 min")],
)
def test_times_are_said_as_people_do(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_build_takes_what_the_package_took_and_what_every_build_takes() -> None:
    took = {"sys-apps/a-1": 30.0, "sys-apps/b-1": 5.0, "sys-apps/a-2": 20.0}
    assert build_time("sys-apps/a", took, ["sys-apps/b-1"], 9.0) == 20.0 + 4.0
    # Built side by side, packages take longer in sum than the whole.
    assert build_time("sys-apps/a", took, ["sys-apps/b-1", "sys-apps/a-2"], 22.0) == 20.0
    assert build_time("sys-apps/c", took, [], 9.0) is None


def test_a_wave_takes_as_long_as_its_rounds_of_the_fan_out() -> None:
    options = Rollout(fanout=4, waves=("2", "50%"), settle_s=10.0, on_stop=OnStop.HALT)
    known = {"blade00": 2.0, "blade01": 4.0, "elsewhere": 100.0}
    fleet = stage(18, options)  # waves of 2, 7 and 9 blades: 1, 2 and 3 rounds
    assert rollout_seconds(fleet, known, options) == 6 * 3.0 + 3 * 10.0
    assert rollout_seconds(fleet, {"elsewhere": 100.0}, options) == 6 * 100.0 + 30.0
    assert rollout_seconds(fleet, {}, options) is None
    assert rollout_seconds(stage(1, options), known, options) == 2.0 + 10.0
