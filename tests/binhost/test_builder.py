"""The builder with real emerge: what is built is what is needed and lacking, and nothing else.

All tests share one builder, as a night's builds do: each moves it on from where it is.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost import build as build_step
from binhost import builder, rebuild
from binhost.build import build, explain_failure, last_result
from binhost.builder import Workshop
from binhost.emerge import Failure
from binhost.gpkg import read_metadata
from binhost.pool import Pool, package_names
from binhost.publish import Binhost, Order, publish
from config.portage import Rendered
from headnode.errors import BuildError
from mirror.upstream import metadata
from mirror.upstream.assemble import bump
from mirror.upstream.packages import Step
from mirror.upstream.tarballs import place

pytestmark = pytest.mark.lab

EBUILD = """EAPI=8
DESCRIPTION="A package of the tests"
HOMEPAGE="https://blades.example/"
{src_uri}
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"
{body}
"""
GOOD = "src_install() { echo fine > fine; insinto /usr/share/${PN}; doins fine; }"
BROKEN = """src_compile() {
	for number in {1..40}; do echo "line ${number}"; done
	die "no compiler likes this"
}"""


def write_ebuild(works: Any, package: str, body: str, distfile: str = "") -> None:
    """Put `package` (category/name-version) into the tree, indexed as an upstream does."""
    category, _, version = package.partition("/")
    folder = works.upstream / "tree" / category / version.rpartition("-")[0]
    folder.mkdir(exist_ok=True)
    if distfile:
        place(works.upstream / "distfiles", distfile, b"any content")
    source = f'SRC_URI="mirror://blades/{distfile}"' if distfile else 'S="${WORKDIR}"'
    (folder / f"{version}.ebuild").write_text(EBUILD.format(src_uri=source, body=body))
    metadata.index(works.upstream / "tree", works.upstream / "distfiles")


def pool_publish(works: Any) -> None:
    """Publish the last build."""
    host = Binhost(
        class_name="blade",
        folder=works.state / "binhost/blade",
        build_folder=works.state / "build/blade",
        pool_url="http://h/pool",
        repos_of=lambda _: {},
        keys=None,
        valid=timedelta(days=14),
    )
    publish(host, Order(ring="canary", now=datetime.now(UTC)))


def test_every_package_of_the_set_has_a_package_file_in_staging(works: Any) -> None:
    assert set(works.result.packages) == package_names(works.first)
    assert [name.rpartition("/")[2] for name in works.result.packages] == [
        "motd-blade-1.0-1.gpkg.tar",
        "pwgen-0-1.gpkg.tar",
        "bladecount-1.0-1.gpkg.tar",
        "colours-1.0-1.gpkg.tar",
        "hello-0-1.gpkg.tar",
        "tree-0-1.gpkg.tar",
        "blade-1.0-1.gpkg.tar",
        "libblade-1.0-1.gpkg.tar",
        "bladeinfo-1.0-1.gpkg.tar",
        "nodekeys-1.0-1.gpkg.tar",
    ]
    assert len(works.result.built) == 10


def test_progress_is_told_a_line_a_step_and_each_package_has_a_log(works: Any) -> None:
    assert works.reports[0].startswith("10 packages to build: ")
    assert "dev-libs/libblade-1.0" in works.reports[0]
    assert "Completed (10 of 10) cluster-meta/blade-1.0::gentoo" in works.reports
    logs = [path.name for path in works.shop().logs.glob("*.log")]
    assert len([name for name in logs if name.startswith("dev-libs:libblade-1.0:")]) == 1


def test_the_machine_is_as_it_was(works: Any) -> None:
    assert works.machine_now() == works.machine_before
    assert (works.shop().folder / "upper/usr/bin/bladeinfo").exists()
    assert not Path("/usr/bin/bladeinfo").exists()


def test_a_second_build_starts_nothing(works: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def unexpected(*args: Any, **kwargs: Any) -> Iterator[None]:
        pytest.fail("the builder was started")
        yield

    monkeypatch.setattr(builder, "running", unexpected)
    reports: list[str] = []
    started = time.monotonic()
    result = works.build("first", reports=reports)
    assert time.monotonic() - started < 0.5
    assert (result.built, result.packages, result.seconds) == ((), works.result.packages, 0.0)
    assert reports == ["Nothing changed since the last build."]


def test_the_builder_has_no_network_and_does_not_see_the_state_folder(works: Any) -> None:
    with builder.running(works.shop()) as node:
        links = node.run(["ip", "-o", "link"], timeout_s=10).output.splitlines()
        routes = node.run(["ip", "route"], timeout_s=10).output
        state = node.run(["ls", "-A", works.state], timeout_s=10, check=False)
    assert [line.split(": ")[1] for line in links] == ["lo"]
    assert routes == ""
    assert state.output == ""


def test_what_a_killed_emerge_left_is_swept_and_its_stale_index_not_believed(works: Any) -> None:
    staging = works.shop().staging
    (staging / "Packages").unlink()
    (staging / "Packages.gz").unlink()
    empty = staging / "app-misc/hello/hello-0-2.gpkg.tar"
    half = staging / "app-misc/hello/hello-0-2.gpkg.tar.4711"
    empty.touch()
    half.write_bytes(b"half")
    with builder.running(works.shop()) as node:
        assert {step.kind for step in builder.closure(node)} == {"binary"}
    assert not empty.exists()
    assert not half.exists()


def test_half_a_removed_upper_does_not_pass_for_a_whole_one(
    works: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop = works.shop()
    kept = shop.folder / "root.json"
    before = kept.read_text()

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "remove_tree", stop)
        with builder.running(shop, fresh=True):
            pass
    assert not kept.exists()
    kept.write_text(before)  # nothing was removed, after all


def test_an_unknown_atom_is_one_paragraph_that_names_it(works: Any) -> None:
    with pytest.raises(BuildError) as error:
        works.build("unknown", "app-misc/nope")
    assert str(error.value) == (
        "There is no ebuild for app-misc/nope, which @blade needs. Correct `packages` (or the "
        "world file, USE, keywords) of the class in cluster.toml, or sync the mirror if the "
        "package is new."
    )


def test_a_masked_package_is_explained_in_emerges_words(works: Any) -> None:
    with pytest.raises(BuildError) as error:
        works.build("masked", package_mask=("app-misc/colours",))
    assert error.value.what.splitlines()[:2] == [
        "emerge finds no way to install @blade:",
        '!!! All ebuilds that could satisfy "app-misc/colours" have been masked.',
    ]


def test_a_package_that_does_not_compile_is_named_with_phase_log_and_end_and_the_rest_stays(
    works: Any,
) -> None:
    write_ebuild(works, "app-misc/broken-1", BROKEN)
    write_ebuild(works, "app-misc/fine-1", GOOD)
    extra = ("app-misc/broken", "app-misc/fine")
    with pytest.raises(BuildError) as error:
        works.build("broken", *extra)
    logs = list(works.shop().logs.glob("app-misc:broken-1:*.log"))
    assert len(logs) == 1
    lines = error.value.what.splitlines()
    assert lines[0] == (
        f"app-misc/broken-1 did not build: its compile phase failed. Log: {logs[0]}. It ends:"
    )
    assert len(lines) == 1 + 20
    assert " * ERROR: app-misc/broken-1::gentoo failed (compile phase):" in lines
    assert error.value.remedy == (
        "What was built stays. Correct the cause and run headnode build again."
    )
    assert (works.shop().staging / "app-misc/fine/fine-1-1.gpkg.tar").exists()

    write_ebuild(works, "app-misc/broken-1", GOOD)
    assert works.build("mended", *extra).built == ("app-misc/broken-1",)


def test_a_missing_distfile_is_named_with_what_to_do_and_a_failed_install_is_no_binary(
    works: Any,
) -> None:
    write_ebuild(works, "app-misc/unfetched-1", "", "unfetched-1.tar.gz")
    write_ebuild(works, "app-misc/unmerged-1", 'pkg_preinst() { die "not here"; }')
    for path in works.upstream.glob("distfiles/*/unfetched-1.tar.gz"):
        path.unlink()
    with pytest.raises(BuildError) as error:
        works.build("unfetched", "app-misc/unfetched", "app-misc/unmerged")
    what = error.value.what
    assert (
        "app-misc/unfetched-1 did not build: its fetch phase failed. "
        "The mirror has no unfetched-1.tar.gz. Log: "
    ) in what
    assert "app-misc/unmerged-1 did not build: its preinst phase failed. Log: " in what
    assert error.value.remedy == (
        "headnode mirror sync fetches what is missing. "
        "What was built stays. Correct the cause and run headnode build again."
    )
    assert list(works.shop().staging.glob("app-misc/unmerged/*")) == []


def test_a_build_that_takes_too_long_is_ended_and_says_which_limit(works: Any) -> None:
    write_ebuild(works, "app-misc/slow-1", "src_compile() { sleep 300; }")
    shop = works.shop("app-misc/slow")
    with pytest.raises(BuildError) as error:
        build(shop, class_name="blade", snapshots="slow", atoms=(), jobs=2, timeout_s=4)
    out = shop.logs / "emerge.out"
    assert str(error.value) == (
        f"emerge was ended: it took longer than 4 s. Log: {out}. What was built stays. "
        "Run headnode build again; [build] timeout_s in cluster.toml is the limit."
    )
    assert ">>> Emerging (1 of 1) app-misc/slow-1::gentoo" in out.read_text()


def test_a_bump_builds_just_that_package(works: Any) -> None:
    version = bump(works.upstream, "app-admin/pwgen")
    result = works.build("pwgen")
    assert result.built == (f"app-admin/pwgen-{version}",)
    assert f"app-admin/pwgen/pwgen-{version}-1.gpkg.tar" in result.packages


def test_a_moved_sub_slot_rebuilds_the_library_and_its_two_dependants_only(works: Any) -> None:
    before = works.build("pwgen")
    version = bump(works.upstream, "dev-libs/libblade", Step.MAJOR)
    result = works.build("subslot")
    assert set(result.built) == {
        f"dev-libs/libblade-{version}",
        "app-misc/bladecount-1.0",
        "sys-apps/bladeinfo-1.0",
    }
    assert set(result.packages) - set(before.packages) == {
        f"dev-libs/libblade/libblade-{version}-1.gpkg.tar",
        "app-misc/bladecount/bladecount-1.0-2.gpkg.tar",
        "sys-apps/bladeinfo/bladeinfo-1.0-2.gpkg.tar",
    }
    assert len(result.packages) == len(before.packages)


def test_changed_use_of_one_package_rebuilds_that_one_under_the_next_build_id(works: Any) -> None:
    result = works.build("subslot", package_use=("app-misc/colours truecolour",))
    assert result.built == ("app-misc/colours-1.0",)
    assert "app-misc/colours/colours-1.0-2.gpkg.tar" in result.packages


def test_use_changed_back_takes_the_earlier_binary(works: Any) -> None:
    result = works.build("subslot")
    assert result.built == ()
    assert "app-misc/colours/colours-1.0-1.gpkg.tar" in result.packages


def test_a_fresh_builder_is_refilled_from_the_pool_and_builds_on_it(works: Any) -> None:
    packages = works.build("subslot").packages
    pool_publish(works)
    upper = works.shop().folder / "upper"
    (upper / "usr/share/left-behind").write_text("by an earlier build")
    result = works.build("subslot", fresh=True)
    assert (result.built, result.packages) == ((), packages)
    assert not (upper / "usr/share/left-behind").exists()

    version = bump(works.upstream, "app-misc/bladecount", Step.REVISION)
    result = works.build("refill")
    assert result.built == (f"app-misc/bladecount-{version}",)
    said = (works.shop().logs / "emerge.out").read_text()
    assert ">>> Emerging binary (1 of 2) dev-libs/libblade-" in said
    assert (upper / "usr/bin/bladecount").exists()


def test_a_package_that_the_pool_lost_is_built_anew_under_a_name_never_given(works: Any) -> None:
    result = works.build("refill")
    pool_publish(works)
    name = next(name for name in result.packages if "/hello/" in name)
    (works.shop().pool.folder / name).unlink()
    result = works.build("refill")
    assert result.built == ("app-misc/hello-0",)
    assert name not in result.packages
    assert name.replace("-1.gpkg", "-2.gpkg") in result.packages
    pool_publish(works)
    assert package_names(works.shop().staging).isdisjoint(result.packages)


def test_a_package_that_was_collected_is_built_anew_under_a_name_never_given(works: Any) -> None:
    before = works.build("refill").packages
    pool = works.shop().pool
    pool.index.drop({name for name in pool.entries() if "/hello/" in name})
    for path in pool.folder.glob("*/hello/*"):
        path.unlink()
    result = works.build("refill")
    assert result.built == ("app-misc/hello-0",)
    new = next(name for name in result.packages if "/hello/" in name)
    assert set(result.packages) - set(before) == {new}
    assert new.endswith("-3.gpkg.tar")
    pool_publish(works)
    assert pool.build_ids([])["app-misc/hello-0"] == 3
    staging = works.shop().staging  # no name is kept free there any longer
    assert all((staging / name).stat().st_size for name in package_names(staging))


LIBRARY = """src_compile() {
	echo 'int shift_by(void) { return 1; }' > shift.c || die
	gcc -shared -fPIC -Wl,-soname,libshift.so.${PV} -o libshift.so.${PV} shift.c || die
}
src_install() {
	into /usr
	dolib.so libshift.so.${PV}
	dosym libshift.so.${PV} /usr/$(get_libdir)/libshift.so
}"""
USER = """RDEPEND="dev-libs/libshift"
DEPEND="${RDEPEND}"
src_compile() {
	echo 'int shift_by(void); int main(void) { return shift_by() - 1; }' > use.c || die
	gcc -o useshift use.c -lshift || die
}
src_install() { dobin useshift; }"""


def linked(works: Any, result: Any) -> dict[str, str | None]:
    """Package file to the shared objects it requires, of those that use the library."""
    return {
        name.rpartition("/")[2]: " ".join(read_metadata(path)["REQUIRES"].split())
        for name in result.packages
        if "/useshift/" in name
        for path in [works.shop().staging / name]
    }


def test_a_library_that_moves_its_soname_without_a_sub_slot_has_its_users_built_again(
    works: Any,
) -> None:
    atoms = ("app-misc/useshift", "dev-libs/libshift")
    write_ebuild(works, "dev-libs/libshift-1", LIBRARY)
    write_ebuild(works, "app-misc/useshift-1", USER)
    first = works.build("shift1", *atoms)
    assert linked(works, first) == {"useshift-1-1.gpkg.tar": "x86_64: libc.so.6 libshift.so.1"}

    write_ebuild(works, "dev-libs/libshift-2", LIBRARY)
    reports: list[str] = []
    second = works.build("shift2", *atoms, reports=reports)
    assert second.built == ("dev-libs/libshift-2", "app-misc/useshift-1")
    assert ("To build again: app-misc/useshift-1 (it links to x86_64: libshift.so.1)") in reports
    assert linked(works, second) == {"useshift-1-2.gpkg.tar": "x86_64: libc.so.6 libshift.so.2"}
    assert works.build("shift3", *atoms).built == ()
    upper = works.shop().folder / "upper"
    assert json.loads((upper / rebuild.REGISTRY).read_text()) == {}
    assert not (upper / "usr/lib/libshift.so.1").exists()


def test_what_is_only_there_to_build_with_is_built_again_by_preserved_rebuild(works: Any) -> None:
    """No blade has it, so no index names it; but the old library is what it would run with."""
    atoms = ("app-misc/shifted", "dev-libs/libshift")
    tool = USER.replace("dobin useshift", "newbin useshift shifttool")
    write_ebuild(works, "app-misc/shifttool-1", tool)
    product = 'BDEPEND="app-misc/shifttool"\nsrc_compile() { shifttool || die; }'
    write_ebuild(works, "app-misc/shifted-1", product)
    first = works.build("shift4", *atoms)
    assert not [name for name in first.packages if "/shifttool/" in name]

    write_ebuild(works, "dev-libs/libshift-3", LIBRARY)
    reports: list[str] = []
    second = works.build("shift5", *atoms, reports=reports)
    assert "To build again: app-misc/shifttool-1 (@preserved-rebuild)" in reports
    assert second.built[0] == "dev-libs/libshift-3"
    assert "app-misc/shifttool-1" in second.built
    upper = works.shop().folder / "upper"
    assert json.loads((upper / rebuild.REGISTRY).read_text()) == {}
    assert not (upper / "usr/lib/libshift.so.2").exists()


def test_a_damaged_record_of_the_last_build_is_none(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    assert last_result(tmp_path) is None


def test_a_failure_without_a_log_or_a_name_is_still_explained(tmp_path: Path) -> None:
    lost = Failure(package="a/b-1", phase="", log="/var/tmp/portage/a/b-1/temp/build.log")
    assert explain_failure([lost], "", tmp_path).what == (
        "a/b-1 did not build: its unknown phase failed. Log: none. It ends:\n"
    )
    assert str(explain_failure([], "no room left", tmp_path)) == (
        "emerge failed without naming a package:\nno room left\nWhat was built stays. Correct "
        f"the cause and run headnode build again. Log: {tmp_path / 'emerge.out'}."
    )


def test_another_root_is_told_by_its_packages(tmp_path: Path) -> None:
    package = tmp_path / "var/db/pkg/sys-libs/glibc-2.41"
    package.mkdir(parents=True)
    before = builder.root_digest(tmp_path)
    assert builder.root_digest(tmp_path) == before
    os.utime(package, (1, 1))
    assert builder.root_digest(tmp_path) != before


OLD, NEW = "app-misc/old/old-1-1.gpkg.tar", "app-misc/new/new-1-1.gpkg.tar"


@pytest.fixture
def over(tmp_path: Path) -> Workshop:
    """A builder over a root of one file, with a package that was staged before it was last seen."""
    root, folder = tmp_path / "root", tmp_path / "build"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=gentoo\n")
    for name in (OLD, NEW):
        (folder / "staging" / name).parent.mkdir(parents=True)
    (folder / "staging" / OLD).write_text("x")
    (folder / "root.json").write_text(builder._mark(root))
    return Workshop(
        folder=folder,
        state=tmp_path,
        root=root,
        repos={},
        distfiles=tmp_path / "distfiles",
        pool=Pool(folder=tmp_path / "pool"),
        configuration=Rendered(files={}),
    )


def staged(shop: Workshop, *, after_s: float) -> None:
    """Stage a package so many seconds after the root was last seen."""
    path = shop.staging / NEW
    path.write_text("x")
    seen_s = (shop.folder / "root.json").stat().st_mtime
    os.utime(path, (seen_s + after_s, seen_s + after_s))


def test_what_was_built_over_a_root_that_changed_meanwhile_is_not_used(over: Workshop) -> None:
    staged(over, after_s=1)
    (over.root / "var/db/pkg/sys-devel/gcc-15").mkdir(parents=True)
    with pytest.raises(BuildError) as raised:
        builder.check_root(over)
    assert str(raised.value) == (
        f"The software of {over.root} changed while packages were built over it; what was built "
        "meanwhile is not used. Run headnode build again when that is done."
    )
    assert package_names(over.staging) == {OLD}
    assert not (over.folder / "root.json").exists()


def test_nor_is_it_where_that_build_failed_or_was_killed(over: Workshop) -> None:
    staged(over, after_s=1)
    (over.root / "var/db/pkg/sys-devel/gcc-15").mkdir(parents=True)
    builder._prepare(over, builder._spec(over, ()), fresh=False)
    assert package_names(over.staging) == {OLD}


def test_what_a_good_build_staged_is_kept_when_the_root_changes_later(over: Workshop) -> None:
    staged(over, after_s=-0.001)
    builder.check_root(over)
    (over.root / "var/db/pkg/sys-devel/gcc-15").mkdir(parents=True)
    builder._prepare(over, builder._spec(over, ()), fresh=False)
    assert package_names(over.staging) == {OLD, NEW}


def test_what_no_tree_has_any_more_is_dropped_from_staging_unless_it_is_wanted(
    tmp_path: Path, make_package: Any
) -> None:
    shop = Workshop(
        folder=tmp_path / "build",
        state=tmp_path,
        root=tmp_path / "root",
        repos={"gentoo": tmp_path / "tree"},
        distfiles=tmp_path / "distfiles",
        pool=Pool(folder=tmp_path / "pool"),
        configuration=Rendered(files={}),
    )
    has = ["tool-2", "wanted-1", "tool-1", "tool-3"]
    [there, wanted, *gone] = (make_package(shop.staging, pf) for pf in has)
    (tmp_path / "tree/app-misc/tool").mkdir(parents=True)
    (tmp_path / "tree/app-misc/tool/tool-2.ebuild").touch()
    build_step.drop_outdated(shop, (wanted,))
    assert package_names(shop.staging) == {there, wanted}
    assert len(gone) == 2


ONLY_BUILD = """\
EAPI=8
DESCRIPTION="What a build needs, and no blade"
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"
S="${WORKDIR}"
"""


def test_what_was_needed_only_to_build_is_packed_and_goes_when_its_tree_has_it_no_more(
    works: Any,
) -> None:
    for path in (works.upstream / "tree/app-misc/bladecount").glob("*.ebuild"):
        path.write_text(path.read_text() + 'BDEPEND="app-misc/onlybuild"\n')
    tool = works.upstream / "tree/app-misc/onlybuild/onlybuild-1.ebuild"
    tool.parent.mkdir()
    tool.write_text(ONLY_BUILD)
    bump(works.upstream, "app-misc/bladecount", Step.REVISION)
    packed = "app-misc/onlybuild/onlybuild-1-1.gpkg.tar"
    result = works.build("bdepend")
    assert packed not in result.packages
    assert packed in package_names(works.shop().staging)
    tool.rename(tool.with_name("onlybuild-2.ebuild"))
    bump(works.upstream, "app-misc/bladecount", Step.REVISION)
    result = works.build("bdepend, later")
    build_step.drop_outdated(works.shop(), result.packages)
    assert packed not in package_names(works.shop().staging)


def test_an_observer_sees_the_phase_of_each_package_while_it_is_built(works: Any) -> None:
    write_ebuild(works, "app-misc/slowly-1", "src_compile() { sleep 6; }\n" + GOOD)
    seen: set[tuple[str, str]] = set()
    done = threading.Event()

    def observe() -> None:
        while not done.wait(0.1):
            for path in (works.state / "build/blade/run").glob("emerge-*.json"):
                with suppress(OSError, ValueError):  # it is gone, or just made
                    tasks = json.loads(path.read_text())["tasks"]
                    seen.update((task["cpv"], task["phase"]) for task in tasks)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        works.build("observed", "app-misc/slowly")
    finally:
        done.set()
        thread.join()
    assert ("app-misc/slowly-1", "compile") in seen
    assert list((works.state / "build/blade/run").glob("*.json")) == []  # emerge has ended
