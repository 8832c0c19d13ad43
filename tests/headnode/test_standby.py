"""Short commands run in a copy of the process on standby just as they do by themselves."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.load import load
from headnode import standby
from headnode.cli import COMMANDS
from headnode.handover import SHORT, SOCKET, hand_over
from headnode.keeper import Keeper
from headnode.standby import Standby, listen
from schedules.site import Site

PATIENCE_S = 60.0
CONFIG = """\
[state]
path = "state"
reserve_mib = 0

[signing]
mode = "off"

[classes.blade]
packages = ["app-misc/a"]
rings = { canary = "blade01", fleet = "blade02" }
"""
NOTHING_BUILT = "headnode: Nothing was built yet. Run headnode build first.\n"
# The program, which then says whether it was itself that ran the command.
PROGRAM = """\
import sys
from headnode import handover
from headnode.quick import main
handover.ANSWER_S = 60  # however slow we are
try:
    main()
finally:
    print("click" in sys.modules, file=open(sys.argv[0], "w"))
"""


OURS = (*standby.OURS, "portage")
LATE = "headnode serve ended while this process started: the next one has its own"


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration, and nothing built."""
    (tmp_path / "cluster.toml").write_text(CONFIG)
    (tmp_path / "state").mkdir()
    return tmp_path


