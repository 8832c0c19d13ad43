"""The crew of a build, with a real builder node; helpers with daemons are in test_lab."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from config.model import Distcc
from distcc.crew import Yard, assembled
from headnode.errors import BuildError
from headnode.node.running import Node, start
from headnode.node.spec import Bind, NodeSpec

pytestmark = pytest.mark.lab

CHOST = "x86_64-pc-linux-gnu"
HELPERS = Distcc(helpers="blade[1-2].invalid", networks=("10.0.0.0/8",))


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    (tmp_path / "logs").mkdir()
    inside = PurePosixPath("/var/log/portage")
    bind = Bind(source=tmp_path / "logs", target=inside, writable=True)
    spec = NodeSpec(
        name="builder",
        store=tmp_path / "node",
        lower=Path("/"),
        binds=(bind,),
        throwaway=True,
    )
    node: Node = start(spec)
    yield Yard(
        node=node,
        folder=tmp_path / "logs/distcc",
        inside=inside / "distcc",
        chost=CHOST,
        flags={"CFLAGS": "-O2", "CXXFLAGS": "-O2"},
        cores=2,
    )
    node.stop()


def test_a_builder_without_distcc_compiles_alone_and_it_is_said_why(yard: Yard) -> None:
    yard.node.run(["rm", "/usr/bin/distcc"], timeout_s=30)
    with assembled(HELPERS, yard) as crew:
        why = "the builder has no distcc or no gcc: install them in [build] root"
        assert crew.left_out == {"blade1.invalid": why, "blade2.invalid": why}
        assert (crew.helpers, crew.variables, crew.prefix) == ((), {}, ())


def test_helpers_that_nobody_knows_are_left_out_one_by_one(yard: Yard) -> None:
    reports: list[str] = []
    with assembled(HELPERS, yard, reports.append) as crew:
        # How soon it is known that there is no such name is the machine's resolver's matter.
        whys = {
            "it does not answer at port 3632: its name is not known",
            "it does not answer at port 3632: no connection within 4 s",
        }
        assert list(crew.left_out) == ["blade1.invalid", "blade2.invalid"]
        assert set(crew.left_out.values()) <= whys
        assert crew.variables == {}
    assert reports == ["Asking 2 helpers to compile"]


def test_a_compiler_with_the_chost_s_prefix_is_called_through_distcc_where_there_is_one(
    yard: Yard,
) -> None:
    script = f"ln -s gcc /usr/bin/{CHOST}-gcc && ls -A /usr/lib/distcc"
    before = yard.node.run(["sh", "-c", script], timeout_s=30).output.split()
    with assembled(HELPERS, yard):
        after = yard.node.run(["ls", "-A", "/usr/lib/distcc"], timeout_s=30).output.split()
    assert set(after) - set(before) == {f"{CHOST}-gcc"}


def test_flags_that_mean_each_helper_s_own_cpu_are_refused(yard: Yard) -> None:
    native = replace(yard, flags={"CFLAGS": "-O2 -mtune=native"})
    with (
        pytest.raises(BuildError, match="The flags for C have -mtune=native"),
        assembled(HELPERS, native),
    ):
        pass


def test_what_an_earlier_build_left_is_gone_and_any_user_may_write_the_log(yard: Yard) -> None:
    (yard.folder / "lock").mkdir(parents=True)
    (yard.folder / "lock/backoff_tcp_blade01_3632_0").touch()
    with assembled(HELPERS, yard):
        assert list((yard.folder / "lock").iterdir()) == []
        assert (yard.folder / "log").stat().st_mode & 0o777 == 0o666
