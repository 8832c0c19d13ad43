"""What distcc's log comes to; the data is what distcc 3.4 of Debian 12 wrote of the same jobs."""

from pathlib import Path

import pytest

from distcc.account import Account, read_account
from distcc.crew import account

LOG = Path(__file__).parent.parent / "data/distcc/3.4/log.txt"
NOTHING = Account(jobs={}, failures={}, local=0, fallbacks=0, faulty=0)


def lines(*texts: str, pid: int = 7) -> list[str]:
    return [f"distcc[{pid}] {text}" for text in texts]


OK = "(dcc_exit) exit: code 0; self: 0.0 user 0.0 sys; children: 0.0 user 0.0 sys"
BAD = OK.replace("code 0", "code 1")


def test_a_captured_log_comes_to_what_was_done() -> None:
    assert read_account(LOG.read_text().splitlines()) == Account(
        jobs={"blade01": 3, "blade02": 2},
        failures={"blade03": 2},
        local=3,  # assembler, two sources at once, -march=native
        fallbacks=2,  # the one helper was down, and then was avoided
        faulty=1,
    )


def test_runs_that_write_at_the_same_time_are_told_apart_by_their_process_number() -> None:
    mixed = [
        *lines("exec on a/4: gcc -c x.c -o x.o", pid=1),
        *lines("exec on b/4: gcc -c y.c -o y.o", pid=2),
        *lines("compile x.c on a/4 completed ok", OK, pid=1),
        *lines("compile y.c on b/4 completed ok", OK, pid=2),
    ]
    assert read_account(mixed).jobs == {"a": 1, "b": 1}


def test_a_process_number_that_comes_again_is_another_run() -> None:
    once = lines("exec on a/4: gcc -c x.c", "compile x.c on a/4 completed ok", OK)
    assert read_account([*once, *once]).jobs == {"a": 2}


def test_a_run_that_was_killed_counts_for_nothing() -> None:
    assert read_account(lines("exec on a/4: gcc -c x.c")) == NOTHING


@pytest.mark.parametrize("spec", ["a/4", "a:3633/4", "a/4,cpp,lzo", "a:3633/4,lzo"])
def test_a_helper_is_known_by_its_name_alone(spec: str) -> None:
    done = lines(f"exec on {spec}: gcc -c x.c", f"compile x.c on {spec} completed ok", OK)
    assert read_account(done).jobs == {"a": 1}


def test_a_helper_that_refuses_what_the_headnode_compiles_has_failed() -> None:
    done = lines(
        "exec on a/4: gcc -c x.c",
        "ERROR: compile x.c on a/4 failed",
        "Warning: failed to distribute x.c to a/4, running locally instead",
        "exec on localhost: gcc -c x.c",
        "compile x.c on localhost completed ok",
        OK,
    )
    assert read_account(done) == Account(jobs={}, failures={"a": 1}, local=0, fallbacks=1, faulty=0)


def test_a_source_that_the_headnode_refuses_too_is_no_failure_of_the_helper() -> None:
    done = lines(
        "exec on a/4: gcc -c x.c",
        "ERROR: compile x.c on a/4 failed",
        "Warning: failed to distribute x.c to a/4, running locally instead",
        "exec on localhost: gcc -c x.c",
        "ERROR: compile x.c on localhost failed",
        BAD,
    )
    assert read_account(done) == Account(jobs={}, failures={}, local=0, fallbacks=0, faulty=1)


@pytest.mark.parametrize(
    "command",
    [
        *("gcc x.o -o x", "gcc -E x.c", "gcc --version"),
        *("gcc -c conftest.c", "gcc -c sub/conftest.cpp"),
        "gcc -Werror -m32 -c -x c /dev/null -o .tmp_7/tmp",
    ],
)
def test_links_preprocessing_and_tests_of_the_compiler_are_not_counted(command: str) -> None:
    done = lines(f"exec on localhost: {command}", "compile (null) on localhost completed ok", OK)
    assert read_account(done) == NOTHING


def test_what_pump_mode_did_without_the_include_server_is_counted() -> None:
    # As distcc-pump of Debian 12 does with every file, and says only here.
    done = lines(
        "compile from x.c to x.o",
        "(dcc_talk_to_include_server) Warning: include server gave up analyzing",
        "(dcc_build_somewhere) Warning: failed to get includes from include server, "
        "preprocessing locally",
        "exec on a/2,cpp,lzo: gcc -c x.c -o x.o",
        "compile x.c on a/2,cpp,lzo completed ok",
        OK,
    )
    assert read_account(done) == Account(
        jobs={"a": 1}, failures={}, local=0, fallbacks=0, faulty=0, unpumped=1
    )


def test_other_lines_and_no_lines_mean_nothing(tmp_path: Path) -> None:
    assert read_account(["", "gcc: warning", "distcc[x] compile"]) == NOTHING
    assert account(tmp_path) == NOTHING
