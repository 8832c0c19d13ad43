"""What a helper is given, and what of [distcc] is refused."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from blades.inventory import select
from blades.setup import setup_files
from config.distccd import CONF_PATH, UNIT_PATH, distccd_files
from config.load import from_values, load
from config.model import Cluster
from config.portage import HEADER
from headnode.errors import ConfigError

NETWORKS = ["10.0.1.0/24", "fd00:1::/64"]


def cluster(**distcc: Any) -> Cluster:
    return from_values({"distcc": {"helpers": "blade[01-58]", "networks": NETWORKS, **distcc}})


def refused(**distcc: Any) -> str:
    with pytest.raises(ConfigError) as error:
        cluster(**distcc)
    return str(error.value)


def test_systemd_runs_distccd_in_the_foreground_for_the_cluster_s_networks_alone() -> None:
    unit = distccd_files(cluster(), "blade03").files[UNIT_PATH]
    assert unit == HEADER + (
        "[Unit]\n"
        "Description=Compile jobs of the headnode (distccd)\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n"
        "\n"
        "[Service]\n"
        "User=distcc\n"
        "Environment=PATH=/usr/local/bin:/usr/bin:/bin\n"
        "ExecStart=/usr/bin/distccd --daemon --no-detach --log-stderr --port 3632 --jobs 4 "
        "--nice 15 --job-lifetime 300 --log-level notice --allow 10.0.1.0/24 "
        "--allow fd00:1::/64\n"
        "Restart=on-failure\n"
        "NoNewPrivileges=yes\n"
        "PrivateTmp=yes\n"
        "ProtectHome=yes\n"
        "ProtectSystem=strict\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


def test_openrc_s_script_is_given_the_same_options() -> None:
    options = {"port": 3633, "slots": 2, "nice": 0, "job_timeout_s": 0.5, "user": "builder"}
    conf = distccd_files(cluster(**options), "blade03").files[CONF_PATH]
    assert conf == HEADER + (
        'DISTCCD_EXEC="/usr/bin/distccd"\n'
        "# The script adds --daemon and --no-detach.\n"
        'DISTCCD_OPTS="--port 3633 --jobs 2 --nice 0 --job-lifetime 1 --log-level notice '
        '--allow 10.0.1.0/24 --allow fd00:1::/64 --user builder"\n'
        'export PATH="/usr/local/bin:/usr/bin:/bin"\n'
        "# Without it, stopping ends the first process only, and its children go on serving.\n"
        'rc_cgroup_cleanup="yes"\n'
    )


def test_a_helper_may_take_more_jobs_than_the_headnode_gives_it() -> None:
    unit = distccd_files(cluster(jobs=7), "blade03").files[UNIT_PATH]
    words = shlex.split(unit.split("ExecStart=")[1].splitlines()[0])
    assert words[words.index("--jobs") + 1] == "7"


def test_every_compiler_that_packages_call_may_be_started_and_distccd_is_at_boot() -> None:
    links = distccd_files(cluster(), "blade03").links
    names = ("gcc", "g++", "cc", "c++")
    chost = "x86_64-pc-linux-gnu"
    assert links == {
        **{f"/usr/lib/distcc/{name}": "../../bin/distcc" for name in names},
        **{f"/usr/lib/distcc/{chost}-{name}": "../../bin/distcc" for name in names},
        "/etc/systemd/system/multi-user.target.wants/distccd.service": UNIT_PATH,
        "/etc/runlevels/default/distccd": "/etc/init.d/distccd",
    }


def test_what_a_blade_is_given_once_has_it_and_one_that_is_no_helper_has_none_of_it() -> None:
    some = cluster(helpers="blade[01-02]")
    (helper,), (other,) = select(some, "blade02"), select(some, "blade03")
    given = setup_files(some, helper, [], None)
    assert UNIT_PATH in given.files
    assert "/usr/lib/distcc/gcc" in given.links
    assert "/etc/portage/make.profile" in given.links
    assert UNIT_PATH not in setup_files(some, other, [], None).files
    assert distccd_files(some, "elsewhere") == distccd_files(Cluster(), "blade01")


def test_helpers_that_are_in_no_ring_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('[distcc]\nnetworks = ["10.0.1.0/24"]\nhelpers = "blade[57-60],store1"\n')
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value) == (
        f"{path}:3: distcc.helpers: blade[59-60],store1 is in no ring of any class, so nothing "
        "sets up distccd there."
    )


def test_helpers_without_networks_are_refused() -> None:
    assert refused(networks=[]) == (
        "distcc.helpers: helpers need `networks`, the networks that their distccd takes jobs "
        'from, as in networks = ["10.0.1.0/24"].'
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            "0.0.0.0/0",
            "'0.0.0.0/0' is everybody: whoever reaches distccd runs programs on the machine.",
        ),
        ("::/0", "'::/0' is everybody: whoever reaches distccd runs programs on the machine."),
        (
            "10.0.1.1/24",
            "'10.0.1.1/24' is no network, as in 10.0.1.0/24: 10.0.1.1/24 has host bits set.",
        ),
        (
            "cluster",
            "'cluster' is no network, as in 10.0.1.0/24: 'cluster' does not appear to be an IPv4 "
            "or IPv6 network.",
        ),
    ],
)
def test_a_network_is_an_address_range_and_not_everybody(network: str, said: str) -> None:
    assert refused(networks=["10.0.2.0/24", network]) == f"distcc.networks[1]: {said}"


@pytest.mark.parametrize("user", ["root", "0", "", "a b", "$(id)"])
def test_distccd_does_not_run_as_root(user: str) -> None:
    assert refused(user=user) == (
        f"distcc.user: {user!r} is no user other than root that distccd could run as."
    )
