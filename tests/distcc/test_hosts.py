from config.model import Distcc
from distcc.hosts import hosts_line


def test_each_helper_stands_with_its_slots() -> None:
    assert hosts_line(Distcc(helpers="blade[01-03]", slots=2)) == "blade01/2 blade02/2 blade03/2"


def test_no_helpers_make_an_empty_line() -> None:
    assert hosts_line(Distcc()) == ""
