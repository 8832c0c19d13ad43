import json
import stat
from pathlib import Path

import pytest

from blades.inventory import Blade
from blades.transport import Outcome
from config.model import Cluster, Rollout, State
from headnode.commands.rollout import exit_code
from headnode.errors import ExitCode
from schedules.rollout import BladeReport, Result, read_outcome, rollout_once
from schedules.site import Site

BLADE = Blade(name="blade01", class_name="blade", ring="canary")
SAID = {
    "result": "updated",
    "emerge": True,
    "changes": ["-app-misc/a-1", "+app-misc/a-2"],
    "error": "",
    "blade": "blade01",
    "ring": "canary",
    "generation": 7,
    "sequence": 9,
    "packages": 11,
    "seconds": 3.2,
}


def outcome(code: int | None, output: str) -> Outcome:
    return Outcome(blade="blade01", code=code, output=output, seconds=1.5)


def said(**more: object) -> str:
    return json.dumps({**SAID, **more})


def test_a_pull_that_updated_is_read_whole() -> None:
    output = f"something before\n{said()}"
    assert read_outcome(BLADE, outcome(0, output)) == BladeReport(
        blade="blade01",
        ring="canary",
        result=Result.UPDATED,
        generation=7,
        sequence=9,
        packages=11,
        changes=("-app-misc/a-1", "+app-misc/a-2"),
        emerge_started=True,
        error="",
        seconds=1.5,
        log=output,
    )


@pytest.mark.parametrize(
    ("code", "output", "result", "error"),
    [
        (0, said(result="unchanged", emerge=False), Result.UNCHANGED, ""),
        (1, said(result="failed", error="no room"), Result.FAILED, "no room"),
        (2, said(result="failed", error="not set up"), Result.FAILED, "not set up"),
        (None, "", Result.TIMED_OUT, "did not finish in time"),
        (None, said(), Result.TIMED_OUT, "did not finish in time"),
        (255, "ssh: no route", Result.UNREACHED, "ssh: no route"),
        (255, "", Result.UNREACHED, "exit code 255, no output"),
        (127, "sh: headnode-pull: not found", Result.FAILED, "sh: headnode-pull: not found"),
        (137, "", Result.FAILED, "exit code 137, no output"),  # out of memory: it was reached
        (0, "", Result.FAILED, "exit code 0, no output"),
        (1, "a\nb\nc\nd\n", Result.FAILED, "b\nc\nd"),
        # It had said so and was ended before it was done.
        (137, said(), Result.FAILED, "exit code 137 after it had said updated"),
        # ssh may say something after the report.
        (1, said(result="failed", error="x") + "\nConnection closed.", Result.FAILED, "x"),
        (1, said(result="failed", error=None), Result.FAILED, ""),
        # It answers, and cannot reach the headnode.
        (3, said(result="unreached", error="refused"), Result.UNREACHED, "refused"),
        # JSON that is no report, and results that only the headnode can tell.
        (0, '{"result": "fine"}', Result.FAILED, '{"result": "fine"}'),
        (0, '{"result": "went back"}', Result.FAILED, '{"result": "went back"}'),
        (0, '{"result": ["updated"]}', Result.FAILED, '{"result": ["updated"]}'),
        (0, "[1, 2]", Result.FAILED, "[1, 2]"),
        (0, "7", Result.FAILED, "7"),
    ],
)
def test_an_outcome_says_how_the_pull_ended(
    code: int | None, output: str, result: Result, error: str
) -> None:
    report = read_outcome(BLADE, outcome(code, output))
    assert (report.result, report.error) == (result, error)
    assert (report.blade, report.ring, report.seconds) == ("blade01", "canary", 1.5)
    assert report.good is (result in (Result.UPDATED, Result.UNCHANGED))


def test_a_blade_that_nothing_is_known_of_is_unreached() -> None:
    report = read_outcome(BLADE, None)
    assert (report.result, report.error) == (Result.UNREACHED, "no answer")


