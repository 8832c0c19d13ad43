import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blades.transport import SSH_FAILED, Outcome, run_on
from config.model import Rollout
from headnode.errors import RolloutError

SSH = """#!/bin/sh
# The far side: an ssh that writes down how it was called, and then is each of these blades.
for word in "$@"; do printf '%s\\n' "$word"; done > "$CALLS/$$"
while [ $# -gt 2 ]; do
    case $1 in -o*) shift ;; *) echo "unexpected: $*" >&2; exit 99 ;; esac
done
case $1 in
    blade01) sh -c "$2" ;;
    blade02) echo "ssh: connect to host blade02 port 22: No route to host" >&2; exit 255 ;;
    *) echo "unexpected host: $1" >&2; exit 99 ;;
esac
"""


def blades(count: int) -> list[str]:
    return [f"blade{number:02}" for number in range(1, count + 1)]


def options(**more: object) -> Rollout:
    return Rollout.model_validate(
        {"transport": "exec", "exec_command": "BLADE=%h sh -c", "timeout_s": 20.0, **more}
    )


def ended(pid: str) -> bool:
    """Whether a process ends within seconds; a zombie has."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path("/proc", pid.strip(), "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def codes(outcomes: dict[str, Outcome]) -> dict[str, int | None]:
    return {name: outcome.code for name, outcome in sorted(outcomes.items())}


def test_every_blade_has_its_own_output_and_code() -> None:
    line = 'echo "I am $BLADE"; echo err >&2; case $BLADE in blade02) exit 3;; esac'
    outcomes = run_on(blades(3), line, options())
    assert codes(outcomes) == {"blade01": 0, "blade02": 3, "blade03": 0}
    assert {name: each.output for name, each in outcomes.items()} == {
        name: f"I am {name}\nerr" for name in blades(3)
    }
    assert all(each.blade == name for name, each in outcomes.items())


@pytest.mark.parametrize("line", ["echo 100% %h %n %% %rank", "echo 'a  b' \"c'd\" $((1+1)) '$X'"])
def test_a_line_is_run_as_it_is(line: str) -> None:
    here = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert run_on(["blade01"], line, options())["blade01"].output == here.stdout.rstrip("\n")


def test_never_more_than_the_fan_out_run_at_once(tmp_path: Path) -> None:
    line = f"cd {tmp_path}; : > $BLADE; ls | wc -l; sleep 0.1; rm $BLADE"
    outcomes = run_on(blades(12), line, options(fanout=3))
    seen = [int(each.output) for each in outcomes.values()]
    assert len(seen) == 12
    assert max(seen) == 3


def test_58_blades_take_no_longer_than_their_commands() -> None:
    started = time.monotonic()
    outcomes = run_on(blades(58), "sleep 0.05; echo $BLADE", options(fanout=16))
    assert time.monotonic() - started < 5
    assert {name: each.output for name, each in outcomes.items()} == {n: n for n in blades(58)}
    assert all(0.05 <= each.seconds < 5 for each in outcomes.values())


def test_a_blade_that_takes_too_long_is_ended_and_counted(tmp_path: Path) -> None:
    shown: list[Outcome] = []
    line = f"echo so far; case $BLADE in blade02) sleep 60 & echo $! > {tmp_path}/pid; wait;; esac"
    started = time.monotonic()
    outcomes = run_on(blades(3), line, options(timeout_s=0.5), shown.append)
    assert time.monotonic() - started < 5
    assert codes(outcomes) == {"blade01": 0, "blade02": None, "blade03": 0}
    assert outcomes["blade02"].output == "so far"
    assert 0.4 < outcomes["blade02"].seconds < 5
    assert ended((tmp_path / "pid").read_text())
    assert sorted(each.blade for each in shown) == blades(3)


def test_the_time_limit_is_each_blades_own_not_that_of_all() -> None:
    outcomes = run_on(blades(4), "sleep 0.4", options(timeout_s=1.0, fanout=1))
    assert list(codes(outcomes).values()) == [0] * 4


def test_a_command_that_a_signal_ends_has_the_shells_code_for_it() -> None:
    outcomes = run_on(["blade01"], "kill -TERM $$", options(exec_command="true %h; exec sh -c"))
    assert outcomes["blade01"].code == 128 + signal.SIGTERM


def test_a_command_that_cannot_be_started_is_an_outcome() -> None:
    outcome = run_on(["blade01"], "true", options(exec_command="/no/such/enter %h"))["blade01"]
    assert outcome.code == 127
    assert outcome.output.endswith("/no/such/enter: not found")


def test_output_that_is_no_text_is_an_outcome() -> None:
    line = r"printf 'a\377b\n'; head -c 300000 /dev/zero | tr '\0' x"
    assert run_on(["blade01"], line, options())["blade01"].output == "a\ufffdb\n" + "x" * 300000


def test_a_line_that_reads_input_finds_none() -> None:
    assert codes(run_on(blades(2), "cat", options())) == {"blade01": 0, "blade02": 0}


def test_no_blades_are_no_outcomes() -> None:
    assert run_on([], "true", options()) == {}


def test_outcomes_are_shown_as_they_come() -> None:
    shown: list[str] = []
    line = "case $BLADE in blade01) sleep 0.4;; esac"
    run_on(blades(3), line, options(), lambda outcome: shown.append(outcome.blade))
    assert shown[-1] == "blade01"
    assert sorted(shown) == blades(3)


def test_an_exec_command_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(RolloutError) as caught:
        run_on(blades(2), "true", options(exec_command="ssh -S ~/%r@%h %h"))
    assert str(caught.value) == (
        "exec_command 'ssh -S ~/%r@%h %h': 'r' is not a valid pattern, use '%%' to escape '%'."
    )


def test_an_error_while_an_outcome_is_shown_comes_out_and_ends_the_rest(tmp_path: Path) -> None:
    def refuse(outcome: Outcome) -> None:
        raise BrokenPipeError

    line = f"case $BLADE in blade01) exit;; esac; echo $$ > {tmp_path}/$BLADE; exec sleep 60"
    with pytest.raises(BrokenPipeError):
        run_on(blades(2), line, options(), refuse)
    assert codes(run_on(blades(2), "true", options())) == {"blade01": 0, "blade02": 0}
    assert all(ended(path.read_text()) for path in tmp_path.iterdir())


def test_many_runs_leave_no_threads_and_no_handles() -> None:
    run_on(blades(2), "true", options())
    before = (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
    for _ in range(5):
        run_on(blades(4), "true", options())
        run_on(blades(1), "sleep 60", options(timeout_s=0.05))
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before


def test_two_threads_run_apart() -> None:
    found: dict[str, dict[str, Outcome]] = {}
    threads = [
        threading.Thread(
            target=lambda name=name: found.update(
                {name: run_on(blades(4), f"echo {name}", options())}
            )
        )
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name in ("one", "two"):
        assert {each.output for each in found[name].values()} == {name}
        assert len(found[name]) == 4


def test_ctrl_c_aborts_and_ends_what_runs(tmp_path: Path) -> None:
    script = f"""
