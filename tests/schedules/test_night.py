"""A night's chain on real emerge: it goes through, it repeats nothing, it stops at the canary."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headnode import rehearsal
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

pytestmark = [pytest.mark.lab, pytest.mark.slow]
STEPS = ["mirror-sync", "build", "publish", "rollout", "verify", "gc", "tidy"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab without gates, whose tests are elsewhere: the night is to be short."""
    folder = tmp_path_factory.mktemp("lab")
    with rehearsal.running(folder, 3, cache=tarballs) as up:
        text = up.config.read_text()
        written = re.sub(r"^gates = \[[^]]*\]$", "gates = []", text, flags=re.MULTILINE)
        assert written != text
        up.config.write_text(written)
        rehearsal.start_headnode(up)
        yield up


def night(running: Rehearsal, code: int = 0) -> dict[str, Any]:
    done = running.headnode("schedule", "run", "nightly", "--json", check=False)
    assert done.code == code, done.output + done.errors
    return dict(json.loads(done.output))


def blades(running: Rehearsal) -> dict[str, dict[str, Any]]:
    listed = json.loads(running.headnode("blades", "list", "--json").output)
    return {each["name"]: each for each in listed}


def said(run: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["said"] for step in run["steps"]}


def test_a_night_brings_every_blade_to_what_was_built(running: Rehearsal) -> None:
    run = night(running)
    assert (run["outcome"], [step["name"] for step in run["steps"]]) == ("ok", STEPS)
    assert said(run)["rollout"] == "canary: 1 updated; fleet: 2 updated"
    assert {(each["result"], each["generation"]) for each in blades(running).values()} == {
        ("updated", 1)
    }


def test_a_night_without_news_moves_nothing(running: Rehearsal) -> None:
    run = night(running)
    assert run["outcome"] == "ok"
    assert said(run)["build"].startswith("0 of ")
    assert said(run)["publish"] == "generation 1, ring canary: nothing new"
    assert said(run)["rollout"] == "canary: 1 unchanged; fleet: 2 unchanged"


def test_a_night_that_is_killed_goes_on_and_builds_nothing_twice(running: Rehearsal) -> None:
    """Killed while it builds or after: whenever it is found in a step behind mirror-sync."""
    bump(running.upstream, "sys-apps/bladeinfo")
    argv = [sys.executable, "-m", "headnode", "--config", str(running.config)]
    words = running.lab.headnode.argv([*argv, "schedule", "run", "nightly"])
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
    while (step := newest_step(running)) in (None, "mirror-sync", "tidy"):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = night(running)
    assert (run["outcome"], [each["name"] for each in run["steps"]]) == ("ok", STEPS)
    tries = {each["name"]: each["tries"] for each in run["steps"]}
    assert tries["mirror-sync"] == 1
    assert max(tries.values()) <= 2, step
    assert {each["generation"] for each in blades(running).values()} == {2}


def newest_step(running: Rehearsal) -> str | None:
    listed = json.loads(running.headnode("schedule", "history", "--json").output)
    if not listed or listed[0]["outcome"] != "running":
        return None
    names = [each["name"] for each in listed[0]["steps"]]
    return names[-1] if names else None


def test_a_canary_that_fails_stops_the_night_before_the_fleet(running: Rehearsal) -> None:
    bump(running.upstream, "sys-apps/bladeinfo")
    canary = running.lab.node("blade01")
    break_emerge = "mv /usr/local/sbin/headnode-trust /usr/local/sbin/kept"
    canary.run(["sh", "-c", break_emerge], timeout_s=60)
    try:
        run = night(running, code=1)
    finally:
        undo = "mv /usr/local/sbin/kept /usr/local/sbin/headnode-trust"
        canary.run(["sh", "-c", undo], timeout_s=60)
    assert run["outcome"] == "failed"
    assert run["error"].startswith("rollout: The rollout stopped in ring canary, at blade01:\n")
    found = blades(running)
    assert found["blade01"]["result"] == "failed"
    assert [found[name]["due_generation"] for name in sorted(found)] == [3, 2, 2]
    assert [found[name]["generation"] for name in sorted(found)] == [2, 2, 2]
    assert [step["name"] for step in run["steps"]] == STEPS[:4]


def test_the_next_night_heals_it(running: Rehearsal) -> None:
    run = night(running)
    assert run["outcome"] == "ok"
    assert {each["generation"] for each in blades(running).values()} == {3}
    assert Path(running.config.parent / "state/headnode.sqlite").exists()


SEND = """
import json, sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/headnode")
from blades.report import send
settings = json.loads(Path("/etc/headnode/pull.json").read_text())
said = {"result": "failed", "error": "sent by the blade", "blade": settings["blade"]}
print(send(settings, said, Path("/etc/hosts")) or "taken")
"""


def test_a_blade_reports_by_itself_over_http_to_the_serving_headnode(running: Rehearsal) -> None:
    """By the blade's own Python, with the secret that it was given, through the daemon."""
    blade = running.lab.node("blade03")
    done = blade.run(["python3", "-I", "-c", SEND], timeout_s=120)
    assert done.output == "taken\n"
    deadline = time.monotonic() + 60
    while blades(running)["blade03"]["error"] != "sent by the blade":
        assert time.monotonic() < deadline, "the report never came into the ledger"
        time.sleep(0.5)
    shown = json.loads(running.headnode("blades", "show", "blade03", "--json").output)
    assert (shown["reports"][0]["number"], shown["result"], shown["generation"]) == (1, "failed", 3)
    assert shown["reports"][0]["log"].startswith("127.0.0.1")
    mode = blade.run(["stat", "-c", "%a", "/etc/headnode/secret"], timeout_s=60)
    assert mode.output == "600\n"
