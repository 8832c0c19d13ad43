import pytest

from blades.inventory import Blade, all_blades, fold, select
from config.model import Cluster
from headnode.errors import ConfigError, ExitCode

CLUSTER = Cluster.model_validate(
    {
        "classes": {
            "blade": {"rings": {"canary": "blade[01-02]", "fleet": "blade[03-05]"}},
            "gpu": {"rings": {"all": "gpu1"}},
        }
    }
)


def names(blades: list[Blade]) -> list[str]:
    return [blade.name for blade in blades]


def test_every_blade_is_listed_with_class_and_ring_in_the_order_of_the_rollout() -> None:
    assert [(each.name, each.class_name, each.ring) for each in all_blades(CLUSTER)] == [
        ("blade01", "blade", "canary"),
        ("blade02", "blade", "canary"),
        ("blade03", "blade", "fleet"),
        ("blade04", "blade", "fleet"),
        ("blade05", "blade", "fleet"),
        ("gpu1", "gpu", "all"),
    ]


def test_a_cluster_of_58_is_58_blades() -> None:
    assert len(all_blades(Cluster())) == 58
    assert fold(all_blades(Cluster())) == "blade[01-58]"


def test_without_a_node_set_all_are_selected() -> None:
    assert select(CLUSTER, None) == all_blades(CLUSTER)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("gpu1,blade[04,01]", ["blade01", "blade04", "gpu1"]),
        ("blade[01-05]!blade[02-04]", ["blade01", "blade05"]),
        ("blade03,blade03", ["blade03"]),
    ],
)
def test_a_node_set_selects_in_the_order_of_the_rings(nodes: str, found: list[str]) -> None:
    assert names(select(CLUSTER, nodes)) == found


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ("blade[01-07]", "blade[06-07] is in no ring of cluster.toml. "),
        ("blade1", "blade1 is in no ring of cluster.toml. "),
        ("", "'' names no blade. "),
        ("blade01!blade01", "'blade01!blade01' names no blade. "),
    ],
)
def test_a_blade_that_is_not_there_is_refused_with_those_that_are(nodes: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(CLUSTER, nodes)
    assert str(caught.value) == f"{text}The blades are blade[01-05],gpu1."
    assert caught.value.exit_code is ExitCode.USAGE


def test_what_is_no_node_set_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        select(CLUSTER, "blade[01-")
    assert str(caught.value).startswith("'blade[01-' is not a node set: ")
    assert str(caught.value).endswith(". Write it as in blade[01-04,07].")