@contextmanager
def standing_by(folder: Path, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process on standby for the state in `folder`; it runs the lines `before` first."""
    code = f"import sys\nfrom headnode import cli, standby\n{before}\nstandby.main()"
    argv = [sys.executable, "-c", code, str(folder / "state")]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until((folder / "state" / SOCKET).exists, "it stands by")
            yield process
        finally:
            process.kill()


class Program:
    """The program `headnode`, as it is typed in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._said = folder / "imported"

    def argv(self, *arguments: str) -> list[str]:
        code = PROGRAM.replace("sys.argv[0]", repr(str(self._said)))
        return [sys.executable, "-c", code, *arguments]

    def run(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments),
            cwd=cwd or self.folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    @property
    def handed_over(self) -> bool:
        """Whether the last command was run by the process on standby."""
        return self._said.read_text() == "False\n"


@pytest.fixture
def program(folder: Path) -> Program:
    return Program(folder)


def test_all_that_is_handed_over_is_a_command() -> None:
    assert set(SHORT) < set(COMMANDS)


def test_it_says_the_same_with_the_same_exit_code(folder: Path, program: Program) -> None:
    lines = [
        ["publish"],
        ["publish", "--ring", "nowhere"],
        ["generations", "list"],
        ["generations", "show", "--help"],
        ["status", "--json", "--nonsense"],
    ]
    alone = [program.run(*line) for line in lines]
    assert not program.handed_over
    with standing_by(folder):
        for line, by_itself in zip(lines, alone, strict=True):
            done = program.run(*line)
            assert program.handed_over
            assert (done.returncode, done.stdout, done.stderr) == (
                *(by_itself.returncode, by_itself.stdout, by_itself.stderr),
            )
    assert [each.returncode for each in alone] == [1, 2, 0, 0, 2]
    assert alone[0].stderr == NOTHING_BUILT


def test_it_works_in_the_folder_and_environment_of_whoever_typed_it(
    folder: Path, program: Program
) -> None:
    other = folder / "elsewhere"
    other.mkdir()
    with standing_by(folder):
        assert program.run("publish", cwd=other).stderr.startswith("headnode: There is no conf")
        assert not program.handed_over
        for arguments, env in [
            (["--config", "../cluster.toml", "publish"], {}),
            (["publish"], {"HEADNODE_CONFIG": "../cluster.toml"}),
        ]:
            done = program.run(*arguments, cwd=other, env=env)
            assert (program.handed_over, done.stderr) == (True, NOTHING_BUILT)


def test_it_has_the_terminal_of_whoever_typed_it(folder: Path, program: Program) -> None:
    def typed(*arguments: str) -> bytes:
        main, terminal = pty.openpty()
        with subprocess.Popen(
            program.argv(*arguments),
            cwd=folder,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
        ):
            os.close(terminal)
            said = b""
            while chunk := _read(main):
                said += chunk
        os.close(main)
        return said

    alone = [typed("publish"), typed("generations", "list")]
    assert b"\x1b[31mheadnode: Nothing was built yet." in alone[0]
    assert b"\x1b[1m" in alone[1]
    with standing_by(folder):
        assert [typed("publish"), typed("generations", "list")] == alone
        assert program.handed_over


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # all that had it open have closed it
        return b""


TELLING = """
import os, time
def run(arguments):
    print(os.getpid(), os.getcwd(), os.environ.get("TOLD"), oct(os.umask(0)), sys.argv, arguments)
    return 7
cli.run = run
"""


def test_it_is_what_a_program_of_its_own_would_be(folder: Path, program: Program) -> None:
    with standing_by(folder, TELLING) as process:
        pids = set()
        for mask in (0o022, 0o077):
            before = os.umask(mask)
            done = program.run("status", "--json", env={"TOLD": "a\nb"})
            os.umask(before)
            pid, said = done.stdout.split(" ", 1)
            assert said == f"{folder} a\nb {oct(mask)} ['headnode', 'status', '--json'] " + (
                "['status', '--json']\n"
            )
            assert done.returncode == 7
            pids.add(int(pid))
        assert len(pids | {process.pid}) == 3


SLOW = """
import time
def run(arguments):
    try:
        print("begun", flush=True)
        time.sleep(600 if arguments[1:] == ["--json"] else 1)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 130
    print("done", flush=True)
    return 0
cli.run = run
"""


@contextmanager
def begun(program: Program, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A slow command that was handed over and has begun."""
    argv = program.argv("status", *arguments)
    with subprocess.Popen(
        argv, cwd=program.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [(signal.SIGINT, "stopped\n", 130), (signal.SIGTERM, "", 143), (signal.SIGHUP, "", 129)],
)
def test_signals_reach_it(
    folder: Path, program: Program, number: signal.Signals, said: str, code: int
) -> None:
    with standing_by(folder, SLOW), begun(program, "--json") as typed:
        typed.send_signal(number)
        assert (typed.communicate(timeout=PATIENCE_S), typed.returncode) == ((said, ""), code)


def test_it_ends_when_whoever_typed_it_is_killed(folder: Path, program: Program) -> None:
    with standing_by(folder, SLOW), begun(program, "--json") as typed:
        typed.kill()
        assert typed.stdout is not None
        assert typed.stdout.read() == ""  # until all that could write there have ended


def test_commands_run_side_by_side(folder: Path, program: Program) -> None:
    with (
        standing_by(folder, SLOW),
        begun(program) as one,
        begun(program) as two,
        begun(program, "--json"),
    ):
        for each in (one, two):
            assert each.communicate(timeout=PATIENCE_S) == ("done\n", "")
            assert each.returncode == 0


def test_without_its_leash_it_ends_after_what_it_has(folder: Path, program: Program) -> None:
    with standing_by(folder, SLOW) as process, begun(program) as typed:
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: refuses(folder), "it takes nothing more")
        assert (typed.communicate(timeout=PATIENCE_S), typed.returncode) == (("done\n", ""), 0)
        assert process.wait(PATIENCE_S) == 0
        assert program.run("publish").stderr == NOTHING_BUILT
        assert not program.handed_over


def test_one_that_lost_its_leash_as_it_started_leaves_the_next_ones_socket_alone(
    folder: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as next_one:
        at = folder / "state" / SOCKET
        next_one.bind(str(at))
        was = at.stat().st_ino
        late = subprocess.run(
            [sys.executable, "-m", "headnode.standby", str(at.parent)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (late.returncode, late.stderr) == (1, f"{LATE}\n")
        assert at.stat().st_ino == was


def refuses(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        try:
            link.connect(str(folder / "state" / SOCKET))
        except ConnectionRefusedError:
            return True
    return False


def test_what_it_had_when_it_was_killed_goes_on_and_says_that_nobody_knows(
    folder: Path, program: Program
) -> None:
    with standing_by(folder, SLOW) as process, begun(program) as typed:
        process.kill()
        said, wrong = typed.communicate(timeout=PATIENCE_S)
    assert said == "done\n"
    assert wrong == (
        "headnode: Nobody knows what came of it: the process that headnode serve had for it was "
        "killed. What was served still is; run the command again.\n"
    )
    assert typed.returncode == 1


def test_it_can_be_stopped_when_the_process_on_standby_is_gone(
    folder: Path, program: Program
) -> None:
    with standing_by(folder, SLOW) as process, begun(program, "--json") as typed:
        process.kill()
        process.wait()
        typed.send_signal(signal.SIGINT)
        assert typed.communicate(timeout=PATIENCE_S)[0] == "stopped\n"


def test_a_keeper_that_ends_leaves_commands_and_their_signals_alone(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, site = Keeper(), Site(cluster=load(folder / "cluster.toml"))
    argv = [sys.executable, "-c", f"from headnode import cli, standby\n{SLOW}\nstandby.main()"]
    real = subprocess.Popen

    def slow(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([*argv, words[-1]], **options)

    monkeypatch.setattr("headnode.keeper.FIRST_S", 0.0)
    monkeypatch.setattr("headnode.keeper.STOP_S", 0.1)
    monkeypatch.setattr("headnode.keeper.subprocess.Popen", slow)
    keeper._due_s = 0.0
    keeper.watch(site)
    monkeypatch.undo()
    until((folder / "state" / SOCKET).exists, "it stands by")
    monkeypatch.setattr("headnode.keeper.STOP_S", 0.1)
    with begun(program, "--json") as typed:
        keeper.stop()
        typed.send_signal(signal.SIGINT)
        assert (typed.communicate(timeout=PATIENCE_S), typed.returncode) == (("stopped\n", ""), 130)


def test_it_gives_way_to_a_changed_program(folder: Path, program: Program, tmp_path: Path) -> None:
    module = tmp_path / "part_of_it.py"
    module.write_text("")
    before = (
        f"sys.path.append({str(tmp_path)!r})\nimport part_of_it\nstandby.OURS += ('part_of_it',)"
        "\nstandby.SLACK_NS = -10**12"  # that file is new
    )
    with standing_by(folder, before) as process:
        program.run("publish")
        assert program.handed_over
        module.write_text("changed = True")
        assert program.run("publish").stderr == NOTHING_BUILT
        assert not program.handed_over
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("prefix", "env"),
    [
        ((), {"PYTHONPYCACHEPREFIX": "/elsewhere"}),
        ((), {"PORTAGE_CONFIGROOT": "/elsewhere"}),
        (("unshare", "--uts"), {}),
        (("unshare", "--net"), {}),
        (("setpriv", "--groups", "5555"), {}),
    ],
)
def test_it_refuses_who_sees_another_machine(
    folder: Path, program: Program, prefix: tuple[str, ...], env: dict[str, str]
) -> None:
    with standing_by(folder):
        done = subprocess.run(
            [*prefix, *program.argv("publish")],
            cwd=folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert (done.returncode, done.stderr, program.handed_over) == (1, NOTHING_BUILT, False)


def test_another_user_cannot_use_it(folder: Path) -> None:
    """Not even where the socket's mode lets them connect."""
    leash, held = os.pipe()
    listener = listen(str(folder / "state"))
    path = folder / "state" / SOCKET
    assert path.stat().st_mode & 0o777 == 0o600
    code = (
        "import socket, sys\n"
        "link = socket.socket(fileno=int(sys.argv[1]))\n"
        "link.connect(sys.argv[2])\n"
        "print(link.recv(9))"
    )
    path.chmod(0o666)
    short = Path(f"/tmp/{SOCKET}.{os.getpid()}")
    path.rename(short)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with subprocess.Popen(
            ["/usr/bin/python3", "-c", code, str(link.fileno()), str(short)],
            user=65534,
            pass_fds=[link.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            taker = Standby(listener, leash, standby.code_now())
            os.set_blocking(listener.fileno(), True)
            taker._accept()
            link.close()
            assert other.communicate(timeout=PATIENCE_S)[0] == "b''\n"
    finally:
        short.unlink()
        os.close(held)
        os.close(leash)


def test_half_a_word_harms_nobody(folder: Path, program: Program) -> None:
    with standing_by(folder) as process:
        open_files = Path(f"/proc/{process.pid}/fd")
        before = len(list(open_files.iterdir()))
        for said in (None, b"", b"{", b"[]", b"{}"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
                link.connect(str(folder / "state" / SOCKET))
                if said is not None:
                    socket.send_fds(link, [said], [0, 1, 2])
                    link.settimeout(PATIENCE_S)
                    assert link.recv(9) == b"refused"
        assert process.poll() is None
        until(lambda: len(list(open_files.iterdir())) == before, "its files are closed")
        program.run("publish")
        assert program.handed_over


def test_there_is_always_one_while_headnode_serves(folder: Path, program: Program) -> None:
    site = Site(cluster=load(folder / "cluster.toml"))
    keeper = Keeper()
    seen = list[int]()

    def another() -> bool:
        keeper.watch(site)
        process = keeper._process
        program.run("publish")
        if process is not None and program.handed_over and process.pid not in seen:
            seen.append(process.pid)
            process.kill()
        return len(seen) > 1

    until(another, "another one stands by")
    keeper.stop()
    assert not (folder / "state" / SOCKET).exists()
    assert program.run("publish").stderr == NOTHING_BUILT
    assert not program.handed_over


def test_it_stands_by_with_all_that_a_short_command_imports() -> None:
    """Else each of its copies would import that anew."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from binhost.entry import reduced\nfrom headnode import cli, standby\n"
        "standby._get_ready()\nbefore = set(sys.modules)\n"
        "cli.run(['publish', '--ring', 'nowhere'])\nreduced(Path('a'), {'RDEPEND': 'a/b[c]'})\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True
    )
    new = [each for each in done.stdout.split() if each.partition(".")[0] in OURS]
    assert new == []


def test_a_configuration_that_comes_through_a_pipe_is_read_by_the_program(
    folder: Path, program: Program
) -> None:
    text = CONFIG.replace('"state"', f'"{folder}/state"')
    with standing_by(folder):
        done = subprocess.run(
            program.argv("--config", "/dev/stdin", "publish"),
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert (done.stderr, program.handed_over) == (NOTHING_BUILT, False)


def test_what_never_ends_is_not_handed_over() -> None:
    assert hand_over(["status", "--watch"]) is None


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_file_stays_closed(folder: Path, program: Program, closed: str) -> None:
    line = " ".join([*map(shlex.quote, program.argv("generations", "show", "9")), closed])
    with standing_by(folder) as process:
        done = subprocess.run(["sh", "-c", line], cwd=folder, timeout=PATIENCE_S)
        assert (done.returncode, program.handed_over) == (1, False)
        assert process.poll() is None


def test_output_that_cannot_be_written_is_a_failure(folder: Path, program: Program) -> None:
    with standing_by(folder), Path("/dev/full").open("w") as full:
        done = subprocess.run(
            program.argv("generations", "list", "--json"),
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )
        assert program.handed_over
    assert done.returncode
    assert "No space left on device" in done.stderr


def test_nobody_elses_process_is_given_anything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have our environment, and our files."""
    monkeypatch.chdir(folder)
    listener = listen("state")
    listener.settimeout(PATIENCE_S)
    monkeypatch.setattr("headnode.handover.user_of", lambda link: os.geteuid() + 1)
    assert hand_over(["status"]) is None
    link, _ = listener.accept()
    assert link.recv(9) == b""


def test_a_program_that_changes_while_it_starts_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    assert standby.started_ns() < now
    monkeypatch.setattr(standby, "code_now", lambda: {"a": (1, 2, now), "b": (3, 4, 5)})
    assert standby.code_of(now - 10**9) is None
    assert standby.code_of(now + 2 * 10**9) == standby.code_now()


def test_no_terminal_is_known_before_there_is_a_command() -> None:
    code = (
        "from headnode import console, standby\nstandby._get_ready()\n"
        "print(console._console.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_output_is_unbuffered_where_that_is_asked_for(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = (
        "def run(arguments):\n    print(sys.stdout.write_through)\n    return 0\ncli.run = run"
    )
    for asked in ("", "1"):
        monkeypatch.setenv("PYTHONUNBUFFERED", asked)
        with standing_by(folder, telling):
            assert program.run("status").stdout == f"{bool(asked)}\n"
            assert program.handed_over
        (folder / "state" / SOCKET).unlink()


def test_what_lies_in_the_folder_of_serve_is_no_part_of_it(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "secrets.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(folder)
    keeper = Keeper()
    keeper._due_s = 0.0
    keeper.watch(Site(cluster=load(folder / "cluster.toml")))
    until((folder / "state" / SOCKET).exists, "it stands by")
    keeper.stop()
