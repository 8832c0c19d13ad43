"""Restarts over a way in that is each blade: who is tried in which order, and what each comes to.

On blades with GRUB and the real pull: tests/test_reboot_lab.py.
"""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from blades import drained
from blades.inventory import Blade
from config.model import Cluster
from headnode.commands.context import Settings
from headnode.commands.reboot import reboot_exit_code
from headnode.commands.rollout import plan, show_restarts, status
from headnode.errors import ConfigError, ExitCode
from headnode.files import locked
from schedules import progress, reboot_progress, reboots
from schedules.ledger.ledger import Ledger
from schedules.progress import Phase, Progress
from schedules.reboot import WHY, Fate, RebootPlan, RebootReport, standing_of
from schedules.reboot_progress import BladeAt, RebootProgress
from schedules.restarting import Reboots
from schedules.rollout import BladeReport, Result
from schedules.site import Site

# enter BLADE LINE: answers as that blade's headnode-pull would, by what <folder>/<BLADE> says.
ENTER = """#!{python}
import json, sys
from pathlib import Path
folder, blade, words = Path({folder!r}), sys.argv[1], sys.argv[2].split()
assert words.pop(0) == "/usr/local/sbin/headnode-pull", words
(word,) = words
is_at = folder / blade
at = {{"boot": 1, "running": "old", "due": "new", **json.loads(is_at.read_text())}}
with (folder / "calls").open("a") as calls:
    calls.write(blade + " " + word + "\\n")
if at.get("off"):
    print("off", file=sys.stderr)
    sys.exit(255)
kernels = {{"running": at["running"], "due": at["due"], "fell_back": at.get("fell_back", False)}}
report = {{"boot": str(at["boot"]), "kernels": kernels, "error": ""}}
if word == "status":
    report["result"] = "status"
elif word == "health":
    report["result"] = "well"
elif word == "booted":
    report["result"] = "current"
elif at.get("busy"):
    at["busy"] -= 1
    report |= {{"result": "deferred", "error": "a job runs"}}
elif at.get("stuck"):
    report |= {{"result": "restarting", "error": at.get("odd", "")}}
else:
    at |= {{"boot": at["boot"] + 1, "running": at.get("boots", at["due"])}}
    is_at.write_text(json.dumps(at))
    sys.exit(255)  # the connection broke: its machine went down
is_at.write_text(json.dumps(at))
print(json.dumps(report))
"""