from blades.transport import run_on
from config.model import Rollout
way = Rollout(transport="exec", exec_command="BLADE=%h sh -c", fanout=2)
run_on(["blade01", "blade02", "blade03"], "echo $$ > {tmp_path}/$BLADE; exec sleep 60", way)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pids = [path.read_text().strip() for path in tmp_path.iterdir()]
        if len(pids) == 2 and all(pids):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1].endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT
    assert len(list(tmp_path.iterdir())) == 2  # the third never began
    assert all(ended(pid) for pid in pids)


def test_ssh_is_called_with_the_line_and_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bin", "calls"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "ssh"
    program.write_text(SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    line = "echo 'a  b' 100% %h; exit 5"
    outcomes = run_on(blades(2), line, Rollout())
    assert codes(outcomes) == {"blade01": 5, "blade02": SSH_FAILED}
    assert outcomes["blade01"].output == "a  b 100% %h"
    assert outcomes["blade02"].output == "ssh: connect to host blade02 port 22: No route to host"
    calls = sorted(path.read_text().splitlines()[-2:] for path in (tmp_path / "calls").iterdir())
    assert calls == [["blade01", line], ["blade02", line]]
    words = next((tmp_path / "calls").iterdir()).read_text().splitlines()
    assert words[:3] == ["-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=30"]
