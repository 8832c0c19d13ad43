"""Three nights by a simulated clock, on real emerge: one good, one stopped, one cut off.

`headnode serve` runs them as it does everywhere, but by a clock that is some days behind
(clocked.py): it is started for each night as that comes, and stopped when its run has ended.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from blades.lab import HEADNODE
from config.load import load
from headnode import rehearsal
from headnode.node.spec import Life
from headnode.rehearsal import Rehearsal
from headnode.scheduler import lines_path
from mirror.upstream import metadata
from mirror.upstream.assemble import bump
from schedules.ledger.ledger import Ledger
from schedules.ledger.runs import Run, State
from schedules.site import Site

pytestmark = [pytest.mark.lab, pytest.mark.slow]

STEPS = ["mirror-sync", "build", "publish", "rollout", "verify", "gc", "tidy"]
CLOCKED = Path(__file__).with_name("clocked.py")
BLADEINFO = "sys-apps/bladeinfo"
FEW = ["@system", BLADEINFO, "app-admin/motd-blade", "app-misc/bladecount"]
BLADES = ("blade01", "blade02", "blade03")
FIRST = datetime.now(UTC).replace(hour=1, minute=15, second=0, microsecond=0) - timedelta(days=4)
LIMIT_S = 900


@dataclass(frozen=True, kw_only=True)
class Nights:
    """The lab, its headnode's ledger, and where its notices go."""

    running: Rehearsal
    site: Site
    notices: Path

    def serve(self, moment: datetime) -> "subprocess.Popen[str]":
        """Start `headnode serve` when its clock says `moment`."""
        ahead = (moment - datetime.now(UTC)).total_seconds()
        argv = [sys.executable, "-P", str(CLOCKED), str(ahead)]
        argv += ["--config", str(self.running.config), "serve"]
        rehearsal.start_server(self.running, HEADNODE, argv, "Serving", Life.WITH_STARTER)
        return self.running.servers[-1]

    def end(self, server: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> None:
        """End it with all that it started in its own group, and wait until nothing is left."""
        os.killpg(server.pid, number)
        server.wait()
        assert server.stdout is not None
        server.stdout.read()  # which rsyncd has, too

    def runs(self) -> list[Run]:
        with Ledger.of(self.site) as ledger:
            return ledger.runs(HEADNODE)

    def newest(self, due: datetime) -> Run | None:
        """The run of the night that came at `due`, if it has begun."""
        return next((each for each in self.runs() if each.due == due), None)

    def ended(self, due: datetime) -> Run:
        """The same, once it has ended."""
        deadline = time.monotonic() + LIMIT_S
        while (run := self.newest(due)) is None or run.outcome is State.RUNNING:
            assert time.monotonic() < deadline, run
            time.sleep(0.2)
        return run

    def night(self, due: datetime) -> Run:
        """A whole night, from a second after its time."""
        server = self.serve(due + timedelta(seconds=1))
        try:
            return self.ended(due)
        finally:
            self.end(server)

    def told(self) -> list[str]:
        """The subjects of the notices so far."""
        return self.notices.read_text().splitlines() if self.notices.exists() else []

    def deployed(self) -> dict[str, list[int]]:
        """The generation of every deployment that each ring ever had."""
        binhost = self.site.binhost("blade")
        return {
            name: [
                binhost.ring(name).deployment(sequence).generation
                for sequence in binhost.ring(name).sequences()
            ]
            for name in ("canary", "fleet")
        }

    def packages(self, version: str) -> list[str]:
        """The package files of a version of bladeinfo."""
        folder = self.site.binhost("blade").pool.folder / BLADEINFO
        return [path.name for path in folder.glob(f"bladeinfo-{version}-*")]

    def on(self, blade: str, line: str) -> str:
        """What a shell line on a blade prints."""
        return self.running.lab.node(blade).run(["sh", "-c", line], timeout_s=300).output

    def merged(self, version: str) -> list[int]:
        """How many times each blade has merged a version of bladeinfo."""
        count = f"grep -c 'completed emerge.*{BLADEINFO}-{version}' /var/log/emerge.log || true"
        return [int(self.on(blade, count)) for blade in BLADES]

    def generations(self) -> list[int]:
        """What each blade says that it has."""
        line = "cat /var/lib/headnode/applied.json"
        return [json.loads(self.on(blade, line))["deployment"]["generation"] for blade in BLADES]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Nights]:
    """A lab without gates, whose tests are elsewhere: the nights are to be short."""
    folder = tmp_path_factory.mktemp("lab")
    notices = folder / "notices"
    classes = rehearsal.values(folder, len(BLADES))["classes"]
    more = {
        "classes": {"blade": {**classes["blade"], "packages": FEW}},
        "schedule": {"time_zone": "UTC", "jobs": {"nightly": "15 1 * * *"}},
        "pull": {"health": ["bladeinfo --version"]},
        "publish": {"gates": []},
        "notices": {"command": f"echo $HEADNODE_SUBJECT >> {notices}"},
    }
    with rehearsal.running(folder, len(BLADES), cache=tarballs, more=more) as running:
        yield Nights(running=running, site=Site(cluster=load(running.config)), notices=notices)


