"""Every gate, open and shut, on a real lab blade. The tests tell one story, in their order."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from binhost.gates import NO_WAIVERS, GateError, Move, Waivers
from binhost.keys import gpg
from binhost.records import BuildResult, GateReport, read, save
from config.model import Signing, State
from headnode.errors import EnvironmentLacksError
from schedules.gates import gates_of, verdict
from schedules.moving import publish_once, renew_once
from schedules.site import Site

pytestmark = pytest.mark.lab

ALL = ["integrity", "monotonic", "closure", "soname", "smoke", "converged", "way-back"]
V1 = ("tool-1", "oneway-1", "flagged-1", "nodekeys-1.0", "libgate-1")
V2 = ("tool-2", "oneway-2", "flagged-1", "nodekeys-1.0", "libgate-1")
SMOKE = ["gatetool", "test -e /usr/share/oneway"]


def by_gate(reports: tuple[GateReport, ...]) -> dict[str, GateReport]:
    return {each.gate: each for each in reports}


def ask(
    world: Any, move: Move, waivers: Waivers = NO_WAIVERS, **options: Any
) -> dict[str, GateReport]:
    """What the gates say of a move, with options of [publish] in `publish` and of the class."""
    site = world.site(**options)
    gates = gates_of(site, waivers=waivers, now=world.now, watch=world.notes())
    return by_gate(tuple(gates(move)))


def altered(move: Move, package: str, *lines: str) -> Move:
    """The move with lines of a package's index entry in place of its own of those keys."""
    name = next(name for name in move.entries if f"/{package}-" in name)
    keys = tuple(f"{line.partition(':')[0]}:" for line in lines)
    kept = [line for line in move.entries[name].splitlines() if not line.startswith(keys)]
    return replace(move, entries={**move.entries, name: "\n".join([*kept, *lines]) + "\n"})


def test_a_first_generation_passes_every_gate_with_figures(world: Any) -> None:
    world.stage(*V1)
    done, said = world.publish(world.site(smoke=SMOKE))
    reports = done.generation.gates
    assert [each.gate for each in reports] == ALL
    assert {verdict(each) for each in reports} == {"passed"}
    assert [each.report for each in reports] == [
        "Every package (5) is there in the size that the index says; those that blades will fetch "
        "(5) have the digests they were published with.",
        "The ring has nothing that could disappear.",
        "5 packages, all binary.",
        "Every library that 5 packages link to comes with one, or with the root.",
        "A lab blade with nothing installed pulled it: 5 packages came, every library of 3 ELF "
        "files of theirs is there; 1 check of packages and 2 commands of the class succeeded.",
        "After the pull, emerge --update --deep --newuse @world plans nothing.",
        "The ring has nothing that it could go back to.",
    ]
    assert said == [
        *(f"{each.gate}: passed. {each.report}" for each in reports[:2]),
        "Putting up a lab blade",
        "A lab blade pulls generation 1",
        "Resolving the whole set from binaries alone",
        *(f"{each.gate}: passed. {each.report}" for each in reports[2:]),
    ]


def test_a_step_that_another_ring_took_is_not_walked_again(world: Any) -> None:
    done, said = world.promote("fleet", 1, world.site(smoke=SMOKE))
    assert [each.gate for each in done.deployment.gates] == ["integrity", "smoke"]
    assert "Putting up a lab blade" not in said
    # With other smoke commands it would be another step.
    assert len(list((world.state / "build/blade/gate/walked").iterdir())) == 1


def test_a_step_without_a_way_back_is_published_with_a_loud_warning(world: Any) -> None:
    world.stage(*V2)
    done, said = world.publish()
    assert world.has("canary") == 2
    # The blade was kept: nothing is pulled but the difference.
    assert said[2:4] == ["Putting up a lab blade", "A lab blade pulls generation 2"]
    reports = by_gate(done.generation.gates)
    assert reports["smoke"].report == (
        "A lab blade at generation 1 pulled it: 2 packages came, every library of 1 ELF file of "
        "theirs is there; 1 check of packages and 0 commands of the class succeeded."
    )
    back = reports.pop("way-back")
    assert (back.passed, back.warns, verdict(back)) == (True, True, "WARNING")
    assert back.report.startswith(
        "No way back by emerge: a lab blade at generation 2 cannot pull 1: emerge "
    )
    assert "Sanity check to keep you from breaking your system" in back.report
    assert {verdict(each) for each in reports.values()} == {"passed"}


