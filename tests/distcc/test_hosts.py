import pytest

from config.model import Distcc, DistccMode
from distcc.hosts import distcc_hosts, helper_names, hosts_line, name_of
from distcc.slots import make_jobs, make_options

NETWORKS = ("10.0.1.0/24",)


def distcc(**more: object) -> Distcc:
    return Distcc.model_validate(
        {"helpers": "blade[01-03]", "networks": NETWORKS, "slots": 2, **more}
    )


def line(options: Distcc, mode: DistccMode = DistccMode.PLAIN) -> str:
    return hosts_line(options, helper_names(options), mode)


def test_each_helper_stands_with_its_slots() -> None:
    assert line(distcc()) == "blade01/2 blade02/2 blade03/2"


def test_another_port_than_distcc_s_own_is_named() -> None:
    assert line(distcc(helpers="blade01", port=3633)) == "blade01:3633/2"


def test_pump_mode_is_asked_of_each_helper() -> None:
    options = distcc(helpers="blade[01-02]")
    assert line(options, DistccMode.PUMP) == "blade01/2,cpp,lzo blade02/2,cpp,lzo"


def test_the_headnode_s_own_slots_come_last() -> None:
    assert line(distcc(helpers="blade01", local_slots=8)) == "blade01/2 localhost/8"


def test_no_helpers_make_an_empty_line_whatever_the_headnode_s_slots() -> None:
    assert line(Distcc()) == ""
    assert line(Distcc(local_slots=8)) == ""


def test_a_build_is_told_how_much_the_headnode_does_at_once_itself() -> None:
    assert distcc_hosts(distcc(), ["blade02"], cores=4) == (
        "--localslots=4 --localslots_cpp=8 blade02/2"
    )


@pytest.mark.parametrize("spec", ["blade01", "blade01/2", "blade01:3633/2", "blade01/2,cpp,lzo"])
def test_a_helper_s_name_is_read_off_its_specification(spec: str) -> None:
    assert name_of(spec) == "blade01"


@pytest.mark.parametrize(
    ("more", "helpers", "cores", "jobs"),
    [
        ({}, 3, 2, 6),
        ({}, 58, 2, 64),  # what two cores can feed
        ({"feed": 0}, 58, 2, 116),
        ({"local_slots": 4}, 1, 8, 6),
        ({}, 1, 16, 2),
        ({"feed": 1}, 3, 1, 1),
    ],
)
def test_make_starts_as_many_jobs_as_there_are_slots_that_the_headnode_can_feed(
    more: dict[str, int], helpers: int, cores: int, jobs: int
) -> None:
    assert make_jobs(distcc(**more), helpers, cores) == jobs


def test_make_is_not_held_back_by_less_load_than_distcc_itself_makes_on_the_headnode() -> None:
    assert make_options(distcc(), 3, 2) == "-j6 -l6"
