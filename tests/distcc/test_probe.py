import pytest

from distcc.probe import Language, explain, languages_of, refuse_native
from distcc.pump import failure
from headnode.errors import BuildError

CHOST = "x86_64-pc-linux-gnu"
FLAGS = {"CFLAGS": "-O2 -pipe", "CXXFLAGS": "-O2 -pipe -std=c++17"}


def test_c_and_c_plus_plus_are_probed_with_the_flags_of_each_but_for_pipe() -> None:
    assert languages_of(["gcc", "g++", "cc", "c++"], CHOST, FLAGS) == [
        Language(name="C", compiler="gcc", flags=("-O2",)),
        Language(name="C++", compiler="g++", flags=("-O2", "-std=c++17")),
    ]


def test_a_compiler_with_the_chost_s_prefix_is_the_one_that_packages_call() -> None:
    found = languages_of(["gcc", f"{CHOST}-gcc"], CHOST, {})
    assert found == [Language(name="C", compiler=f"{CHOST}-gcc", flags=())]


def test_native_in_the_profile_s_flags_is_refused() -> None:
    languages = languages_of(["gcc"], CHOST, {"CFLAGS": "-O2 -march=native"})
    with pytest.raises(BuildError) as error:
        refuse_native(languages)
    assert str(error.value) == (
        "The flags for C have -march=native: every helper would compile for a CPU of its own. "
        "Name the oldest CPU of the class instead, in `cflags` of cluster.toml."
    )


def test_native_within_another_word_is_none() -> None:
    refuse_native(languages_of(["gcc"], CHOST, {"CFLAGS": "-DUSE=native-extensions"}))


RESET = (
    "distcc[31] (dcc_readx) ERROR: unexpected eof on fd5\ndistcc[31] ERROR: failed to distribute"
)
# As it came from distcc 3.4 and gcc 12: the one speaks while the other is at a line.
WITHIN = """\
 /usr/lib/gcc/x86_64-linux-gnu/12/cc1 -E -quiet -v -imultiarch probe.cdistcc[30019] \
(dcc_writex) ERROR: failed to write: Connection reset by peer
 -mtune=generic -march=x86-64 -O2 -fasynchronous-unwind-tables -dumpbase probe.c -dumpbase-ext .c
distcc[30019] (dcc_build_somewhere) ERROR: failed to distribute and fallbacks are disabled
"""


@pytest.mark.parametrize(
    ("errors", "trouble", "said"),
    [
        (RESET, "connection refused", "it does not answer at port 3632: connection refused"),
        (
            RESET,
            "",
            "it answers and takes no job: its distccd does not allow this headnode's address, or "
            "not this compiler",
        ),
        (
            WITHIN,
            "",
            "it answers and takes no job: its distccd does not allow this headnode's address, or "
            "not this compiler",
        ),
        (
            "cc1: error: bad value for -march\ndistcc[3] ERROR: compile probe.c on a/1 failed",
            "",
            "it made no object: cc1: error: bad value for -march",
        ),
        (
            "distcc[3] ERROR: compile probe.c on a/1 failed",
            "",
            "it made no object: compile probe.c on a/1 failed",
        ),
        ("", "", "it made no object: no reason given"),
    ],
)
def test_why_a_helper_made_no_object_is_said(errors: str, trouble: str, said: str) -> None:
    assert explain(errors, trouble, 3632) == said


SILENT = "distcc[9] (dcc_build_somewhere) Warning: failed to get includes from include server, "


@pytest.mark.parametrize(
    ("log", "code", "said", "why"),
    [
        ("distcc[9] compile probe.c on a/1,cpp,lzo completed ok", 0, "", ""),
        (
            f"{SILENT}preprocessing locally\n",
            0,
            "",
            "distcc did without it: failed to get includes from include server, "
            "preprocessing locally",
        ),
        ("distcc[9] ERROR: no such host", 1, "", "it failed: no such host"),
        (
            "",
            1,
            "Traceback\nSystemError: PY_SSIZE_T_CLEAN",
            "it failed: SystemError: PY_SSIZE_T_CLEAN",
        ),
    ],
)
def test_pump_counts_as_working_only_where_nothing_was_done_without_it(
    log: str, code: int, said: str, why: str
) -> None:
    assert failure(log, code, said) == why