def said(run: Run, step: str) -> str:
    found = run.step(step)
    assert found is not None, (step, run)
    return found.said


BREAKS = "\tprintf '#!/bin/sh\\nexit 1\\n' > \"${ED}/usr/bin/bladeinfo\" || die\n}\n"


def new_version(upstream: Path, *, broken: bool = False) -> str:
    """A new version of bladeinfo upstream; the program of a `broken` one fails at once."""
    version = bump(upstream, BLADEINFO)
    tree = upstream / "tree"
    good = (tree / BLADEINFO / "bladeinfo-1.0.ebuild").read_text()
    assert good.endswith(" install\n}\n")
    text = good.removesuffix("}\n") + BREAKS if broken else good
    (tree / BLADEINFO / f"bladeinfo-{version}.ebuild").write_text(text)
    metadata.index(tree, upstream / "distfiles")
    metadata.stamp(tree, time.time())
    return version


@contextmanager
def told_on_failure(text: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(text)
        raise


def test_three_nights_one_good_one_stopped_at_the_canary_one_cut_off(nights: Nights) -> None:
    before_its_time(nights)
    a_good_night(nights, FIRST)
    a_night_that_stops_at_the_canary(nights, FIRST + timedelta(days=1))
    seed = int(os.environ.get("NIGHT_SEED") or random.SystemRandom().randrange(1_000_000))
    with told_on_failure(f"NIGHT_SEED={seed} has it cut off at the same moment again"):
        a_night_that_is_cut_off(nights, FIRST + timedelta(days=2), random.Random(seed))  # noqa: S311


def before_its_time(nights: Nights) -> None:
    """The headnode is first started half a day before."""
    server = nights.serve(FIRST - timedelta(hours=12))
    deadline = time.monotonic() + LIMIT_S
    while not lines_path(nights.site).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nights.end(server)
    assert nights.runs() == []


def a_good_night(nights: Nights, due: datetime) -> None:
    version = new_version(nights.running.upstream)
    run = nights.night(due)
    assert (run.outcome, run.error, run.why, run.due) == (State.OK, "", "schedule", due)
    assert [(step.name, step.tries) for step in run.steps] == [(name, 1) for name in STEPS]
    assert timedelta(0) < run.started - due < timedelta(minutes=2)  # by its clock, not by ours
    assert said(run, "rollout") == "3 updated"
    assert nights.generations() == [1, 1, 1]
    assert nights.merged(version) == [1, 1, 1]
    assert nights.told() == []


def a_night_that_stops_at_the_canary(nights: Nights, due: datetime) -> None:
    version = new_version(nights.running.upstream, broken=True)
    run = nights.night(due)
    assert (run.outcome, [step.name for step in run.steps]) == (State.FAILED, STEPS[:4])
    assert run.error == (
        "rollout: The rollout went back: 1 blade of canary failed, and 0 may: blade01. Its ring "
        "went back to generation 1. headnode rollout status says how each blade is, headnode "
        "blades show BLADE has its log."
    )
    assert nights.deployed() == {"canary": [1, 2, 1], "fleet": [1]}
    assert nights.generations() == [1, 1, 1]
    assert nights.merged(version) == [1, 0, 0]
    for blade in BLADES:
        nights.on(blade, "bladeinfo --version")
    (subject,) = nights.told()
    assert re.fullmatch("headnode headnode: nightly failed at rollout: .*blade01.*", subject)


def a_night_that_is_cut_off(nights: Nights, due: datetime, pick: random.Random) -> None:
    """Killed with all that it started, `headnode serve` too, anywhere; then started again."""
    version = new_version(nights.running.upstream)
    before = cut_off(nights, due, pick)
    server = nights.serve(due + timedelta(minutes=10))
    try:
        run = nights.ended(due)
    finally:
        nights.end(server)
    with told_on_failure(f"Cut off: {before}\nthen: {run}"):
        assert (run.id, run.outcome, run.error) == (before.id, State.OK, "")
        assert [step.name for step in run.steps] == STEPS
        done = [step for step in before.steps if step.outcome is State.OK]
        assert run.steps[: len(done)] == tuple(done)
        assert [step.tries for step in run.steps[len(done) + 1 :]] == [1] * (6 - len(done))
        assert len(nights.packages(version)) == 1
        moved_once(nights, before)
        assert nights.generations() == [3, 3, 3]
        assert nights.merged(version) == [1, 1, 1]
        for blade in BLADES:
            assert nights.on(blade, "bladeinfo --version").startswith(f"bladeinfo {version}, ")
        assert len(nights.told()) == 1


def moved_once(nights: Nights, before: Run) -> None:
    """Each ring moved once to what was built, whatever was cut off.

    A deployment that was whole when its ring was about to move to it is made anew.
    """
    found = nights.deployed()
    moves = {name: [number for number, _ in groupby(each)] for name, each in found.items()}
    assert moves == {"canary": [1, 2, 1, 3], "fleet": [1, 3]}
    spare = before.steps[-1].name in ("publish", "rollout")
    assert sum(map(len, found.values())) <= 6 + spare, found


def cut_off(nights: Nights, due: datetime, pick: random.Random) -> Run:
    """Let a night come as far as a random moment of a random step, and kill it; how it was then."""
    step = pick.choice(STEPS)
    past = [each for run in reversed(nights.runs()) for each in run.steps]
    took = {each.name: each.seconds or 0.0 for each in past}  # the last time
    delay_s = pick.random() * took[step]
    server = nights.serve(due + timedelta(seconds=1))
    deadline = time.monotonic() + LIMIT_S
    while (run := nights.newest(due)) is None or run.step(step) is None:
        assert run is None or run.outcome is State.RUNNING, run
        assert time.monotonic() < deadline, run
        time.sleep(0.02)
    time.sleep(delay_s)
    group = run.holder.rpartition(" ")[2]
    kill = ["sh", "-c", f"kill -KILL -{group} || true"]  # it may have ended already
    nights.running.lab.headnode.run(kill, timeout_s=60)
    nights.end(server, signal.SIGKILL)
    found = nights.newest(due)
    assert found is not None
    return found


def test_a_night_without_news_moves_nothing(nights: Nights) -> None:
    before = nights.deployed()
    run = nights.night(FIRST + timedelta(days=3))
    assert run.outcome is State.OK
    assert said(run, "build").startswith("0 of ")
    assert said(run, "publish") == "generation 3, ring canary: nothing new"
    assert said(run, "rollout") == "3 unchanged"
    assert nights.deployed() == before


SEND = """
import json, sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/headnode")
from blades.report import send
settings = json.loads(Path("/etc/headnode/pull.json").read_text())
said = {"result": "failed", "error": "sent by the blade", "blade": settings["blade"]}
print(send(settings, said, Path("/etc/hosts")) or "taken")
"""


def test_a_blade_reports_by_itself_over_http_to_the_serving_headnode(nights: Nights) -> None:
    """By the blade's own Python, with the secret that it was given, through the daemon."""
    running = nights.running
    rehearsal.start_headnode(running)
    blade = running.lab.node("blade03")
    done = blade.run(["python3", "-I", "-c", SEND], timeout_s=120)
    assert done.output == "taken\n"
    deadline = time.monotonic() + 60
    while (shown := show(running, "blade03"))["error"] != "sent by the blade":
        assert time.monotonic() < deadline, "the report never came into the ledger"
        time.sleep(0.5)
    assert (shown["reports"][0]["number"], shown["result"], shown["generation"]) == (1, "failed", 3)
    assert shown["reports"][0]["log"].startswith("127.0.0.1")
    mode = blade.run(["stat", "-c", "%a", "/etc/headnode/secret"], timeout_s=60)
    assert mode.output == "600\n"


def show(running: Rehearsal, blade: str) -> dict[str, Any]:
    return dict(json.loads(running.headnode("blades", "show", blade, "--json").output))
