"""The main job, on real parts: rsyncd upstream, emerge in the builder, HTTP, emerge on 3 blades.

The tests tell one story, in their order, in one lab.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump, read_assembled
from mirror.upstream.metadata import stamp
from mirror.upstream.packages import Step

pytestmark = pytest.mark.lab

BLADES = ("blade01", "blade02", "blade03")


def ask(running: Rehearsal, *words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(running.headnode(*words, "--json").output)


def on(running: Rehearsal, blade: str, *command: str) -> str:
    """What a command prints on a blade."""
    return running.lab.node(blade).run(list(command), timeout_s=300).output.strip()


def installed(running: Rehearsal, blade: str) -> set[str]:
    """What a blade's /var/db/pkg has, `category/name-version`."""
    found = on(running, blade, "find", "/var/db/pkg", "-mindepth", "2", "-maxdepth", "2")
    return {path.removeprefix("/var/db/pkg/") for path in found.splitlines()}


def upstream_has(running: Rehearsal) -> set[str]:
    """The newest version of every package upstream."""
    known = read_assembled(running.upstream).packages
    return {f"{name}-{version}" for name, version in known.items()}


def requests_upstream(running: Rehearsal) -> str:
    return (running.upstream / "http.log").read_text()


def night(running: Rehearsal) -> dict[str, Any]:
    """One cycle: everything that a night does."""
    return {
        "sync": ask(running, "mirror", "sync"),
        "build": ask(running, "build"),
        "publish": ask(running, "publish"),
        "promote": ask(running, "promote", "--ring", "fleet"),
        "rollout": ask(running, "rollout", "run"),
    }


@pytest.fixture(autouse=True)
def machine_is_left_alone() -> Iterator[None]:
    """No test changes the machine's mounts, its network, or its Portage files."""
    before = machine()
    yield
    assert machine() == before


def machine() -> dict[str, object]:
    def listing(folder: str) -> list[str]:
        return sorted(str(path) for path in Path(folder).rglob("*"))

    return {
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if ours(line)],
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "etc": sorted(path.name for path in Path("/etc").iterdir()),
        "portage": listing("/etc/portage") + listing("/var/db/pkg") + listing("/var/cache/binpkgs"),
        "netns": listing("/run/netns"),
        "hosts": Path("/etc/hosts").read_text(),
    }


