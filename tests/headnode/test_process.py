import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headnode.errors import CommandError, EnvironmentLacksError, ExitCode
from headnode.process import Completed, end_group, environment, last_lines, require, run


def sh(line: str, *words: str) -> list[str]:
    return ["sh", "-c", line, "sh", *words]


def running(pid: int) -> bool:
    """Whether a process runs, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not running(pid)


def test_a_run_tells_what_it_did() -> None:
    done = run(sh("echo out; echo err >&2"), timeout_s=10)
    assert (done.code, done.output, done.errors) == (0, "out\n", "err\n")
    assert done.argv == ("sh", "-c", "echo out; echo err >&2", "sh")
    assert 0 < done.seconds < 10


def test_words_are_handed_over_as_they_are() -> None:
    words = ["", "two words", "$HOME", "`id`", "*", "'", '"', "a;b", "é", "new\nline"]
    argv = [sys.executable, "-c", "import sys; print(sys.argv[1:])", *words]
    assert run(argv, timeout_s=10).output == f"{words}\n"


def test_locale_and_time_zone_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    done = run(sh('echo "$LC_ALL $TZ $MINE"'), timeout_s=10, env={"MINE": "yes"})
    assert done.output == "C.UTF-8 UTC yes\n"


def test_programs_of_sbin_are_found_with_the_path_of_cron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert environment()["PATH"] == "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    require("ip", "ldconfig")
    assert run(["ldconfig", "--version"], timeout_s=10).output.startswith("ldconfig ")


def test_a_command_has_no_standard_input() -> None:
    assert run(["cat"], timeout_s=10).output == ""


def test_output_that_is_no_text_is_kept_readable() -> None:
    assert run(sh(r"printf 'a\377b'"), timeout_s=10).output == r"a\xffb"


def test_a_failure_carries_the_code_and_the_last_twenty_lines() -> None:
    with pytest.raises(CommandError) as caught:
        run(sh("seq 30; echo why >&2; exit 7"), timeout_s=10, remedy="Do it by hand.")
    error = caught.value
    tail = "\n".join([*(str(number) for number in range(12, 31)), "why"])
    assert (error.code, error.tail, error.exit_code) == (7, tail, ExitCode.FAILED)
    assert str(error) == (
        f"sh -c seq 30; echo why >&2; exit 7 sh failed with exit code 7.\n{tail}\nDo it by hand."
    )


def test_a_failure_is_a_result_where_it_is_not_checked() -> None:
    assert run(sh("exit 7"), timeout_s=10, check=False).code == 7


def test_a_command_ended_by_a_signal_says_which() -> None:
    with pytest.raises(CommandError) as caught:
        run(sh("kill -KILL $$"), timeout_s=10)
    assert caught.value.code == -9
    assert str(caught.value) == "sh -c kill -KILL $$ sh was ended by signal 9."


def test_the_tail_keeps_output_and_errors_apart() -> None:
    done = Completed(argv=("x",), code=1, output="out", errors="err\n", seconds=0)
    assert done.tail == "out\nerr"
    assert Completed(argv=("x",), code=1, output="", errors="err\n", seconds=0).tail == "err"


def test_last_lines_drop_trailing_space() -> None:
    assert last_lines("a\nb\nc\n\n", 2) == "b\nc"
    assert last_lines("") == ""


@pytest.mark.parametrize("by_line", [False, True])
def test_the_time_limit_ends_the_whole_group_and_shows_what_was_said(
    tmp_path: Path, by_line: bool
) -> None:
    line = "echo so far; sleep 60 & echo $! > $1; wait"
    started = time.monotonic()
    with pytest.raises(CommandError) as caught:
        run(
            sh(line, str(tmp_path / "pid")),
            timeout_s=0.5,
            check=False,
            on_line=(lambda line: None) if by_line else None,
        )
    assert time.monotonic() - started < 5
    assert caught.value.argv == ("sh", "-c", line, "sh", str(tmp_path / "pid"))
    assert caught.value.tail == "so far\n(no end within 0.5 s)"
    assert ends_soon(int((tmp_path / "pid").read_text()))


def test_the_time_limit_ends_who_ignores_sigterm_beside_a_leader_that_heeds_it(
    tmp_path: Path,
) -> None:
    line = "(trap '' TERM; sh -c 'echo $PPID' > $1; while :; do sleep 1; done) & wait"
    with pytest.raises(CommandError):
        run(sh(line, str(tmp_path / "pid")), timeout_s=0.5)
    assert ends_soon(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("by_line", [False, True])
def test_the_time_limit_holds_though_a_daemon_keeps_the_pipe_open(
    tmp_path: Path, by_line: bool
) -> None:
    started = time.monotonic()
    with pytest.raises(CommandError):
        run(
            sh("setsid sh -c 'echo $$ > $1; exec sleep 60' sh $1 & exit 0", str(tmp_path / "pid")),
            timeout_s=0.5,
            on_line=(lambda line: None) if by_line else None,
        )
    assert time.monotonic() - started < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_leader_that_heeds_sigterm_has_its_grace(tmp_path: Path) -> None:
    line = "trap 'echo tidy > $1; exit' TERM; touch $1.ready; sleep 60 & wait"
    process = subprocess.Popen(sh(line, str(tmp_path / "said")), text=True, start_new_session=True)
    while not (tmp_path / "said.ready").exists():
        time.sleep(0.01)
    end_group(process)
    assert (tmp_path / "said").read_text() == "tidy\n"
    end_group(process)  # once more does no harm


def test_a_leader_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    process = subprocess.Popen(
        sh("trap '' TERM; echo ready; while :; do sleep 1; done"),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    end_group(process, grace_s=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    assert process.returncode == -signal.SIGKILL


def test_lines_are_handed_over_as_they_come() -> None:
    lines: list[tuple[str, float]] = []
    started = time.monotonic()
    done = run(
        sh("echo one; echo two >&2; sleep 0.5; printf three"),
        timeout_s=10,
        on_line=lambda line: lines.append((line, time.monotonic() - started)),
    )
    assert [line for line, _ in lines] == ["one", "two", "three"]
    assert lines[1][1] < 0.4 < lines[2][1]
    assert (done.output, done.errors) == ("one\ntwo\nthree", "")


def test_a_progress_line_that_rewrites_itself_is_handed_over_each_time() -> None:
    lines: list[str] = []
    run(sh(r"printf '10%%\r20%%\r'; echo done"), timeout_s=10, on_line=lines.append)
    assert lines == ["10%", "20%", "done"]


def test_an_error_in_on_line_ends_the_command(tmp_path: Path) -> None:
    def refuse(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="hello"):
        run(
            sh("echo $$ > $1; echo hello; exec sleep 60", str(tmp_path / "pid")),
            timeout_s=10,
            on_line=refuse,
        )
    assert ends_soon(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    script = (
        "import sys; from headnode.process import run; "
        "run(['sh', '-c', 'echo $$ > $1; exec sleep 60', 'sh', sys.argv[1]], timeout_s=60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "pid")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": os.pathsep.join(sys.path)}),
    )
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1].endswith("KeyboardInterrupt\n")
    assert ends_soon(int((tmp_path / "pid").read_text()))


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(EnvironmentLacksError) as caught:
        require("sh", "no-such-tool", "no-such-other")
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(caught.value) == (
        "Programs that this command runs are not installed. Install them and run it again:\n"
        "  - no-such-tool: a package of the same name\n"
        "  - no-such-other: a package of the same name"
    )
    with pytest.raises(EnvironmentLacksError) as caught:
        run(["no-such-tool"], timeout_s=10)
    assert caught.value.missing == ("no-such-tool: a package of the same name",)


def test_a_missing_tool_of_ours_is_named_with_both_distributions_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    with pytest.raises(EnvironmentLacksError) as caught:
        require("rsync", "ip")
    assert caught.value.missing == (
        "rsync: rsync (Debian), net-misc/rsync (Gentoo)",
        "ip: iproute2 (Debian), sys-apps/iproute2 (Gentoo)",
    )


def test_a_missing_folder_to_run_in_is_not_taken_for_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(["true"], timeout_s=10, cwd=tmp_path / "none")