def test_a_rollback_that_no_blade_could_follow_moves_nothing(world: Any) -> None:
    before = world.binhost.ring("canary").current()
    with pytest.raises(GateError) as error:
        world.rollback(1)
    assert [(each.gate, each.passed) for each in error.value.reports] == [
        ("integrity", True),
        ("way-back", False),
    ]
    assert "Sanity check to keep you from breaking your system" in str(error.value)
    assert world.binhost.ring("canary").current() == before


def test_one_binary_that_fits_no_use_flag_is_named_and_a_library_that_nobody_has(
    world: Any,
) -> None:
    move = altered(world.move(*V2), "flagged", "USE: amd64 extra", "IUSE: extra")
    move = altered(move, "nodekeys", "REQUIRES: x86_64: libc.so.6 libpreserved.so.7")
    reports = ask(world, move)
    # A blade that has the package already would not notice: only the whole set from nothing does.
    assert {gate for gate, each in reports.items() if not each.passed} == {"closure", "soname"}
    assert reports["closure"].report == (
        "@blade would not be taken as a binary.\n"
        "It comes to =app-misc/flagged-1, which @blade needs.\n"
        "app-misc/flagged-1: it was built with other USE flags than the blade has; the blade wants "
        "-extra."
    )
    assert reports["soname"].report == (
        "sys-apps/nodekeys-1.0 needs x86_64: libpreserved.so.7, which no package nor the root has."
    )


def test_broken_links_failing_commands_and_what_emerge_would_still_do_are_each_named(
    world: Any,
) -> None:
    v1 = [package for package in V1 if not package.startswith("nodekeys")]
    move = world.move(*v1, "broken-1", present=None)
    smoke = ["echo no luck; exit 3", "sleep 60"]
    reports = ask(world, move, smoke=smoke, publish={"smoke_timeout_s": 2.0})
    assert reports["closure"].passed
    assert reports["soname"].report == (
        "app-misc/broken-1 needs x86_64: libnobody.so.3, which no package nor the root has."
    )
    assert reports["smoke"].report == (
        "/usr/bin/broken lacks libnobody.so.3.\n"
        "`echo no luck; exit 3` failed with exit code 3: no luck\n"
        "`sleep 60` did not end within 2 s:\n(no end within 2 s)"
    )
    assert not reports["converged"].passed
    assert "sys-apps/nodekeys" in reports["converged"].report
    assert not (world.state / "build/blade/gate/rings/canary/kept.json").exists()


def test_a_way_back_that_was_walked_is_not_walked_again_and_a_bad_one_would_be(
    world: Any,
) -> None:
    world.stage("tool-1", *V2[1:])
    done, _ = world.publish()
    assert by_gate(done.generation.gates)["way-back"].report == (
        "A lab blade went from generation 3 back to 2."
    )
    back, said = world.rollback(2)
    assert "Putting up a lab blade" not in said
    assert (world.has("canary"), back.deployment.gates[-1].report) == (
        2,
        "A lab blade went from generation 3 back to 2.",
    )
    world.promote("canary", 3)
    for path in (world.state / "build/blade/gate/walked").iterdir():
        path.unlink()
    back, said = world.rollback(2)
    assert said[1:3] == ["Putting up a lab blade", "A lab blade goes back to generation 2"]
    assert world.has("canary") == 2


def test_a_present_generation_that_no_blade_can_pull_does_not_hold_up_its_cure(
    world: Any,
) -> None:
    move = world.move(*V2[1:])
    assert move.present is not None
    lost = move.present.model_copy(update={"snapshots": "0" * 16})
    reports = ask(world, replace(move, present=lost), publish={"gates": ["smoke"]})
    assert list(reports) == ["smoke"]
    assert reports["smoke"].passed
    assert "(it cannot be brought to generation 2, which the ring has: " in reports["smoke"].report


def test_a_package_that_disappears_is_named_with_what_still_wants_it(world: Any) -> None:
    move = world.move(*V2)
    name = next(name for name in move.entries if "/libgate-" in name)
    entries = {each: entry for each, entry in move.entries.items() if each != name}
    reports = ask(world, replace(move, entries=entries), publish={"gates": ["monotonic"]})
    assert reports["monotonic"].report == (
        "dev-libs/libgate is gone: the set has =dev-libs/libgate-1, app-misc/tool needs it."
    )