def ours(mount: str) -> bool:
    """Whether a line of /proc/mounts is one that a lab could have made or changed."""
    _, point, kind, _ = mount.split(" ", 3)
    top = {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp", "/etc/hosts"}
    return point in top or kind == "overlay" or "/lab" in point


def test_a_ring_without_a_deployment_stops_the_rollout_and_says_so(
    running: Rehearsal,
) -> None:
    done = running.headnode("rollout", "run", "--json", check=False)
    assert done.code == 1
    first, *others = json.loads(done.output)
    assert first["result"] == "failed"
    assert "has nothing for this ring yet" in first["error"]
    assert [each["result"] for each in others] == ["not tried", "not tried"]


def test_a_publish_before_a_build_says_what_to_run_first(running: Rehearsal) -> None:
    done = running.headnode("publish", check=False)
    assert (done.code, done.errors) == (
        1,
        "headnode: Nothing was built yet. Run headnode build first.\n",
    )


def test_the_tree_and_the_sources_are_mirrored(running: Rehearsal) -> None:
    done = ask(running, "mirror", "sync")
    assert done["changed"] == ["gentoo"]
    assert done["fetched"]
    distfiles = running.lab.folder / "state/mirror/distfiles"
    assert (distfiles / "layout.conf").exists()
    for name in done["fetched"]:
        assert len(list(distfiles.glob(f"??/{name}"))) == 1


def test_the_set_is_built_once_into_packages(running: Rehearsal) -> None:
    done = ask(running, "build")
    assert set(done["built"]) == upstream_has(running)
    staging = running.lab.folder / "state/build/blade/staging"
    assert {str(path.relative_to(staging)) for path in staging.rglob("*.gpkg.tar")} == set(
        done["packages"]
    )
    logs = running.lab.folder / "state/build/blade/logs"
    assert len(list(logs.glob("*:*:*.log"))) == len(done["built"])


def test_a_publish_puts_a_generation_in_front_of_the_first_ring_only(running: Rehearsal) -> None:
    done = ask(running, "publish", "--note", "first")
    assert done["generation"]["number"] == 1
    assert done["deployment"]["ring"] == "canary"
    rings = running.lab.folder / "state/binhost/blade/rings"
    assert (rings / "canary/current/Packages.gz").exists()
    assert not (rings / "fleet").exists()


def test_plain_emerge_installs_from_the_ring_with_the_rendered_files_alone(
    running: Rehearsal,
) -> None:
    on(running, "blade01", "headnode-pull", "--trees")
    done = on(running, "blade01", "emerge", "--getbinpkgonly", "--oneshot", "sys-apps/bladeinfo")
    assert "bladeinfo 1.0" in on(running, "blade01", "bladeinfo", "--version")
    assert {"sys-apps/bladeinfo-1.0", "dev-libs/libblade-1.0"} == installed(running, "blade01")
    assert "[ebuild" not in done


def test_every_blade_pulls_the_generation(running: Rehearsal) -> None:
    ask(running, "promote", "--ring", "fleet")
    reports = ask(running, "rollout", "run")
    assert [(each["blade"], each["ring"], each["result"]) for each in reports] == [
        ("blade01", "canary", "updated"),
        ("blade02", "fleet", "updated"),
        ("blade03", "fleet", "updated"),
    ]
    for blade in BLADES:
        assert installed(running, blade) == upstream_has(running)
        assert on(running, blade, "cat", "/var/lib/portage/world_sets") == "@blade"
        assert "bladeinfo 1.0" in on(running, blade, "bladeinfo", "--version")
        assert " squashfs ro," in on(running, blade, "grep", "headnode/tree", "/proc/mounts")


def test_a_blade_plans_nothing_more_afterwards(running: Rehearsal) -> None:
    plan = on(running, "blade02", "emerge", "--pretend", "--update", "--deep", "--newuse", "@world")
    assert "[binary" not in plan
    assert "[ebuild" not in plan


def test_a_night_without_news_builds_nothing_publishes_nothing_and_starts_no_emerge(
    running: Rehearsal,
) -> None:
    asked = requests_upstream(running)
    done = night(running)
    assert done["sync"]["changed"] == []
    assert done["sync"]["fetched"] == []
    assert done["build"]["built"] == []
    assert (done["publish"]["moved"], done["promote"]["moved"]) == (False, False)
    assert [(each["result"], each["emerge_started"]) for each in done["rollout"]] == [
        ("unchanged", False)
    ] * 3
    assert requests_upstream(running) == asked


def test_a_new_version_upstream_reaches_every_blade_and_nothing_else_is_rebuilt(
    running: Rehearsal,
) -> None:
    version = bump(running.upstream, "sys-apps/bladeinfo")
    done = night(running)
    assert done["build"]["built"] == [f"sys-apps/bladeinfo-{version}"]
    assert done["publish"]["new_packages"] == [f"sys-apps/bladeinfo/bladeinfo-{version}-1.gpkg.tar"]
    for report in done["rollout"]:
        assert report["changes"] == [
            "-sys-apps/bladeinfo-1.0",
            f"+sys-apps/bladeinfo-{version}",
        ]
    for blade in BLADES:
        assert f"bladeinfo {version}" in on(running, blade, "bladeinfo", "--version")


def test_the_status_page_and_its_command_tell_what_every_ring_has(running: Rehearsal) -> None:
    newest = ask(running, "generations", "list")[-1]["number"]
    status = json.loads(running.headnode("status", "--json", check=False).output)
    assert {ring["name"]: ring["generation"] for ring in status["rings"]} == {
        "canary": newest,
        "fleet": newest,
    }
    assert status["generations"][0]["number"] == newest
    assert status["generations"][0]["changes"]["up"] == 1
    assert status["repos"][0]["warning"] == ""
    page = on(running, "blade01", "wget", "-qO-", "http://headnode:8080/")
    assert f'<a class="gen" href="/status/generations/blade/{newest}">{newest}</a>' in page
    metrics = on(running, "blade01", "wget", "-qO-", "http://headnode:8080/metrics")
    assert f'headnode_ring_generation{{class="blade",ring="fleet"}} {newest}.0' in metrics


def test_a_library_s_new_sub_slot_rebuilds_what_links_to_it_and_no_more(
    running: Rehearsal,
) -> None:
    version = bump(running.upstream, "dev-libs/libblade", Step.MAJOR)
    done = night(running)
    names = {cpv.rpartition("-")[0] for cpv in done["build"]["built"]}
    assert names == {"dev-libs/libblade", "sys-apps/bladeinfo", "app-misc/bladecount"}
    for blade in BLADES:
        assert f"dev-libs/libblade-{version}" in installed(running, blade)
        assert "not found" not in on(running, blade, "sh", "-c", "ldd $(command -v bladeinfo)")


def test_blades_are_served_the_tree_they_were_built_from_while_the_mirror_is_newer(
    running: Rehearsal,
) -> None:
    chk = "metadata/timestamp.chk"
    built_from = running.lab.folder / f"state/binhost/blade/rings/canary/current/repos/gentoo/{chk}"
    before = built_from.read_text()
    bump(running.upstream, "app-misc/bladecount")
    assert ask(running, "mirror", "sync")["changed"] == ["gentoo"]
    ask(running, "build")
    newest = (running.lab.folder / f"state/mirror/repos/gentoo/current/{chk}").read_text()
    assert newest != before
    for module, text in (("blade-canary-gentoo", before), ("gentoo-portage", newest)):
        on(running, "blade01", "rsync", f"rsync://headnode:8730/{module}/{chk}", "/tmp/chk")
        assert on(running, "blade01", "cat", "/tmp/chk") == text.strip()


def test_after_a_gc_a_blade_with_an_index_of_the_days_before_completes_its_merge(
    running: Rehearsal,
) -> None:
    """The first generation: both rings left it, and went on once more since."""
    good = running.config.read_text()
    old = "sys-apps/bladeinfo/bladeinfo-1.0-1.gpkg.tar"
    pool = running.lab.folder / "state/binhost/blade/pool"
    index = "http://headnode:8080/binhost/blade/fleet/deployments/1"
    merge = ["env", f"PORTAGE_BINHOST={index}", "emerge", "--getbinpkgonly", "--oneshot"]
    # Without dependencies: this blade is ahead already, and is to fetch what the old index names.
    merge += ["--nodeps", "=dev-libs/libblade-1.0", "=sys-apps/bladeinfo-1.0"]
    fewest = good.replace("keep_generations = 10", "keep_generations = 1")
    try:
        running.config.write_text(fewest.replace("keep_days = 7", "keep_days = 0"))
        without_grace = ask(running, "generations", "gc", "--dry-run")
        running.config.write_text(fewest)
        with_grace = ask(running, "generations", "gc")
    finally:
        running.config.write_text(good)
    assert without_grace["generations"] == [1]
    assert old in without_grace["files"]
    assert (with_grace["generations"], with_grace["files"]) == ([], {})
    assert with_grace["kept"]["1"] == [
        "ring canary left it less than the grace ago",
        "ring fleet left it less than the grace ago",
    ]
    assert (pool / old).exists()
    on(running, "blade03", *merge)
    assert "sys-apps/bladeinfo-1.0" in installed(running, "blade03")


def test_a_blade_that_is_off_is_told_apart_and_the_others_go_on(running: Rehearsal) -> None:
    running.lab.node("blade03").stop()
    bump(running.upstream, "app-misc/bladecount")
    for words in (("mirror", "sync"), ("build",), ("publish",), ("promote", "--ring", "fleet")):
        running.headnode(*words)
    done = running.headnode("rollout", "run", "--json", check=False)
    assert done.code == 3
    assert [each["result"] for each in json.loads(done.output)] == [
        "updated",
        "updated",
        "unreached",
    ]


def test_a_broken_configuration_is_refused_with_its_line(running: Rehearsal) -> None:
    broken = running.lab.folder / "broken.toml"
    broken.write_text(running.config.read_text().replace("fanout =", "fan_out ="))
    line = broken.read_text().splitlines().index("fan_out = 16") + 1
    words = ["-m", "headnode", "--config", str(broken), "build"]
    done = running.lab.headnode.run(
        [running.argv()[running.argv().index("-m") - 1], *words], timeout_s=60, check=False
    )
    assert done.code == 2
    assert done.errors == (
        f"headnode: {broken}:{line}: rollout.fan_out: unknown key. Did you mean `fanout`?\n"
    )


def test_an_unknown_package_is_named_and_the_rings_stay_as_they_are(running: Rehearsal) -> None:
    good = running.config.read_text()
    before = ask(running, "generations", "list")
    running.config.write_text(
        good.replace('"cluster-meta/blade"', '"cluster-meta/blade", "app-misc/nonesuch"')
    )
    try:
        done = running.headnode("build", check=False)
    finally:
        running.config.write_text(good)
    assert done.code == 1
    assert done.errors == (
        "headnode: There is no ebuild for app-misc/nonesuch, which @blade needs. Correct "
        "`packages` (or the world file, USE, keywords) of the class in cluster.toml, or sync the "
        "mirror if the package is new.\n"
    )
    assert ask(running, "generations", "list") == before


def test_a_half_there_upstream_changes_nothing(running: Rehearsal) -> None:
    tree = running.upstream / "tree"
    current = (running.lab.folder / "state/mirror/repos/gentoo/current").readlink()
    (tree / "profiles").rename(tree.parent / "profiles.away")
    stamp(tree, time.time())
    try:
        done = running.headnode("mirror", "sync", check=False)
    finally:
        (tree.parent / "profiles.away").rename(tree / "profiles")
    assert done.code == 1
    assert "profiles" in done.errors
    assert (running.lab.folder / "state/mirror/repos/gentoo/current").readlink() == current


def test_an_upstream_that_is_down_is_named_and_what_was_served_still_is(
    running: Rehearsal,
) -> None:
    running.lab.node("upstream").stop()
    done = running.headnode("mirror", "sync", check=False)
    assert done.code == 1
    assert "rsync://upstream:8730/gentoo-portage" in done.errors
    reports = ask(running, "rollout", "run", "--nodes", "blade01")
    assert reports[0]["result"] == "unchanged"
    on(running, "blade01", "emerge", "--getbinpkgonly", "--oneshot", "app-misc/colours")
