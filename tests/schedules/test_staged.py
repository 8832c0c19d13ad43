"""Rollouts over a way in that is each blade; rings, generations and deployments are real."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.entries import Entries
from binhost.records import Configuration, Generation
from blades import drained
from config.model import Cluster
from headnode.commands.rollout import exit_code, status_lines
from headnode.errors import BusyError, ExitCode, RolloutError
from headnode.files import locked
from mirror import sets
from schedules import progress
from schedules.ledger.ledger import Ledger
from schedules.missed import catch_up_once, missed_once
from schedules.moving import Asked, promote_once, rollback_once
from schedules.progress import Phase, Progress
from schedules.rollout import BladeReport
from schedules.rollouts import WAIT_S, roll_out_once
from schedules.runner import BUSY_PAUSE_S
from schedules.site import Site

# enter BLADE LINE: answers as that blade's headnode-pull would, by what <folder>/<BLADE> says.
ENTER = """#!{python}
import json, sys, time
from pathlib import Path
folder, blade, words = Path({folder!r}), sys.argv[1], sys.argv[2].split()
assert words.pop(0) == "/usr/local/sbin/headnode-pull", words
ring = "canary" if blade in ("blade01", "blade02") else "fleet"
does = json.loads((folder / blade).read_text()) if (folder / blade).exists() else {{}}
with (folder / "calls").open("a") as calls:
    calls.write(" ".join([blade, *words]) + "\\n")
at = folder / (blade + ".at")
rings = folder / "state/binhost/blade/rings"
now = json.loads((rings / ring / "current/deployment.json").read_text())
generation, report = now["generation"], {{"blade": blade, "error": "", "changes": []}}
if does.get("off") or (does.get("lost") == generation and words == ["health"]):
    sys.exit(255)
report |= {{"generation": generation, "sequence": now["sequence"], "packages": 3}}
if words == ["health"]:
    report["result"] = "failed" if does.get("unwell") in (generation, "always") else "well"
    report["error"] = "munge is dead" if report["result"] == "failed" else ""
elif words[:1] in (["confirm"], ["status"]):
    report["result"] = "confirmed" if words[0] == "confirm" else "status"
elif does.get("fails") == generation:
    report |= {{"result": "failed", "error": "no room"}}
elif does.get("cut_off"):
    error = "the blade cannot reach the headnode at http://h:1: refused"
    report |= {{"result": "unreached", "kernel": "6.1", "error": error}}
elif does.get("busy"):
    report |= {{"result": "deferred", "error": "busy"}}
else:
    if does.get("slow"):
        (folder / "begun").touch()
        time.sleep(does["slow"])
    same = at.exists() and at.read_text() == str(generation)
    at.write_text(str(generation))
    report |= {{"result": "unchanged" if same else "updated", "confirm": "--confirm" in words}}
    report |= {{"unconfirmed": does["waits"]}} if "waits" in does else {{}}
print(json.dumps(report))
sys.exit({{"failed": 1, "unreached": 3}}.get(report["result"], 0))
"""


@dataclass
class Notes:
    """An observer that writes down what it is told."""

    lines: list[str]

    def say(self, text: str) -> None:
        self.lines.append(text)

    def amount(self, what: str, done: float, total: float, unit: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Blades 1 and 2 in canary, 3 to 8 in fleet; generation 1 in front of all, 2 of canary."""

    folder: Path
    values: dict[str, Any]

    @property
    def site(self) -> Site:
        return Site(cluster=Cluster.model_validate(self.values))

    def with_(self, **rollout: Any) -> "Fleet":
        return Fleet(
            folder=self.folder,
            values={**self.values, "rollout": {**self.values["rollout"], **rollout}},
        )

    def does(self, blade: str, **what: Any) -> None:
        (self.folder / blade).write_text(json.dumps(what))

    def run(self, nodes: str | None = None) -> tuple[Progress, dict[str, str], list[str]]:
        """Roll out: how it went, each blade's result, and what was said."""
        notes = Notes([])
        done, reports = roll_out_once(self.site, nodes, watch=notes)
        assert progress.load(self.site.state) == done
        return done, {each.blade: str(each.result) for each in reports}, notes.lines

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def at(self, blade: str) -> str:
        """The generation that a blade is at."""
        return (self.folder / f"{blade}.at").read_text()

    def rings(self) -> dict[str, int]:
        """The generation that each ring has."""
        host = self.site.binhost("blade")
        return {
            ring.name: current.generation for ring in host.rings() if (current := ring.current())
        }


