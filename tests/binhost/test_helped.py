"""Help for a build: asked for once, at the first use, and accounted for at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from binhost.helped import Help, Helped, Report
from binhost.records import Distributed

NODE: Any = object()


def record(**more: Any) -> Distributed:
    values: dict[str, Any] = {
        "jobs": {"blade01": 5, "blade02": 4},
        "failures": {},
        "left_out": {},
        "local": 0,
        "fallbacks": 0,
        "faulty": 0,
        "mode": "plain",
    }
    return Distributed.model_validate({**values, **more})


class Crew:
    """Helpers that note what is asked of them."""

    def __init__(self, variables: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self.variables, self.prefix = variables, prefix
        self.events: list[str] = []

    @contextmanager
    def join(self, node: Any, report: Report) -> Iterator[Help]:
        self.events.append("join")
        assert node is NODE
        yield Help(variables=self.variables, prefix=self.prefix, account=record)
        self.events.append("leave")


def test_helpers_are_asked_once_and_only_where_something_is_built() -> None:
    crew = Crew({"MAKEOPTS": "-j9"}, ("pump",))
    reports: list[str] = []
    with Helped(crew, NODE, reports.append) as helped:
        assert crew.events == []
        assert helped.distributed() is None
        assert helped.argv(["emerge", "a"]) == ["env", "MAKEOPTS=-j9", "pump", "emerge", "a"]
        assert helped.argv(["emerge", "b"]) == ["env", "MAKEOPTS=-j9", "pump", "emerge", "b"]
        assert helped.distributed() == record()
    assert crew.events == ["join", "leave"]
    assert reports == [record().summary()]


def test_a_build_without_anything_to_build_asks_nobody() -> None:
    crew = Crew({})
    reports: list[str] = []
    with Helped(crew, NODE, reports.append):
        pass
    assert (crew.events, reports) == ([], [])


def test_without_helpers_a_command_is_started_as_it_is() -> None:
    for helpers in (None, Crew({})):
        with Helped(helpers, NODE, lambda line: None) as helped:
            assert helped.argv(["emerge", "a"]) == ["emerge", "a"]


def test_helpers_are_let_go_where_the_build_fails() -> None:
    crew = Crew({"A": "b"})
    reports: list[str] = []
    with pytest.raises(RuntimeError), Helped(crew, NODE, reports.append) as helped:
        helped.argv(["emerge"])
        raise RuntimeError
    assert reports == [record().summary()]


def test_a_summary_says_who_compiled_how_much() -> None:
    assert record(local=1, fallbacks=2).summary() == (
        "Compiled by helpers: 9 (blade01 5, blade02 4); by the headnode: 1, and 2 that a helper "
        "had failed."
    )
    assert record(jobs={}).summary() == "No helper: the headnode compiled alone."


@pytest.mark.parametrize(
    ("more", "warnings"),
    [
        ({}, ()),
        ({"left_out": {"blade03": "it is slow"}}, ()),  # told as the build starts
        ({"jobs": {"blade01": 0}}, ()),  # nothing was compiled at all
        (
            {"jobs": {"blade01": 0, "blade02": 0}, "fallbacks": 8, "local": 1},
            (
                "blade[01-02] could have helped, and not one of 9 compile jobs came back from "
                "there: look into the build's logs/distcc/log.",
            ),
        ),
        (
            {"jobs": {}, "left_out": {"blade01": "it is slow"}},
            ("no helper could be used, the headnode compiled alone.",),
        ),
        (
            {"pump": "the builder has no pump"},
            ("pump mode does not work and was not used: the builder has no pump.",),
        ),
        (
            {"mode": "pump", "unpumped": 3},
            ("pump mode: the headnode preprocessed 3 of 9 all the same.",),
        ),
    ],
)
def test_what_must_not_be_missed_is_a_warning(
    more: dict[str, Any], warnings: tuple[str, ...]
) -> None:
    assert record(**more).warnings() == warnings