def test_fields_of_another_kind_than_they_should_be_are_left_out() -> None:
    odd = said(generation="7", packages=True, changes="none", emerge=0)
    report = read_outcome(BLADE, outcome(0, odd))
    assert (report.generation, report.packages, report.changes) == (None, None, ())
    assert report.emerge_started is False


def report(result: Result) -> BladeReport:
    return BladeReport(blade="b", ring="r", result=result)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], ExitCode.OK),
        ([Result.UPDATED, Result.UNCHANGED], ExitCode.OK),
        ([Result.UPDATED, Result.FAILED], ExitCode.PARTLY),
        ([Result.UNREACHED, Result.UNCHANGED, Result.TIMED_OUT], ExitCode.PARTLY),
        ([Result.UNREACHED, Result.TIMED_OUT, Result.FAILED], ExitCode.FAILED),
    ],
)
def test_the_exit_code_says_whether_all_some_or_none_are_good(
    results: list[Result], code: ExitCode
) -> None:
    assert exit_code([report(result) for result in results]) is code


def test_a_rollout_reports_every_blade_in_order_and_as_it_comes(tmp_path: Path) -> None:
    """Over a way in that is each of four blades: well, failing, off, and hanging."""
    enter = tmp_path / "enter"
    enter.write_text(
        "#!/bin/sh\n"
        '[ "$2" = /usr/local/sbin/headnode-pull ] || exit 99\n'
        "case $1 in\n"
        f"blade1) sleep 0.3; echo '{said()}';;\n"
        f"blade2) echo '{said(result='failed', error='no room')}'; exit 1;;\n"
        "blade3) echo off >&2; exit 255;;\n"
        "blade4) exec sleep 60;;\n"
        "esac\n"
    )
    enter.chmod(enter.stat().st_mode | stat.S_IXUSR)
    options = Rollout.model_validate(
        {"transport": "exec", "exec_command": f"{enter} %h", "timeout_s": 1.0}
    )
    blades = [Blade(name=f"blade{n}", class_name="blade", ring="fleet") for n in (4, 3, 2, 1)]
    shown: list[BladeReport] = []
    reports = rollout_once(blades, options, shown.append)
    assert [(each.blade, each.result) for each in reports] == [
        ("blade4", Result.TIMED_OUT),
        ("blade3", Result.UNREACHED),
        ("blade2", Result.FAILED),
        ("blade1", Result.UPDATED),
    ]
    assert [each.blade for each in shown][-2:] == ["blade1", "blade4"]
    assert {each.blade: each for each in shown} == {each.blade: each for each in reports}
    assert exit_code(reports) is ExitCode.PARTLY


@pytest.mark.parametrize("gateways", [None, "gate[1-2]"])
def test_each_way_has_the_key_and_host_keys_of_the_machine_that_takes_it(
    tmp_path: Path, gateways: str | None
) -> None:
    options = Rollout(gateways=gateways, ssh_options="-p 2222", gateway_options="-l headnode")
    site = Site(cluster=Cluster(state=State(path=tmp_path), rollout=options))
    assert site.rollout == options  # the administrator's own keys, as long as nobody is enrolled
    site.wallet.public()
    common = "-oGlobalKnownHostsFile=/dev/null -oStrictHostKeyChecking=yes"
    keys = tmp_path / "keys/ssh"
    own = f"-i{keys}/id_ed25519 -oIdentitiesOnly=yes -oUserKnownHostsFile={keys}/known_hosts"
    there = (
        "-i~/.ssh/headnode/id_ed25519 -oIdentitiesOnly=yes "
        "-oUserKnownHostsFile=~/.ssh/headnode/known_hosts"
    )
    if gateways:
        expected = (f"{there} {common} -p 2222 -lroot", f"{own} {common} -l headnode")
    else:
        expected = (f"{own} {common} -p 2222", "-l headnode")
    assert (site.rollout.ssh_options, site.rollout.gateway_options) == expected