def test_a_pool_file_that_is_not_what_was_published_is_named(world: Any) -> None:
    move = world.move(*V2, present=None)
    pool = world.binhost.pool.folder
    altered_file, short, gone = sorted(move.entries)[:3]
    kept = {name: (pool / name).read_bytes() for name in (altered_file, short, gone)}
    try:
        (pool / altered_file).write_bytes(kept[altered_file][:-1] + b"x")
        (pool / short).write_bytes(b"short")
        (pool / gone).unlink()
        reports = ask(world, move, publish={"gates": ["integrity"]})
    finally:
        for name, data in kept.items():
            (pool / name).write_bytes(data)
    size = len(kept[short])
    assert reports["integrity"].report.splitlines() == [
        f"{pool}/{short} has 5 bytes; its index entry says {size}.",
        f"{pool}/{gone} is not there.",
        f"{altered_file} is not what was published: its SHA256, MD5, SHA1 differs.",
        f"{short} is not what was published: its SHA256, MD5, SHA1 differs.",
    ]


def test_a_machine_that_cannot_run_a_lab_says_what_to_do(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise EnvironmentLacksError("This machine cannot run nodes:", ["root's rights: sudo"])

    monkeypatch.setattr("headnode.node.running.require_namespaces", refuse)
    move = world.move(*V2)
    options = {"publish": {"gates": ["integrity", "smoke", "converged"]}}
    with pytest.raises(EnvironmentLacksError) as error:
        ask(world, move, **options)
    assert str(error.value) == (
        "The gates smoke, converged need a blade in a lab, which this machine cannot run; the "
        "ring canary is as it was. Leave them out of [publish] gates, or let them pass this once "
        "with --waive smoke --waive converged --note WHY. What is missing:\n"
        "  - root's rights: sudo"
    )
    waivers = Waivers(names=frozenset({"smoke", "converged"}), note="no root here")
    reports = ask(world, move, waivers, **options)
    assert {gate: each.passed for gate, each in reports.items()} == {
        "integrity": True,
        "smoke": False,
        "converged": False,
    }
    assert list(ask(world, move, publish={"gates": ["integrity"]})) == ["integrity"]


def test_nothing_of_a_lab_is_left_and_the_rings_are_real_only_where_they_should_be(
    world: Any,
) -> None:
    gate = world.state / "build/blade/gate"
    assert not (gate / "lab/lab.json").exists()
    assert not (gate / "lab/nodes").exists()
    assert [
        path for path in Path("/proc/self/mountinfo").read_text().split() if "gate" in path
    ] == []
    rings = world.binhost.folder / "rings"
    assert sorted(path.name for path in rings.iterdir()) == ["canary", "fleet"]
    # Candidates are numbered on, and all but the newest are dropped with the next trial.
    candidates = gate / "state/binhost/blade/rings/canary/deployments"
    assert len(list(candidates.iterdir())) <= 3


@pytest.fixture
def signed(world: Any, tmp_path: Path) -> Iterator[Site]:
    """A site that signs, with the world's trees and, in staging, its packages."""
    unsigned = world.site(publish={"gates": ["smoke"]}).cluster
    state = State(path=tmp_path / "state", reserve_mib=0)
    site = Site(cluster=unsigned.model_copy(update={"state": state, "signing": Signing()}))
    mirror = (world.state / "mirror", site.state / "mirror")
    shutil.copytree(*mirror, symlinks=True, copy_function=os.link)
    for name in world.packages:
        places = (world.binhost.pool.folder / name, world.binhost.staging / name)
        target = site.binhost("blade").staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(next(path for path in places if path.is_file()), target)
    yield site
    site.keys.end_agent()


def stage(site: Site, world: Any, *packages: str) -> None:
    """Let the last build of a site be one of these packages of the world."""
    world.stage(*packages)
    made = read(world.binhost.build_folder / "result.json", BuildResult)
    save(site.binhost("blade").build_folder / "result.json", made)


def test_after_a_change_of_keys_the_lab_blade_pulls_what_the_new_one_signed(
    world: Any, signed: Site
) -> None:
    def publish() -> list[str]:
        notes = world.notes()
        publish_once(signed, "blade", None, now=world.now, watch=notes)
        return list(notes.lines)

    first = signed.keys.make("headnode h")
    stage(signed, world, "flagged-1")
    publish()
    second = signed.keys.make("headnode h")
    (told,) = renew_once(signed, now=world.now).done  # no gate is asked: the lab's ring is not told
    assert set(told.deployment.keys) == {first, second}
    signed.keys.use(second)
    gpg(signed.keys.home, "--yes", "--delete-secret-keys", first)  # it cannot help out
    stage(signed, world, "flagged-1", "nodekeys-1.0")
    said = publish()
    assert said[1] == "A lab blade pulls generation 2"  # the blade was kept
    (smoke,) = (line for line in said if line.startswith("smoke: "))
    assert smoke.startswith(
        "smoke: passed. A lab blade at generation 1 pulled it: 1 package came, "
    )
