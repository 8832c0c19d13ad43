import pytest

from blades.inventory import Blade
from config.model import Rollout
from schedules.waves import cut, plan_rollout, share_of


def blades(ring: str, *numbers: int) -> list[Blade]:
    return [Blade(name=f"blade{n:02}", class_name="blade", ring=ring) for n in numbers]


def sizes(count: int, *waves: str) -> list[int]:
    return [len(wave) for wave in cut(tuple(blades("fleet", *range(count))), waves)]


@pytest.mark.parametrize(
    ("count", "waves", "expected"),
    [
        (56, ("2", "10%", "50%", "100%"), [2, 4, 22, 28]),
        (56, ("1", "10", "30"), [1, 9, 20, 26]),
        (1, ("2", "10%", "50%", "100%"), [1]),
        (3, ("2", "10%", "50%", "100%"), [2, 1]),
        (3, (), [3]),
        (5, ("100%", "1"), [5]),
        (5, ("4", "2"), [4, 1]),  # what is behind another is nothing
        (0, ("2",), []),
        (10, ("1%",), [1, 9]),  # a wave has a blade at least
    ],
)
def test_waves_say_how_many_were_tried_when_each_is_done(
    count: int, waves: tuple[str, ...], expected: list[int]
) -> None:
    assert sizes(count, *waves) == expected


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [("0", 9, 0), ("3", 9, 3), ("30", 9, 9), ("5%", 19, 0), ("5%", 20, 1), ("100%", 7, 7)],
)
def test_a_share_of_blades_that_may_fail_is_rounded_down(
    share: str, count: int, expected: int
) -> None:
    assert share_of(share, count) == expected


def test_the_plan_says_every_step_before_it_is_done() -> None:
    some = [*blades("canary", 1, 2), *blades("fleet", 3, 4, 5, 6)]
    options = Rollout(waves=("1", "100%"), max_failed="50%")
    plan = plan_rollout(some, {"blade04": "memory test"}, options, whole=True)
    assert list(plan.lines()) == [
        "blade/canary: wave 1 of 2: 1 blade, blade01",
        "blade/canary: wave 2 of 2: 1 blade, blade02",
        "blade/canary: stops and goes back when more than 1 fail",
        "blade/fleet: gets what canary has, if that went well and is newer",
        "blade/fleet: wave 1 of 2: 1 blade, blade03",
        "blade/fleet: wave 2 of 2: 2 blades, blade[05-06]",
        "blade/fleet: left out, drained: blade04",
        "blade/fleet: stops and goes back when more than 1 fail",
    ]


@pytest.mark.parametrize(
    ("gateways", "said"),
    [("gate1", "through 1 gateway, gate1"), ("gate[1-2]", "through 2 gateways, gate[1-2]")],
)
def test_the_plan_names_the_gateways_first(gateways: str, said: str) -> None:
    plan = plan_rollout(blades("canary", 1), {}, Rollout(gateways=gateways), whole=True)
    assert next(plan.lines()) == said


def test_a_plan_over_named_blades_moves_no_ring() -> None:
    some = [*blades("canary", 1), *blades("fleet", 3)]
    plan = plan_rollout(some, {}, Rollout(), whole=False)
    assert list(plan.lines()) == [
        "blade/canary: wave 1 of 1: 1 blade, blade01",
        "blade/canary: stops when more than 0 fail",
        "blade/fleet: wave 1 of 1: 1 blade, blade03",
        "blade/fleet: stops when more than 0 fail",
    ]
