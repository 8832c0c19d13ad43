"""The fast lane: one command from a patch file to every blade, and back. In a lab of 3 blades."""

import json
import re
from pathlib import Path

import pytest

from headnode.rehearsal import Rehearsal

pytestmark = pytest.mark.lab
ATOM = "sys-apps/bladeinfo"
OLD, NEW = "bladeinfo %s", "patched %s"


def says(running: Rehearsal, blade: str) -> str:
    """What the patched program says on a blade."""
    done = running.lab.node(blade).run(["bladeinfo", "--version"], timeout_s=60)
    return done.output.strip()


@pytest.fixture(scope="module")
def first_night(running: Rehearsal) -> str:
    """What the program says before: every blade has the first generation."""
    for words in (
        ("mirror", "sync"),
        ("build",),
        ("publish",),
        ("promote", "--ring", "fleet"),
        ("rollout", "run"),
    ):
        running.headnode(*words)
    return says(running, "blade01")


def source_line(running: Rehearsal, text: str) -> tuple[str, int, list[str]]:
    """The file of the package's source that has a text, and where."""
    from mirror.upstream.assemble import __file__ as assemble

    [path] = (Path(assemble).parent / "src/bladeinfo").glob("*.c")
    lines = path.read_text().splitlines()
    return path.name, next(i for i, line in enumerate(lines) if text in line), lines


def write_patch(running: Rehearsal, *, replaced: str | None = None) -> Path:
    """A patch of one line; it says that `replaced` stands there, if that is given."""
    name, at, lines = source_line(running, OLD)
    path = running.lab.folder / "state/fix.patch"
    path.write_text(
        f"--- a/{name}\n+++ b/{name}\n@@ -{at},2 +{at},2 @@\n"
        f" {lines[at - 1]}\n-{replaced or lines[at]}\n+{lines[at].replace(OLD, NEW)}\n"
    )
    return path


def test_a_patch_that_does_not_apply_is_refused_with_its_hunk(
    running: Rehearsal, first_night: str
) -> None:
    patch = write_patch(running, replaced="no such line")
    done = running.headnode("patch", ATOM, str(patch), check=False)
    assert done.code == 1
    assert done.errors.endswith(
        "headnode: fix.patch does not apply to sys-apps/bladeinfo-1.0:\n"
        "bladeinfo.c: hunk 1, at line 10, does not fit\n"
        "Make it against that version. Nothing was changed.\n"
    ), done.errors
    assert json.loads(running.headnode("patch", "--list", "--json").output) == []


def test_a_package_that_the_ring_has_not_is_refused(running: Rehearsal, first_night: str) -> None:
    patch = write_patch(running)
    done = running.headnode("patch", "sys-apps/bladeinf", str(patch), check=False)
    assert (done.code, done.errors) == (
        2,
        "headnode: Generation 1, which the ring canary has, has no sys-apps/bladeinf; it has "
        "sys-apps/bladeinfo-1.0. Write it as category/name, or =category/name-version.\n",
    )


TOOK = r"\d+ (s|min)"
ETA = (
    rf"ETA: \d\d:\d\d:\d\d UTC, in {TOOK}, if all takes as long as last time "
    rf"\(build {TOOK}, gates {TOOK}, ring canary {TOOK}, ring fleet {TOOK}\)\."
)


def test_a_plan_comes_first_with_an_eta_and_a_dry_run_is_only_that(
    running: Rehearsal, first_night: str
) -> None:
    patch = write_patch(running)
    done = running.headnode("patch", ATOM, str(patch), "--rollout", "--dry-run")
    *steps, eta = done.errors.splitlines()
    assert [line.strip()[:2] for line in steps] == ["1.", "2.", "3.", "4.", "5."]
    assert re.fullmatch(ETA, eta)
    assert json.loads(running.headnode("patch", "--list", "--json").output) == []


def test_a_patch_reaches_every_blade_with_one_command(running: Rehearsal, first_night: str) -> None:
    name, _, _ = source_line(running, OLD)
    patch = write_patch(running)
    done = running.headnode("patch", ATOM, str(patch), "--rollout", "--note", "a fix")
    assert [
        line for line in done.errors.splitlines() if line[:5].strip().rstrip(".").isdigit()
    ] == [
        "  1. try sys-apps/bladeinfo/fix.patch on sys-apps/bladeinfo-1.0, which generation 1 has",
        "  2. build sys-apps/bladeinfo-1.0 and what it has built anew, from the same tree",
        "  3. pass the gates, and put the new generation in front of the ring canary",
        "  4. have 1 blade of the ring canary pull it",
        "  5. have 2 blades of the ring fleet pull it",
    ]
    for blade in ("blade01", "blade02", "blade03"):
        assert says(running, blade) == first_night.replace("bladeinfo", "patched")
    diff = json.loads(running.headnode("generations", "diff", "--json").output)
    changed = [(each["name"], each["kind"]) for each in diff["packages"]]
    assert changed == [("sys-apps/bladeinfo", "rebuilt")]
    assert json.loads(running.headnode("patch", "--list", "--json").output) == [
        {"where": "sys-apps/bladeinfo/fix.patch", "files": [name]}
    ]


def test_a_night_after_it_builds_nothing_and_plain_emerge_is_content(
    running: Rehearsal, first_night: str
) -> None:
    assert json.loads(running.headnode("build", "--json").output)["built"] == []
    planned = running.lab.node("blade02").run(
        ["emerge", "--pretend", "--update", "--deep", "--newuse", "@world"], timeout_s=300
    )
    assert "bladeinfo" not in planned.output


def test_a_patch_that_is_dropped_is_out_of_the_next_generation(
    running: Rehearsal, first_night: str
) -> None:
    done = running.headnode("patch", ATOM, "--drop", "--rollout", "--json")
    assert done.errors.splitlines()[:2] == [
        "  1. drop sys-apps/bladeinfo/fix.patch",
        "  2. build sys-apps/bladeinfo and what it has built anew, from the same tree",
    ]
    assert re.fullmatch(ETA, done.errors.splitlines()[5])
    said = json.loads(done.output)
    assert (said["rollout"], {each["result"] for each in said["blades"]}) == ("done", {"updated"})
    assert said["published"]["generation"]["number"] == 3
    for blade in ("blade01", "blade02", "blade03"):
        assert says(running, blade) == first_night
    gone = running.headnode("patch", ATOM, "--drop", check=False)
    assert (gone.code, gone.errors) == (
        2,
        "headnode: There is no patch sys-apps/bladeinfo. There is none.\n",
    )