@dataclass
class Fleet:
    """Three blades of a ring, each with a reboot pending; time passes when they are waited for."""

    folder: Path
    site: Site
    now_s: float = 0.0

    def does(self, blade: str, **what: Any) -> None:
        (self.folder / blade).write_text(json.dumps(what))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def plan(self, at_once: int = 1) -> RebootPlan:
        return reboots.plan_once(self.site, None, None, at_once)

    def run(self, at_once: int = 1, **rollout: Any) -> dict[str, RebootReport]:
        options = self.site.cluster.rollout.model_copy(update=rollout)
        site = Site(cluster=self.site.cluster.model_copy(update={"rollout": options}))
        self.said: list[str] = []
        run = Reboots(
            site=site,
            plan=self.plan(at_once),
            say=self.said.append,
            on_report=self.note,
            clock_s=lambda: self.now_s,
            sleep=self.sleep,
        )
        return {each.blade: each for each in run.run()}

    def note(self, report: RebootReport) -> None:
        with Ledger.of(self.site) as ledger:
            words = (report.blade, report.kernel, report.kernel_due, report.error)
            ledger.booted(*words, datetime.now(UTC))

    def calls(self, blade: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [word for name, word in (line.split() for line in lines) if name == blade]

    def drained(self) -> dict[str, str]:
        return drained.drained(self.site.binhost("blade").folder, datetime.now(UTC))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    enter = tmp_path / "enter"
    enter.write_text(ENTER.format(python=sys.executable, folder=str(tmp_path)))
    enter.chmod(0o755)
    values = {
        "state": {"path": tmp_path / "state", "reserve_mib": 0},
        "classes": {"blade": {"rings": {"fleet": "blade[1-3]"}}},
        "signing": {"mode": "off"},
        "rollout": {"transport": "exec", "exec_command": f"{enter} %h"},
    }
    site = Site(cluster=Cluster.model_validate(values))
    made = Fleet(folder=tmp_path, site=site)
    with Ledger.of(site) as ledger:
        for number in (1, 2, 3):
            made.does(f"blade{number}")
            said = {"result": Result.UPDATED, "kernel": "old", "kernel_due": "new"}
            report = BladeReport(blade=f"blade{number}", ring="fleet", **said)  # type: ignore[arg-type]
            ledger.pulled(report, datetime.now(UTC))
    return made


def fates(reports: dict[str, RebootReport]) -> list[str]:
    return [str(each.fate) for each in reports.values()]


def test_a_blade_is_asked_restarted_looked_at_and_then_the_next(fleet: Fleet) -> None:
    assert fates(fleet.run()) == ["rebooted"] * 3
    assert fleet.calls("blade1") == ["status", "reboot", "status", "health", "booted"]
    assert fleet.said[:2] == ["1 of 3: blade1", "blade1: restarts"]
    assert fleet.drained() == {}


def test_a_blade_that_is_off_or_was_restarted_by_hand_does_not_stop_it(fleet: Fleet) -> None:
    fleet.does("blade1", off=True)
    fleet.does("blade2", running="new")
    reports = fleet.run()
    assert fates(reports) == ["unreached", "current", "rebooted"]
    assert reports["blade1"].error == "off"
    assert fleet.calls("blade2") == ["status", "health", "booted"]
    assert fleet.drained() == {}


def test_a_job_is_waited_for_and_asked_about_twice_a_minute(fleet: Fleet) -> None:
    fleet.does("blade1", busy=3)
    assert fates(fleet.run()) == ["rebooted"] * 3
    assert fleet.calls("blade1")[:5] == ["status", "reboot", "reboot", "reboot", "reboot"]
    assert fleet.said[1] == "blade1: a job runs; waiting until it is free"
    assert 90 <= fleet.now_s < 120


def test_a_job_that_does_not_end_in_time_is_left_alone(fleet: Fleet) -> None:
    fleet.does("blade1", busy=1000)
    reports = fleet.run(drain_s=100.0)
    assert fates(reports) == ["deferred", "rebooted", "rebooted"]
    assert reports["blade1"].error == "a job runs"
    assert fleet.drained() == {}


@pytest.mark.parametrize(
    ("does", "error"),
    [
        (
            {"stuck": True},
            "it is not back within 10 s: answers from the boot before. Look at its console: "
            "switched off and on, it boots the kernel that it had",
        ),
        ({"boots": "old"}, "it runs old after its restart, and new is due"),
    ],
)
def test_the_first_failure_stops_it_and_who_is_at_it_comes_to_the_end(
    fleet: Fleet, does: dict[str, Any], error: str
) -> None:
    fleet.does("blade1", **does)
    reports = fleet.run(at_once=2, reboot_s=10.0)
    assert fates(reports) in (
        ["rebooted", "failed", "not tried"],
        ["failed", "rebooted", "not tried"],
    )
    assert reports["blade1"].error == (
        f"{error}. It stays drained; headnode rollout reboot tries it again"
    )
    assert fleet.drained() == {"blade1": f"{WHY}: {error}"}
    with Ledger.of(fleet.site) as ledger:
        known = ledger.blades()
    assert (known["blade1"].error, known["blade2"].kernel) == (reports["blade1"].error, "new")
    assert fleet.plan().batches[0][0].begun
    fleet.does("blade1")
    assert fates(fleet.run()) == ["rebooted"] * 2
    assert fleet.drained() == {}


def test_a_kernel_that_fell_back_before_is_not_tried_and_its_blade_not_drained(
    fleet: Fleet,
) -> None:
    fleet.does("blade1", fell_back=True)
    reports = fleet.run()
    assert fates(reports) == ["failed", "not tried", "not tried"]
    assert reports["blade1"].error == (
        "new was booted and fell back to old. It is not tried again until another kernel is due, "
        "or headnode-kernel --again was run on the blade"
    )
    assert (fleet.calls("blade1"), fleet.drained()) == (["status"], {})


def test_a_scheduler_that_cannot_be_told_keeps_the_blade_running(fleet: Fleet) -> None:
    reports = fleet.run(drain_command="echo no slurmctld; exit 1")
    assert fates(reports) == ["failed", "not tried", "not tried"]
    assert reports["blade1"].error.startswith("it could not be drained: sh -c echo no slurmctld")
    assert (fleet.calls("blade1"), fleet.drained()) == (["status"], {})


def test_a_scheduler_that_cannot_be_told_leaves_drained_who_may_be_restarting(fleet: Fleet) -> None:
    folder = fleet.site.binhost("blade").folder
    drained.claim(folder, ["blade1"], WHY, datetime.now(UTC))  # by a run that was killed
    fleet.does("blade1", off=True)
    report = fleet.run(drain_command="exit 1", undrain_command="exit 2")["blade1"]
    why = "it could not be drained: sh -c exit 1 failed with exit code 1."
    assert (report.fate, report.error) == (
        Fate.FAILED,
        f"{why}. It stays drained; headnode rollout reboot tries it again",
    )
    assert fleet.drained() == {"blade1": f"{WHY}: {why}"}


def test_a_blade_whose_command_for_a_restart_does_not_end_is_waited_for(fleet: Fleet) -> None:
    fleet.does("blade1", stuck=True, odd="`reboot` did not end within 60 s")
    report = fleet.run(reboot_s=10.0)["blade1"]
    assert fleet.said[1] == "blade1: restarts (`reboot` did not end within 60 s)"
    assert report.error.startswith("it is not back within 10 s: answers from the boot before.")
    assert fleet.drained().keys() == {"blade1"}


def test_who_is_drained_by_somebody_meanwhile_is_left_to_him(fleet: Fleet) -> None:
    folder = fleet.site.binhost("blade").folder
    plan = fleet.plan()
    drained.drain(folder, ["blade1"], "memory test", datetime.now(UTC))
    run = Reboots(site=fleet.site, plan=plan, say=lambda text: None, sleep=fleet.sleep)
    assert [str(each.fate) for each in run.run()] == ["drained", "rebooted", "rebooted"]
    assert fleet.drained() == {"blade1": "memory test"}
    assert list(fleet.plan(2).lines()) == [
        "1 of 1: blade[2-3] to new",
        "left out, drained: blade1",
    ]


def kept(fleet: Fleet) -> RebootProgress:
    known = reboot_progress.load(fleet.site.state)
    assert known is not None
    return known


def test_how_far_it_is_lies_on_disk_while_it_runs_and_afterwards(fleet: Fleet) -> None:
    fleet.does("blade1", busy=1)
    fleet.does("blade2", boots="old")
    seen: list[RebootProgress] = []

    def look(seconds: float) -> None:
        seen.append(kept(fleet))
        fleet.now_s += seconds

    fleet.sleep = look  # type: ignore[method-assign]
    fleet.run()
    first = seen[0].blades
    assert (seen[0].phase, first["blade1"].does, first["blade1"].fate) == (
        *(Phase.RUNNING, "waits until it is free"),
        "",
    )
    assert first["blade2"] == BladeAt(ring="fleet", batch=2, kernel="old", kernel_due="new")
    last = kept(fleet)
    assert (last.phase, [each.fate for each in last.blades.values()]) == (
        *(Phase.STOPPED,),
        ["rebooted", "failed", "not tried"],
    )
    assert last.blades["blade1"].kernel == "new"
    assert last.blades["blade2"].error.startswith("it runs old after its restart, and new is due")
    fleet.does("blade2")
    fleet.run()
    assert (kept(fleet).phase, list(kept(fleet).blades)) == (Phase.DONE, ["blade2", "blade3"])
    before = kept(fleet)
    fleet.run()  # nothing is pending any more: what was done last stays known
    assert kept(fleet) == before


def test_a_ctrl_c_is_noted(fleet: Fleet) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    fleet.does("blade1", stuck=True)
    fleet.sleep = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fleet.run()
    last = kept(fleet)
    assert (last.phase, last.blades["blade1"].does) == (Phase.INTERRUPTED, "restarts")


def asked(fleet: Fleet, command: click.Command, *words: str) -> Any:
    """What a command of `headnode rollout` prints."""
    config = fleet.folder / "cluster.toml"
    values = fleet.site.cluster
    config.write_text(
        f'[state]\npath = "{values.state.path}"\nreserve_mib = 0\n[signing]\nmode = "off"\n'
        '[classes.blade]\npackages = []\nrings = { fleet = "blade[1-3]" }\n'
    )
    done = CliRunner().invoke(command, words, obj=Settings(config_path=config))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_the_plan_of_a_rollout_has_the_reboots_that_are_pending(fleet: Fleet) -> None:
    folder = fleet.site.binhost("blade").folder
    drained.drain(folder, ["blade3"], "memory test", datetime.now(UTC))
    lines = asked(fleet, plan).splitlines()
    assert lines[-1] == "reboot pending: blade[1-3] to new (headnode rollout reboot)"
    assert asked(fleet, plan, "--nodes", "blade2").splitlines()[-1] == (
        "reboot pending: blade2 to new (headnode rollout reboot)"
    )
    said = asked(fleet, plan, "--json")
    about = {"ring": "fleet", "kernel": "old", "kernel_due": "new"}
    assert said["reboot_pending"] == [{"blade": f"blade{each}", **about} for each in (1, 2, 3)]
    assert said["plan"]["stages"][0]["ring"] == "fleet"
    drained.undrain(folder, ["blade3"])
    fleet.run()
    assert "reboot" not in asked(fleet, plan)


def test_a_rollout_that_was_killed_does_not_run_while_blades_restart(fleet: Fleet) -> None:
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    killed = Progress(started=now, changed=now, nodes=None, phase=Phase.RUNNING)
    progress.store(fleet.site.state, killed)
    fleet.does("blade1", stuck=True)
    told: list[Any] = []

    def look(seconds: float) -> None:
        told.append((asked(fleet, status, "--json"), asked(fleet, status)))
        fleet.now_s += 1000

    fleet.sleep = look  # type: ignore[method-assign]
    with locked(fleet.site.state / progress.LOCK, progress.REBOOT):
        fleet.run()
    (known, text) = told[0]
    assert (known["running"], known["reboot_running"]) == (False, True)
    assert known["reboot"]["blades"]["blade1"]["does"] == "restarts"
    assert text.splitlines()[0].endswith(
        "all blades: was killed; headnode rollout run goes on with it."
    )
    assert " UTC: running.\n0 of 3 blades are through.\n" in text
    assert "  restarts\n" in text
    after = asked(fleet, status, "--json")
    assert (after["reboot_running"], after["reboot"]["phase"]) == (False, "stopped")
    assert "blade1: it is not back within" in asked(fleet, status)


def test_one_whose_process_has_gone_was_killed(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    at = BladeAt(ring="fleet", batch=1, does="restarts", kernel="old", kernel_due="new")
    show_restarts(RebootProgress(started=now, changed=now, blades={"b1": at}), running=False)
    assert capsys.readouterr().out.splitlines() == [
        "Reboots of 2026-01-02 03:04 UTC: was killed; headnode rollout reboot goes on with it.",
        "0 of 1 blades are through.",
        "blade  ring   kernel  kernel due  result ",
        "b1     fleet  old     new         cut off",
    ]


def test_an_unknown_ring_is_refused(fleet: Fleet) -> None:
    with pytest.raises(ConfigError) as error:
        reboots.plan_once(fleet.site, None, "canary", 1)
    assert str(error.value) == "There is no ring 'canary'. The rings are fleet."


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], ExitCode.OK),
        ([Fate.DRAINED, Fate.CURRENT], ExitCode.OK),
        ([Fate.REBOOTED, Fate.NOT_TRIED], ExitCode.PARTLY),
        ([Fate.FAILED, Fate.NOT_TRIED], ExitCode.FAILED),
    ],
)
def test_the_exit_code_says_whether_all_some_or_none_run_what_they_are_due(
    found: list[Fate], code: ExitCode
) -> None:
    blade = Blade(name="blade1", class_name="blade", ring="fleet")
    reports = [RebootReport(blade=blade.name, ring=blade.ring, fate=fate) for fate in found]
    assert reboot_exit_code(reports) is code


def test_what_is_no_answer_is_none() -> None:
    assert standing_of(None) is None
