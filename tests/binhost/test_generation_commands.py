"""`headnode generations …` as it is typed: whole output, exit codes, and what is there after."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.publish import Binhost, Order, promote, publish
from binhost.records import Configuration
from config.load import load
from headnode.cli import run
from headnode.files import locked
from mirror.sets import write_set
from schedules.site import Site

CONFIG = """\
[state]
path = "state"

[signing]
mode = "off"

[publish]
gates = ["licence"]

[binhost]
keep_generations = 1
keep_days = 0

[classes.blade]
packages = ["app-misc/a"]
rings = { canary = "blade01", fleet = "blade02" }
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
A2 = "app-misc/a/a-2-1.gpkg.tar"

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Say:
    """Run a command line; its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.toml").write_text(CONFIG)

    def typed(*words: str) -> tuple[int, str, str]:
        code = run(words)
        said = capsys.readouterr()
        lines = (line.rstrip() for line in said.out.splitlines())
        return code, "\n".join(lines), said.err

    return typed


@pytest.fixture
def binhost(say: Say, tmp_path: Path, make_package: Any, finished: Any) -> Binhost:
    """Generations 1 to 3 of a-1 to a-3, a day apart: canary has 3, and fleet 2."""
    site = Site(cluster=load(tmp_path / "cluster.toml"))
    made = site.binhost("blade")
    for number in (1, 2, 3):
        tree = site.state / f"mirror/repos/gentoo/snapshots/2026010{number}"
        (tree / "profiles").mkdir(parents=True)
        (tree / "profiles/license_groups").write_text("BINARY-REDISTRIBUTABLE MIT\n")
        name = make_package(made.staging, f"a-{number}", LICENSE="MIT")
        finished(
            made.build_folder,
            name,
            snapshots=write_set(site.state, {"gentoo": tree.name}),
            configuration=Configuration(
                files={"/etc/portage/make.conf": f"V={number}\n"}, links={}
            ),
        )
        now = START + timedelta(days=number)
        publish(made, Order(ring="canary", now=now, why=f"night {number}"))
        if number == 2:
            promote(made, Order(ring="fleet", now=now), None)
    return made


def test_the_list_names_rings_and_tags(binhost: Binhost, say: Say) -> None:
    assert say("generations", "tag", "1", "golden") == (0, "tag     generation\ngolden  1", "")
    assert say("generations", "list") == (
        0,
        "generation  made                  packages  rings   tags    note\n"
        "1           2026-01-02 00:00 UTC  1         -       golden  night 1\n"
        "2           2026-01-03 00:00 UTC  1         fleet   -       night 2\n"
        "3           2026-01-04 00:00 UTC  1         canary  -       night 3",
        "",
    )
    listed = json.loads(say("generations", "list", "--json")[1])
    assert [(each["number"], each["rings"], each["tags"]) for each in listed] == [
        (1, [], ["golden"]),
        (2, ["fleet"], []),
        (3, ["canary"], []),
    ]


def test_a_generation_is_shown_whole(binhost: Binhost, say: Say) -> None:
    say("generations", "tag", "2", "golden")
    size = (binhost.pool.folder / A2).stat().st_size
    set_id = binhost.generations.read(2).snapshots
    assert say("generations", "show", "golden", "--packages") == (
        0,
        "generation:   2 of class blade\n"
        "made:         2026-01-03 00:00 UTC\n"
        "note:         night 2\n"
        "after:        generation 1\n"
        "tags:         golden\n"
        "rings:        fleet\n"
        f"snapshot set: {set_id} (gentoo 20260102)\n"
        f"packages:     1, {size} bytes\n"
        "@blade:       app-misc/a\n"
        "package       slot  bytes  file\n"
        f"app-misc/a-2  0     {size}  {A2}",
        "",
    )
    shown = json.loads(say("generations", "show", "2", "--json")[1])
    assert (shown["trees"], shown["size_bytes"]) == ({"gentoo": "20260102"}, size)


def test_the_newest_two_are_compared_unless_others_are_named(binhost: Binhost, say: Say) -> None:
    def text(old: int, new: int) -> str:
        return (
            f"From generation {old} to generation {new}: 1 up.\n"
            "package     slot  change  from  to   why\n"
            f"app-misc/a  0     up      {old}-1   {new}-1\n"
            f"tree gentoo: 2026010{old} -> 2026010{new}\n"
            "configuration: /etc/portage/make.conf changed"
        )

    assert say("generations", "diff") == (0, text(2, 3), "")
    assert say("generations", "diff", "1") == (0, text(1, 3), "")
    assert say("generations", "diff", "1", "2") == (0, text(1, 2), "")
    assert say("generations", "diff", "--ring", "fleet") == (0, text(2, 3), "")
    assert say("generations", "diff", "--verbose")[1] == text(2, 3) + (
        "\n--- a/etc/portage/make.conf\n+++ b/etc/portage/make.conf\n@@ -1 +1 @@\n-V=2\n+V=3"
    )
    found = json.loads(say("generations", "diff", "--json")[1])
    assert [(each["name"], each["kind"]) for each in found["packages"]] == [("app-misc/a", "up")]
    assert say("generations", "diff", "--ring", "flet") == (
        2,
        "",
        "headnode: There is no ring 'flet'. The rings are canary, fleet.\n",
    )


def test_a_diff_works_without_the_tree_that_the_mirror_dropped(
    binhost: Binhost, say: Say, tmp_path: Path
) -> None:
    sets = [binhost.generations.read(number).snapshots for number in (2, 3)]
    (tmp_path / f"state/mirror/sets/{sets[0]}.json").unlink()
    assert f"tree snapshot set: {sets[0]} -> {sets[1]}" in say("generations", "diff")[1]


def test_tags_are_given_taken_away_and_stand_for_their_generation(
    binhost: Binhost, say: Say
) -> None:
    say("generations", "tag", "1", "golden")
    assert say("generations", "tag", "2", "golden") == (
        1,
        "",
        "headnode: The tag golden is generation 1's. Take another name, or free it: headnode "
        "generations tag --delete golden.\n",
    )
    assert say("generations", "tag", "2", "12") == (
        2,
        "",
        "headnode: '12' is no name for a tag. It starts with a letter, so that it is no number, "
        "and has letters, digits, full stops, hyphens and underscores after that, 64 characters "
        "at most.\n",
    )
    assert say("generations", "tag", "9", "x")[0] == 1
    assert say("promote", "golden", "--ring", "fleet")[0] == 0
    current = binhost.ring("fleet").current()
    assert current is not None
    assert current.generation == 1
    assert say("promote", "silver", "--ring", "fleet") == (
        1,
        "",
        "headnode: There is no tag silver; there is golden.\n",
    )
    assert say("generations", "tag", "--delete", "golden", "--json") == (0, "{}", "")
    assert say("generations", "tag", "--delete", "golden") == (
        1,
        "",
        "headnode: There is no tag golden; there is none.\n",
    )


def test_gc_goes_by_the_configuration_and_a_collected_generation_is_said_to_be(
    binhost: Binhost, say: Say
) -> None:
    promote(binhost, Order(ring="fleet", now=START), 3)
    promote(binhost, Order(ring="canary", now=START), 3)
    dry = say("generations", "gc", "--dry-run")
    assert "delete generation 1" in dry[1]
    assert binhost.generations.numbers() == [1, 2, 3]
    assert say("generations", "gc") == dry
    assert binhost.generations.numbers() == [2, 3]
    collected = (1, "", "headnode: Generation 1 was collected; there is 2, 3.\n")
    assert say("generations", "show", "1") == collected
    assert say("generations", "diff", "1", "2") == collected
    assert say("promote", "1", "--ring", "fleet") == collected
    assert say("generations", "verify", "--all")[0] == 0


def test_what_an_earlier_ring_went_back_from_is_promoted_by_its_number_alone(
    binhost: Binhost, say: Say
) -> None:
    for words in (("promote", "3", "--ring", "canary"), ("rollback", "--ring", "canary")):
        assert say(*words)[0] == 0
    assert say("promote", "--ring", "fleet") == (
        1,
        "",
        "headnode: The newest generation, 3, is one that the ring canary went back from. Name the "
        "one that fleet is to have: headnode promote GENERATION --ring fleet.\n",
    )
    assert say("promote", "--ring", "canary")[0] == 0
    assert say("promote", "--ring", "fleet")[0] == 0


def test_gc_during_a_publish_says_who_is_at_work(binhost: Binhost, say: Say) -> None:
    with locked(binhost.lock, "headnode publish"):
        assert say("generations", "gc") == (
            1,
            "",
            f"headnode: headnode publish (process {os.getpid()}) holds {binhost.lock}. "
            "Wait for it to end, then run this again.\n",
        )


def test_verify_names_damage_repairs_it_and_fails_only_if_it_stays(
    binhost: Binhost, say: Say, tmp_path: Path
) -> None:
    path = binhost.pool.folder / A2
    data = path.read_bytes()
    total = 2 * len(data)
    good = f"Generations 2, 3: 2 packages, {total} bytes: all good."
    bad = f"Generations 2, 3: 2 packages, {total} bytes: 1 file is damaged or missing."
    assert say("generations", "verify") == (0, good, "")
    path.write_bytes(data[:-1] + b"x")
    what = f"{path}: its content is not what was published"
    assert say("generations", "verify") == (1, f"{what}\n{bad}", "")
    assert say("generations", "verify", "3")[0] == 0
    assert say("generations", "verify", "--repair") == (1, f"{what}; NOT put back\n{bad}", "")
    copy = tmp_path / "cache" / A2
    copy.parent.mkdir(parents=True)
    copy.write_bytes(data)
    mended = say("generations", "verify", "--repair", "--from", "cache")
    assert mended == (0, f"{what}; put back from cache/{A2}\n{bad}", "")
    assert say("generations", "verify") == (0, good, "")


def test_commands_before_the_first_publish_say_so(say: Say) -> None:
    assert say("generations", "verify") == (
        0,
        "Generations none: 0 packages, 0 bytes: all good.",
        "",
    )
    assert say("generations", "diff") == (
        1,
        "",
        "headnode: There is no generation yet. headnode publish makes one.\n",
    )
    assert say("generations", "show", "1") == (
        1,
        "",
        "headnode: There is no generation 1; there is none.\n",
    )
    assert say("generations", "gc") == (
        0,
        "0 generations, 0 deployments and 0 packages (0 bytes) go; 0 generations stay.",
        "",
    )


@pytest.mark.parametrize(
    "words", [("generations", "tag", "1"), ("generations", "diff", "1", "--ring", "fleet")]
)
def test_words_that_do_not_go_together_are_a_usage_error(say: Say, words: tuple[str, ...]) -> None:
    assert say(*words)[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        *[("mirror", "sync"), ("build",), ("publish",), ("promote", "1", "--ring", "fleet")],
    ],
)
def test_nothing_starts_below_the_free_space_reserve(
    binhost: Binhost, say: Say, tmp_path: Path, words: tuple[str, ...]
) -> None:
    reserve = f'path = "state"\nreserve_mib = {1 << 30}'
    (tmp_path / "cluster.toml").write_text(CONFIG.replace('path = "state"', reserve))
    before = sorted(map(str, binhost.folder.rglob("*")))
    code, _, errors = say(*words)
    assert code == 2
    assert (
        f"headnode: The file system of {tmp_path}/state is too full to start. Free some space, or "
        "lower the reserve:\n"
    ) in errors
    assert sorted(map(str, binhost.folder.rglob("*"))) == before


def test_the_way_back_stays_open_below_the_reserve(
    binhost: Binhost, say: Say, tmp_path: Path
) -> None:
    reserve = f'path = "state"\nreserve_mib = {1 << 30}'
    (tmp_path / "cluster.toml").write_text(CONFIG.replace('path = "state"', reserve))
    say("generations", "tag", "1", "golden")
    assert say("rollback", "--ring", "canary", "--to", "golden") == (
        0,
        "Ring canary has generation 1 now: 1 package (deployment 4).",
        "",
    )


def test_a_public_class_is_not_published_with_what_may_not_be_given_away(
    binhost: Binhost, say: Say, tmp_path: Path, make_package: Any, finished: Any
) -> None:
    public = CONFIG.replace("[classes.blade]", "[classes.blade]\npublic = true")
    (tmp_path / "cluster.toml").write_text(public)
    names = [
        make_package(binhost.staging, "a-4", LICENSE="MIT"),
        make_package(binhost.staging, "b-1", LICENSE="Proprietary"),
        make_package(binhost.staging, "c-1", LICENSE="MIT", RESTRICT="bindist"),
    ]
    snapshots = binhost.generations.read(3).snapshots
    finished(binhost.build_folder, *names, snapshots=snapshots)
    assert say("publish") == (
        1,
        "",
        "licence: NOT PASSED. 2 of 3 packages may not be given away, and this binhost is public:\n"
        "  app-misc/b-1: LICENSE Proprietary\n"
        "  app-misc/c-1: RESTRICT=bindist\n"
        "headnode: Generation 4 does not pass licence; the ring canary is as it was.\n"
        "licence: 2 of 3 packages may not be given away, and this binhost is public:\n"
        "  app-misc/b-1: LICENSE Proprietary\n"
        "  app-misc/c-1: RESTRICT=bindist\n"
        "Put that right and run it again, or let it through with --waive licence --note WHY.\n",
    )
    (tmp_path / "cluster.toml").write_text(CONFIG)
    assert say("publish")[0] == 0