def generation(number: int, snapshots: str) -> Generation:
    return Generation(
        number=number,
        class_name="blade",
        parent=None,
        made=datetime.now(UTC),
        why="",
        snapshots=snapshots,
        atoms=(),
        header={},
        packages={},
        configuration=Configuration(files={}, links={}),
        entries_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    enter = tmp_path / "enter"
    enter.write_text(ENTER.format(python=sys.executable, folder=str(tmp_path)))
    enter.chmod(0o755)
    made = Fleet(
        folder=tmp_path,
        values={
            "state": {"path": tmp_path / "state", "reserve_mib": 0},
            "classes": {"blade": {"rings": {"canary": "blade[01-02]", "fleet": "blade[03-08]"}}},
            "signing": {"mode": "off"},
            "publish": {"gates": []},
            "rollout": {
                "transport": "exec",
                "exec_command": f"{enter} %h",
                "waves": ["1", "50%"],
                "settle_s": 0.0,
            },
        },
    )
    host = made.site.binhost("blade")
    snapshots = sets.write_set(made.site.state, {})
    for number in (1, 2, 3):
        with host.generations.writing(number, Entries(b"", ())) as put:
            put(generation(number, snapshots))
    notes = Notes([])
    for ring, number in (("canary", 1), ("fleet", 1), ("canary", 2)):
        promote_once(made.site, "blade", ring, number, now=datetime.now(UTC), watch=notes)
    for number in range(1, 9):
        (tmp_path / f"blade{number:02}.at").write_text("1")
    return made


EVERY = [f"blade{number:02}" for number in range(1, 9)]


def test_a_good_generation_goes_through_all_rings_wave_by_wave(fleet: Fleet) -> None:
    done, results, said = fleet.run()
    assert (done.phase, done.why) == (Phase.DONE, "")
    assert results == dict.fromkeys(EVERY, "updated")
    assert said == [
        "blade/canary: wave 1 of 2: blade01",
        "blade/canary: wave 2 of 2: blade02",
        "Ring fleet gets generation 2",
        "blade/fleet: wave 1 of 3: blade03",
        "blade/fleet: wave 2 of 3: blade[04-05]",
        "blade/fleet: wave 3 of 3: blade[06-08]",
    ]
    assert fleet.rings() == {"canary": 2, "fleet": 2}
    assert fleet.calls[:4] == ["blade01", "blade01 health", "blade02", "blade02 health"]
    again, results, _ = fleet.run()
    assert (again.phase, set(results.values())) == (Phase.DONE, {"unchanged"})
    assert fleet.calls[16:] == [call for call in fleet.calls[16:] if "health" not in call]


def test_a_canary_that_is_unwell_stops_it_and_goes_back_and_the_fleet_is_untouched(
    fleet: Fleet,
) -> None:
    fleet.does("blade01", unwell=2)
    done, results, said = fleet.run()
    assert results == {
        "blade01": "went back",
        **dict.fromkeys(EVERY[1:], "not tried"),
    }
    assert done.phase is Phase.WENT_BACK
    assert done.why == (
        "1 blade of canary failed, and 0 may: blade01. Its ring went back to generation 1"
    )
    assert said == [
        "blade/canary: wave 1 of 2: blade01",
        "STOPPED: 1 blade of canary failed, and 0 may: blade01",
        "Ring canary goes back to generation 1: blade01",
    ]
    assert fleet.rings() == {"canary": 1, "fleet": 1}
    assert fleet.calls == ["blade01", "blade01 health", "blade01"]
    assert {fleet.at(blade) for blade in EVERY} == {"1"}
    assert done.blades["blade01"].error == "munge is dead"


def test_the_ledger_hears_of_a_blade_that_is_unwell_and_why(fleet: Fleet) -> None:
    fleet.does("blade01", unwell=2)
    halting = fleet.with_(on_stop="halt")
    with Ledger.of(fleet.site) as ledger:
        _, reports = roll_out_once(
            halting.site,
            None,
            watch=Notes([]),
            on_report=lambda each: ledger.pulled(each, datetime.now(UTC)),
        )
        (state,) = ledger.blades().values()
        assert (state.result, state.generation, state.error) == ("unwell", 2, "munge is dead")
        assert '"result": "updated"' in state.error_log
        assert state.success is not None
        assert state.success < state.tried
        found = [(each.result, each.error) for each in ledger.reports("blade01")]
        assert found == [("unwell", "munge is dead"), ("updated", "")]
        # Whoever counts takes these, each blade once; the ledger's updates are one, too.
        assert [str(each.result) for each in reports] == ["unwell", *["not tried"] * 7]
        assert list(ledger.update_seconds()) == ["blade01"]


def test_a_ring_goes_back_to_what_its_blades_had_and_not_to_what_failed_before(
    fleet: Fleet,
) -> None:
    fleet.does("blade01", unwell=2)
    fleet.run()
    notes = Notes([])
    promote_once(fleet.site, "blade", "canary", 3, now=datetime.now(UTC), watch=notes)
    fleet.does("blade01", unwell=3)
    done, _, _ = fleet.run()
    assert done.why.endswith("Its ring went back to generation 1")
    assert fleet.rings() == {"canary": 1, "fleet": 1}


def test_a_ring_is_not_given_again_what_somebody_took_it_back_from(fleet: Fleet) -> None:
    fleet.run()
    now, notes = datetime.now(UTC), Notes([])
    rollback_once(fleet.site, "blade", "fleet", 1, now=now, asked=Asked(note="bad"), watch=notes)
    _, _, said = fleet.run()
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    assert (
        "Ring fleet went back from generation 2: headnode promote 2 --ring fleet gives it that one "
        "again"
    ) in said
    promote_once(fleet.site, "blade", "canary", 3, now=datetime.now(UTC), watch=notes)
    fleet.run()
    assert fleet.rings() == {"canary": 3, "fleet": 3}


def test_a_first_generation_that_fails_has_no_way_back_and_says_so(fleet: Fleet) -> None:
    shutil.rmtree(fleet.site.binhost("blade").folder / "rings")
    notes = Notes([])
    promote_once(fleet.site, "blade", "canary", 1, now=datetime.now(UTC), watch=notes)
    fleet.does("blade01", fails=1)
    done, results, _ = fleet.run()
    assert (done.phase, results["blade01"]) == (Phase.STOPPED, "failed")
    assert done.why == (
        "1 blade of canary failed, and 0 may: blade01. It cannot go back: The ring canary never "
        "had an older generation. headnode generations list shows what there is; name one with "
        "--to."
    )


@contextlib.contextmanager
def held_by(fleet: Fleet, who: str, meanwhile: Callable[[], object]) -> Iterator[None]:
    """The binhost's lock is held until a rollout waits for it; then `meanwhile` happens."""
    held = contextlib.ExitStack()
    held.enter_context(locked(fleet.site.binhost("blade").lock, who))

    def sleep(seconds: float, real: Callable[[float], None] = time.sleep) -> None:
        if seconds == BUSY_PAUSE_S:
            held.close()
            meanwhile()
        else:
            real(seconds)

    with held, pytest.MonkeyPatch.context() as patch:
        patch.setattr("schedules.rollouts.time.sleep", sleep)
        yield


def test_who_holds_the_binhost_is_waited_for_when_a_ring_is_to_get_something(
    fleet: Fleet,
) -> None:
    with held_by(fleet, "headnode serve", lambda: None):
        done, results, said = fleet.run()
    assert (done.phase, set(results.values())) == (Phase.DONE, {"updated"})
    lock = fleet.site.binhost("blade").lock
    waits = f"The rollout waits: headnode serve (process {os.getpid()}) holds {lock}."
    assert said[2:4] == ["Ring fleet gets generation 2", waits]


def test_who_holds_the_binhost_is_waited_for_when_a_ring_is_to_go_back(fleet: Fleet) -> None:
    fleet.does("blade01", unwell=2)
    with held_by(fleet, "headnode publish", lambda: None):
        done, _, _ = fleet.run()
    assert (done.phase, fleet.rings()) == (Phase.WENT_BACK, {"canary": 1, "fleet": 1})


def test_a_ring_that_was_moved_meanwhile_goes_no_further_back(fleet: Fleet) -> None:
    moved = {"now": datetime.now(UTC), "watch": Notes([])}
    promote_once(fleet.site, "blade", "canary", 3, **moved)
    fleet.does("blade01", unwell=3)
    with held_by(
        fleet,
        "headnode rollback",
        lambda: rollback_once(fleet.site, "blade", "canary", 2, **moved),
    ):
        done, results, _ = fleet.run()
    assert done.why.endswith("Its ring went back to generation 2")
    assert (done.phase, results["blade01"], fleet.at("blade01")) == (
        *(Phase.WENT_BACK, "went back", "2"),
    )
    assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_a_ring_that_was_given_something_newer_meanwhile_keeps_it(fleet: Fleet) -> None:
    fleet.does("blade01", unwell=2)
    moved = {"now": datetime.now(UTC), "watch": Notes([])}
    with held_by(
        fleet, "headnode publish", lambda: promote_once(fleet.site, "blade", "canary", 3, **moved)
    ):
        done, _, _ = fleet.run()
    assert (done.phase, fleet.rings()) == (Phase.STOPPED, {"canary": 3, "fleet": 1})
    assert done.why == (
        "1 blade of canary failed, and 0 may: blade01. It cannot go back: The ring canary was "
        "given generation 3 meanwhile. headnode rollout run tries it."
    )


def test_halt_leaves_the_ring_as_it_is(fleet: Fleet) -> None:
    fleet.does("blade02", fails=2)
    done, results, _ = fleet.with_(on_stop="halt").run()
    assert (done.phase, done.why) == (
        Phase.STOPPED,
        "1 blade of canary failed, and 0 may: blade02",
    )
    assert results == {
        "blade01": "updated",
        "blade02": "failed",
        **dict.fromkeys(EVERY[2:], "not tried"),
    }
    assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_what_failed_at_the_canary_is_not_handed_on_by_the_next_night(fleet: Fleet) -> None:
    fleet.does("blade01", unwell=2)
    halting = fleet.with_(on_stop="halt")
    why = "1 blade of canary failed, and 0 may: blade01"
    for _ in range(2):
        done, results, _ = halting.run()
        assert (done.phase, done.why) == (Phase.STOPPED, why)
        assert results == {"blade01": "unwell", **dict.fromkeys(EVERY[1:], "not tried")}
        assert fleet.rings() == {"canary": 2, "fleet": 1}
    halting.run("blade04")  # which leaves nothing of the one that stopped
    assert halting.run()[0].why == why
    fleet.does("blade01")
    begun = len(fleet.calls)
    done, results, _ = halting.run()
    assert results == {**dict.fromkeys(EVERY, "updated"), "blade01": "unchanged"}
    assert fleet.calls[begun : begun + 2] == ["blade01", "blade01 health"]
    begun = len(fleet.calls)
    halting.run()
    assert sorted(fleet.calls[begun:]) == EVERY  # nothing moves: nobody is asked for its health


def test_a_ring_goes_back_once_for_what_lies_elsewhere_and_not_again_each_night(
    fleet: Fleet,
) -> None:
    promote_once(fleet.site, "blade", "canary", 3, now=datetime.now(UTC), watch=Notes([]))
    fleet.does("blade01", unwell="always")  # a typo in the health line, say
    assert fleet.run()[0].phase is Phase.WENT_BACK
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    for _ in range(2):
        done, results, _ = fleet.run()
        assert (done.phase, results["blade01"]) == (Phase.STOPPED, "unwell")
        assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_what_failed_in_the_last_ring_goes_no_further_there_by_the_next_night(
    fleet: Fleet,
) -> None:
    fleet.does("blade03", unwell=2)
    halting = fleet.with_(on_stop="halt")
    for _ in range(2):
        done, results, _ = halting.run()
        assert done.why == "1 blade of fleet failed, and 0 may: blade03"
        assert (results["blade03"], results["blade04"]) == ("unwell", "not tried")


def test_done_and_failed_blades_of_the_ring_go_back_and_those_not_tried_are_left(
    fleet: Fleet,
) -> None:
    fleet.does("blade05", fails=2)
    done, results, _ = fleet.run()
    assert done.phase is Phase.WENT_BACK
    assert results == {
        "blade01": "updated",
        "blade02": "updated",
        "blade03": "went back",
        "blade04": "went back",
        "blade05": "went back",
        **dict.fromkeys(EVERY[5:], "not tried"),
    }
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    assert [fleet.at(blade) for blade in EVERY] == ["2", "2", "1", "1", "1", "1", "1", "1"]
    assert not [call for call in fleet.calls if call.startswith("blade06")]


def test_as_many_as_may_fail_do_not_stop_it(fleet: Fleet) -> None:
    fleet.does("blade05", fails=2)
    done, results, _ = fleet.with_(max_failed="1").run()
    assert done.phase is Phase.DONE
    assert results == {**dict.fromkeys(EVERY, "updated"), "blade05": "failed"}


def test_a_blade_that_is_lost_after_its_pull_counts_and_one_that_was_off_does_not(
    fleet: Fleet,
) -> None:
    fleet.does("blade02", off=True)
    fleet.does("blade03", busy=True)
    fleet.does("blade06", lost=2)
    done, results, _ = fleet.with_(on_stop="halt").run()
    assert results == {
        "blade01": "updated",
        "blade02": "unreached",
        "blade03": "deferred",
        "blade04": "updated",
        "blade05": "updated",
        "blade06": "unwell",
        "blade07": "updated",
        "blade08": "updated",
    }
    assert done.blades["blade06"].error == "it cannot be reached any more after its pull: "
    assert done.why == "1 blade of fleet failed, and 0 may: blade06"


def test_a_ring_of_which_nobody_was_there_hands_nothing_on(fleet: Fleet) -> None:
    fleet.does("blade01", off=True)
    fleet.does("blade02", busy=True)
    done, results, _ = fleet.run()
    assert (done.phase, done.why) == (Phase.STOPPED, "no blade of canary could be tried")
    assert set(list(results.values())[2:]) == {"not tried"}
    assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_blades_that_cannot_reach_the_headnode_stop_nothing_and_are_named(fleet: Fleet) -> None:
    for blade in ("blade02", "blade05"):
        fleet.does(blade, cut_off=True)
    done, results, said = fleet.run()
    assert results == {
        **dict.fromkeys(EVERY, "updated"),
        "blade02": "unreached",
        "blade05": "unreached",
    }
    assert fleet.rings() == {"canary": 2, "fleet": 2}
    assert (done.phase, done.why) == (
        Phase.DONE,
        "blade[02,05] could not pull: cannot reach the headnode at http://h:1: refused. Others "
        "can: look at the network there, or headnode serve was down meanwhile; then headnode "
        "rollout run",
    )
    assert [line for line in said if line.startswith("WARNING")] == [
        "WARNING: no blade that answers can reach the headnode at http://h:1: refused. Is headnode "
        "serve down? Start it (headnode serve), then headnode rollout run",
        "WARNING: blade05 could not pull: cannot reach the headnode at http://h:1: refused. Others "
        "can: look at the network there, or headnode serve was down meanwhile; then headnode "
        "rollout run",
    ]


def test_a_headnode_whose_serve_is_down_takes_no_ring_back_and_is_to_be_started(
    fleet: Fleet,
) -> None:
    for blade in EVERY:
        fleet.does(blade, cut_off=True)
    done, results, _ = fleet.run()
    assert results == {**dict.fromkeys(EVERY, "not tried"), **dict.fromkeys(EVERY[:2], "unreached")}
    assert (done.phase, done.why) == (
        Phase.STOPPED,
        "no blade that answers can reach the headnode at http://h:1: refused. Is headnode serve "
        "down? Start it (headnode serve), then headnode rollout run",
    )
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    for blade in EVERY:
        fleet.does(blade)
    done, results, _ = fleet.run()
    assert (done.phase, set(results.values())) == (Phase.DONE, {"updated"})


def test_named_blades_pull_what_their_rings_have_and_no_ring_moves(fleet: Fleet) -> None:
    _, results, _ = fleet.run("blade[02,04]")
    assert results == {"blade02": "updated", "blade04": "unchanged"}
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    fleet.does("blade01", fails=2)
    done, results, _ = fleet.run("blade01")
    assert (done.phase, results) == (Phase.STOPPED, {"blade01": "failed"})
    assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_an_older_generation_in_the_first_ring_is_not_handed_on(fleet: Fleet) -> None:
    fleet.run()
    notes = Notes([])
    rollback_once(fleet.site, "blade", "canary", None, now=datetime.now(UTC), watch=notes)
    fleet.run()
    assert fleet.rings() == {"canary": 1, "fleet": 2}


def test_blades_are_confirmed_when_they_are_well(fleet: Fleet) -> None:
    fleet.values["pull"] = {"confirm_s": 60.0}
    fleet.does("blade05", unwell=2)
    fleet.with_(on_stop="halt").run()
    sequence = fleet.site.binhost("blade").ring("canary").current()
    assert sequence is not None
    assert fleet.calls[:3] == [
        "blade01 --confirm",
        "blade01 health",
        f"blade01 confirm {sequence.sequence}",
    ]
    assert "blade04 confirm 2" in fleet.calls
    assert "blade05 confirm 2" not in fleet.calls


def test_a_blade_that_still_waits_for_its_confirmation_gets_it_though_it_has_nothing_to_pull(
    fleet: Fleet,
) -> None:
    fleet.values["pull"] = {"confirm_s": 60.0}
    fleet.run()
    begun = len(fleet.calls)
    fleet.does("blade01", waits=2)  # and its deployment was renewed since
    _, results, _ = fleet.run()
    assert set(results.values()) == {"unchanged"}
    assert [call for call in fleet.calls[begun:] if not call.endswith(" --confirm")] == [
        *("blade01 health", "blade01 confirm 2"),
    ]


def test_who_went_on_pulling_without_a_connection_is_looked_at_when_it_catches_up(
    fleet: Fleet,
) -> None:
    fleet.does("blade04", off=True)
    hands = {"watch": Notes([]), "clock": lambda: datetime.now(UTC), "sleep": time.sleep}
    with Ledger.of(fleet.site) as ledger:
        roll_out_once(
            fleet.site,
            None,
            watch=Notes([]),
            on_report=lambda each: ledger.pulled(each, datetime.now(UTC)),
        )
        (fleet.folder / "blade04.at").write_text("2")
        fleet.does("blade04", unwell=2)
        (report,) = catch_up_once(fleet.site, ledger, **hands)
    assert (report.result, report.error) == ("unwell", "munge is dead")


def test_drained_blades_are_left_out(fleet: Fleet) -> None:
    folder = fleet.site.binhost("blade").folder
    drained.drain(folder, ["blade02", "blade07"], "memory test", datetime.now(UTC))
    _, results, _ = fleet.run()
    assert {name for name, result in results.items() if result == "drained"} == {
        "blade02",
        "blade07",
    }
    assert drained.undrain(folder, ["blade02", "blade03"]) == ["blade02"]
    assert drained.drained(folder, datetime.now(UTC)) == {"blade07": "memory test"}


def test_a_ring_that_is_all_drained_hands_nothing_on(fleet: Fleet) -> None:
    folder = fleet.site.binhost("blade").folder
    drained.drain(folder, ["blade01", "blade02"], "memory test", datetime.now(UTC))
    done, results, said = fleet.run()
    why = "every blade of canary is drained, so it hands nothing on untried"
    assert (done.phase, done.why, said) == (Phase.STOPPED, why, [f"STOPPED: {why}"])
    assert list(results.values()) == [*["drained"] * 2, *["not tried"] * 6]
    assert fleet.rings() == {"canary": 2, "fleet": 1}
    assert fleet.calls == []


def test_a_ring_that_is_all_drained_stops_nothing_where_nothing_would_be_handed_on(
    fleet: Fleet,
) -> None:
    fleet.run()
    folder, notes = fleet.site.binhost("blade").folder, Notes([])
    drained.drain(folder, ["blade01", "blade02"], "memory test", datetime.now(UTC))
    done, results, _ = fleet.run()
    assert (done.phase, results["blade03"]) == (Phase.DONE, "unchanged")
    promote_once(fleet.site, "blade", "canary", 3, now=datetime.now(UTC), watch=notes)
    done, _, _ = fleet.with_(promote=False).run()
    assert done.phase is Phase.DONE
    done, results, _ = fleet.run("blade[01,03]")
    assert (done.phase, results) == (Phase.DONE, {"blade01": "drained", "blade03": "unchanged"})


def test_a_rollout_that_waited_takes_blades_that_were_drained_only_meanwhile(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reboot = fleet.site.binhost("blade").folder, "headnode rollout reboot"
    canaries = ["blade01", "blade02"]
    drained.claim(folder, canaries, reboot, datetime.now(UTC))
    restarting = contextlib.ExitStack()
    restarting.enter_context(locked(fleet.site.state / progress.LOCK, progress.REBOOT))

    def sleep(seconds: float, real: Callable[[float], None] = time.sleep) -> None:
        if seconds == WAIT_S:
            drained.release(folder, canaries, reboot)
            restarting.close()
        else:
            real(seconds)

    monkeypatch.setattr("schedules.rollouts.time.sleep", sleep)
    _, reports = roll_out_once(fleet.site, None, watch=Notes([]), wait=True)
    assert {each.blade: str(each.result) for each in reports} == dict.fromkeys(EVERY, "updated")


def test_a_blade_whose_drain_is_over_takes_part_again(fleet: Fleet) -> None:
    folder, now = fleet.site.binhost("blade").folder, datetime.now(UTC)
    drained.drain(folder, ["blade02"], "test", now - timedelta(days=3), now - timedelta(days=1))
    drained.drain(folder, ["blade07"], "test", now, now + timedelta(days=1))
    _, results, _ = fleet.run()
    assert results == {**dict.fromkeys(EVERY, "updated"), "blade07": "drained"}
    fleet.does("blade07", off=True)
    later = now + timedelta(days=2)
    with Ledger.of(fleet.site) as ledger:
        roll_out_once(
            fleet.site,
            None,
            watch=Notes([]),
            clock=lambda: later,
            on_report=lambda each: ledger.pulled(each, datetime.now(UTC)),
        )
        assert missed_once(fleet.site, ledger) == []
        found = missed_once(fleet.site, ledger, clock=lambda: later)
        assert [each.name for each in found] == ["blade07"]


def test_who_was_off_catches_up_alone_when_it_answers_again(fleet: Fleet) -> None:
    def now() -> datetime:
        return datetime.now(UTC)

    notes = Notes([])
    for blade in ("blade04", "blade07"):
        fleet.does(blade, off=True)
    with Ledger.of(fleet.site) as ledger:
        done, _ = roll_out_once(
            fleet.site, None, watch=notes, on_report=lambda each: ledger.pulled(each, now())
        )
        assert [each.name for each in missed_once(fleet.site, ledger)] == ["blade04", "blade07"]
        fleet.does("blade04", unwell=2)
        begun = len(fleet.calls)
        hands = {"watch": notes, "clock": now, "sleep": time.sleep}
        (report,) = catch_up_once(fleet.site, ledger, **hands)
        assert (report.blade, report.result, report.error) == ("blade04", "unwell", "munge is dead")
        calls = fleet.calls[begun:]  # both are asked at once
        assert [call for call in calls if call != "blade07 status"] == [
            *("blade04 status", "blade04", "blade04 health")
        ]
        assert fleet.at("blade04") == "2"
        fleet.does("blade07")
        (report,) = catch_up_once(fleet.site, ledger, **hands)
        assert (report.blade, report.result) == ("blade07", "updated")
        assert catch_up_once(fleet.site, ledger, **hands) == []
        assert {name: each.result for name, each in ledger.blades().items()} == {
            **dict.fromkeys(EVERY, "updated"),
            "blade04": "unwell",
        }
    assert progress.load(fleet.site.state) == done
    assert notes.lines[-2:] == ["Seen again: blade04", "Seen again: blade07"]


def test_nobody_catches_up_after_a_rollout_that_was_stopped(fleet: Fleet) -> None:
    fleet.does("blade04", off=True)
    fleet.does("blade06", fails=2)
    with Ledger.of(fleet.site) as ledger:
        roll_out_once(
            fleet.with_(on_stop="halt").site,
            None,
            watch=Notes([]),
            on_report=lambda each: ledger.pulled(each, datetime.now(UTC)),
        )
        assert missed_once(fleet.site, ledger) == []


def test_a_second_rollout_refuses(fleet: Fleet) -> None:
    with locked(fleet.site.state / progress.LOCK, "headnode rollout run"), pytest.raises(BusyError):
        fleet.run()
    assert fleet.calls == []


RUN = """
import json, sys
from pathlib import Path
from config.model import Cluster
from schedules.rollouts import roll_out_once
from schedules.site import Site
class Notes:
    def say(self, text): print(text, flush=True)
    def amount(self, *words): pass
values = json.loads(Path(sys.argv[1]).read_text())
roll_out_once(Site(cluster=Cluster.model_validate(values)), None, watch=Notes())
"""


def begun(fleet: Fleet) -> "subprocess.Popen[str]":
    """A rollout of its own process, in the middle of blade04's pull."""
    fleet.does("blade04", slow=60)
    values = fleet.folder / "values.json"
    values.write_text(json.dumps(fleet.values, default=str))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    done = fleet.folder / "blade05.at"  # which pulls beside it
    while not ((fleet.folder / "begun").exists() and done.exists() and done.read_text() == "2"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("how", "end"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGKILL), Phase.RUNNING),
        (lambda process: process.send_signal(signal.SIGINT), Phase.INTERRUPTED),
    ],
)
def test_one_that_was_cut_off_goes_on_where_it_was(
    fleet: Fleet, how: Callable[["subprocess.Popen[str]"], None], end: Phase
) -> None:
    process = begun(fleet)
    assert progress.is_running(fleet.site.state)
    how(process)
    process.communicate(timeout=60)
    known = progress.load(fleet.site.state)
    assert known is not None
    assert known.phase is end
    assert not progress.is_running(fleet.site.state)
    assert [name for name, each in known.blades.items() if each.result] == EVERY[:3]
    fleet.does("blade04")
    (fleet.folder / "calls").unlink()
    done, results, said = fleet.run()
    assert said[0] == "Going on with the rollout that was cut off"
    assert done.phase is Phase.DONE
    # It had pulled when the rollout was cut off, and nobody had looked whether it is well.
    assert results == {**dict.fromkeys(EVERY, "updated"), "blade05": "unchanged"}
    assert "blade05 health" in fleet.calls
    assert sorted({call.split()[0] for call in fleet.calls}) == EVERY[3:]


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("moved", [False, True])
def test_one_that_was_cut_off_while_it_went_back_finishes_that(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, end: type[BaseException], moved: bool
) -> None:
    def killed(*words: Any, **more: Any) -> None:
        if moved:
            rollback_once(*words, **more)
        raise end

    fleet.does("blade03", fails=2)
    with monkeypatch.context() as patch, pytest.raises(end):
        patch.setattr("schedules.ring_moves.rollback_once", killed)
        fleet.run()
    known = progress.load(fleet.site.state)
    assert known is not None
    assert known.phase is Phase.GOING_BACK
    assert fleet.rings() == {"canary": 2, "fleet": 1 if moved else 2}
    fleet.does("blade03")  # a pull would succeed now
    begun = len(fleet.calls)
    done, results, said = fleet.run()
    why = "1 blade of fleet failed, and 0 may: blade03"
    assert (done.phase, done.why) == (
        Phase.WENT_BACK,
        f"{why}. Its ring went back to generation 1",
    )
    assert said[0] == "Going on with the rollout that was cut off"
    assert said[-2:] == [f"STOPPED: {why}", "Ring fleet goes back to generation 1: blade03"]
    assert results == {
        **dict.fromkeys(EVERY[:2], "updated"),
        "blade03": "went back",
        **dict.fromkeys(EVERY[3:], "not tried"),
    }
    assert done.blades["blade03"].error == "no room"
    assert fleet.calls[begun:] == ["blade03"]
    assert fleet.rings() == {"canary": 2, "fleet": 1}


