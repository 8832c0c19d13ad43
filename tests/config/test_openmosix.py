import pytest

from config.openmosix import openmosix_map
from headnode.errors import ConfigError


def test_58_blades_in_a_row_are_one_line() -> None:
    assert openmosix_map({"blade[01-58]": "10.0.1.1"}) == "1\t10.0.1.1\t58\n"


def test_numbers_go_on_over_gaps_and_neighbours_share_a_line() -> None:
    addresses = {"blade[01-02]": "10.0.1.1", "blade03": "10.0.1.3", "fat[1-2]": "10.0.2.254"}
    assert openmosix_map(addresses) == "1\t10.0.1.1\t3\n4\t10.0.2.254\t2\n"


def test_no_address_is_an_empty_map() -> None:
    assert openmosix_map({}) == ""


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (
            {"a[1-9]": "10.0.0.1", "b1": "10.0.0.9"},
            "openmosix.addresses: b1 from 10.0.0.9 to 10.0.0.9 shares addresses with 10.0.0.1 to "
            "10.0.0.9. Each blade has an address of its own.",
        ),
        (
            {"a[1-9]": "10.0.0.1", "a[9-10]": "10.0.1.1"},
            "openmosix.addresses: a9 stands there twice.",
        ),
        (
            {"a[1-9]": "255.255.255.250"},
            "openmosix.addresses: a[1-9] from 255.255.255.250 leaves no addresses.",
        ),
        (
            {"a[1-65536]": "10.0.0.1"},
            "openmosix.addresses: 65536 nodes, and openMosix counts to 65535.",
        ),
    ],
)
def test_what_no_map_can_say_is_refused(addresses: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        openmosix_map(addresses)
    assert str(error.value) == said
