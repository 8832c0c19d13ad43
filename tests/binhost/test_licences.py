"""A public binhost offers nothing whose licence forbids giving binaries away."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from binhost.entry import make_entry
from binhost.gates import Gate, GateError, Waivers
from binhost.licences import GATE, Missing, check_licences, redistributable
from binhost.publish import Binhost, Order, publish
from headnode.errors import ConfigError

# As in Gentoo's profiles/license_groups: groups within groups.
GROUPS = """\
# comment
OSI-APPROVED GPL-2 MIT
FREE @OSI-APPROVED public-domain
BINARY-REDISTRIBUTABLE @FREE linux-fw-redistributable
"""


@pytest.fixture
def missing(tmp_path: Path) -> Missing:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/license_groups").write_text(GROUPS)
    return redistributable([tmp_path / "profiles"], "@BINARY-REDISTRIBUTABLE")


@pytest.fixture
def entry(tmp_path: Path, make_package: Any) -> Callable[..., str]:
    """The index entry of a real package file with that metadata."""

    def make(**metadata: str) -> str:
        name = make_package(tmp_path / "staging", "a-1", **metadata)
        return make_entry(tmp_path / "staging" / name, PurePosixPath(name))[0]

    return make


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"LICENSE": "GPL-2"}, ""),
        ({"LICENSE": "MIT public-domain linux-fw-redistributable"}, ""),
        ({"LICENSE": ""}, ""),
        ({"LICENSE": "|| ( Proprietary MIT )"}, ""),
        ({"LICENSE": "|| ( Proprietary Other )"}, "LICENSE Other, Proprietary"),
        ({"LICENSE": "GPL-2 Proprietary"}, "LICENSE Proprietary"),
        ({"LICENSE": "MIT nv? ( NVIDIA )", "USE": "nv", "IUSE": "nv"}, "LICENSE NVIDIA"),
        ({"LICENSE": "MIT nv? ( NVIDIA )", "USE": "", "IUSE": "nv"}, ""),
        ({"LICENSE": "MIT", "RESTRICT": "mirror bindist"}, "RESTRICT=bindist"),
        (
            {"LICENSE": "MIT", "RESTRICT": "!free? ( bindist )", "USE": "", "IUSE": "free"},
            "RESTRICT=bindist",
        ),
        ({"LICENSE": "MIT", "RESTRICT": "!free? ( bindist )", "USE": "free", "IUSE": "free"}, ""),
    ],
)
def test_licences_are_read_as_portage_reads_them_with_the_use_of_the_build(
    entry: Callable[..., str], missing: Missing, metadata: dict[str, str], why: str
) -> None:
    report = check_licences({"a": entry(**metadata)}, missing)
    assert report.passed is not bool(why)
    assert report.report == (
        f"1 of 1 packages may not be given away, and this binhost is public:\n  app-misc/a-1: {why}"
        if why
        else "Every package (1) may be given away."
    )


def test_single_licences_are_accepted_and_excepted(
    tmp_path: Path, entry: Callable[..., str], missing: Missing
) -> None:
    chosen = redistributable([tmp_path / "profiles"], "@FREE -MIT Mine")
    for licence, passed in (("Mine", True), ("GPL-2", True), ("MIT", False)):
        assert check_licences({"a": entry(LICENSE=licence)}, chosen).passed is passed


def test_a_group_that_the_tree_lacks_is_an_error_and_not_an_empty_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        redistributable([tmp_path], "@NONESUCH MIT")
    assert str(error.value) == (
        f"There is no licence group @NONESUCH in {tmp_path}/license_groups. Correct "
        "`redistributable` of the class in cluster.toml, or sync the mirror."
    )


def test_as_a_gate_it_holds_a_publish_up_and_can_be_waived(
    tmp_path: Path, make_package: Any, finished: Any, missing: Missing
) -> None:
    binhost = Binhost(
        class_name="blade",
        folder=tmp_path / "binhost/blade",
        build_folder=tmp_path / "build/blade",
        pool_url="http://headnode/pool",
        repos_of=lambda _: {},
        keys=None,
        valid=timedelta(days=14),
    )
    name = make_package(binhost.staging, "a-1", LICENSE="Proprietary")
    now = finished(binhost.build_folder, name).finished
    assert GATE == Gate.LICENCE

    def order(**more: Any) -> Order:
        gates = lambda move: [check_licences(move.entries, missing)]  # noqa: E731
        return Order(ring="canary", now=now, gates=gates, **more)

    with pytest.raises(GateError) as error:
        publish(binhost, order())
    assert "\nlicence: 1 of 1 packages may not be given away" in str(error.value)
    assert binhost.generations.numbers() == []
    waivers = Waivers(names=frozenset({"licence"}), note="their written leave, of March")
    done = publish(binhost, order(waivers=waivers))
    assert [each.waived for each in done.generation.gates] == ["their written leave, of March"]