def test_no_other_rollout_begins_before_one_that_was_cut_off_while_it_went_back(
    fleet: Fleet,
) -> None:
    def killed(*words: Any, **more: Any) -> None:
        raise SystemExit

    fleet.does("blade03", unwell=2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("schedules.ring_moves.rollback_once", killed)
        fleet.run()
    with pytest.raises(RolloutError) as raised:
        fleet.run("blade04")
    assert str(raised.value) == (
        "A rollout was cut off while a ring went back. headnode rollout run finishes that first."
    )
    assert fleet.run()[0].phase is Phase.WENT_BACK


def test_a_ring_that_was_going_back_and_got_something_newer_is_rolled_out(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*words: Any, **more: Any) -> None:
        raise SystemExit

    fleet.does("blade01", unwell=2)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("schedules.ring_moves.rollback_once", killed)
        fleet.run()
    promote_once(fleet.site, "blade", "canary", 3, now=datetime.now(UTC), watch=Notes([]))
    done, results, _ = fleet.run()
    assert (done.phase, results) == (Phase.DONE, dict.fromkeys(EVERY, "updated"))
    assert fleet.rings() == {"canary": 3, "fleet": 3}


def test_the_status_says_whether_it_runs_or_was_killed() -> None:
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    known = Progress(started=now, changed=now, nodes=None, phase=Phase.RUNNING)
    killed = "was killed; headnode rollout run goes on with it"
    first = "Rollout of 2026-01-02 03:04 UTC over all blades: "
    assert status_lines(known, running=True) == [f"{first}running.", "0 of 0 blades are through."]
    assert status_lines(known, running=False)[0] == f"{first}{killed}."


def test_the_exit_code_of_a_stopped_rollout_is_a_failure(fleet: Fleet) -> None:
    fleet.does("blade01", fails=2)
    _, reports = roll_out_once(fleet.site, None, watch=Notes([]))
    assert exit_code(reports) is ExitCode.FAILED
    assert all(isinstance(each, BladeReport) for each in reports)
