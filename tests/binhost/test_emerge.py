"""What emerge is asked, and what is read from what it prints: captured from Portage 3.0.83."""

from pathlib import Path

from binhost.builder import parse_variables
from binhost.emerge import (
    Failure,
    Kind,
    Step,
    build_argv,
    build_seconds,
    completed,
    explain_no_plan,
    lacking,
    parse_failures,
    parse_plan,
    plain,
    progress_line,
    unfetched,
    unknown_atom,
)

DATA = Path(__file__).parents[1] / "data/emerge/3.0.83"


def said(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def test_a_plan_is_read_in_order_with_the_build_ids_of_its_binaries() -> None:
    plan = parse_plan(said("plan"))
    assert [step.cpv for step in plan] == [
        "dev-libs/libblade-2.0",
        "app-admin/motd-blade-1.0",
        "app-admin/pwgen-0",
        "app-misc/colours-1.0",
        "app-misc/hello-0",
        "app-text/tree-0",
        "sys-apps/nodekeys-1.0",
        "app-misc/bladecount-1.0",
        "sys-apps/bladeinfo-1.0",
        "cluster-meta/blade-1.0",
    ]
    assert plan[0] == Step(kind=Kind.BINARY, cpv="dev-libs/libblade-2.0", repo="gentoo", build_id=1)
    assert plan[7].build_id == 2
    assert plan[4] == Step(kind=Kind.EBUILD, cpv="app-misc/hello-0", repo="gentoo")


def test_what_has_no_binary_yet_is_what_is_lacking() -> None:
    assert lacking(parse_plan(said("plan"))) == ["app-misc/hello-0"]


def test_a_failed_package_is_named_with_its_phase_and_its_own_log_between_lines_of_other_jobs() -> (
    None
):
    assert parse_failures(said("build_failed")) == [
        Failure(
            package="app-misc/broken-1",
            phase="compile",
            log="/var/log/portage/app-misc:broken-1:20261122-235724.log",
        )
    ]


def test_a_package_that_does_not_fetch_and_one_that_does_not_install_are_failures_too() -> None:
    assert parse_failures(said("build_unfetched")) == [
        Failure(
            package="app-misc/unfetched-1",
            phase="",
            log="/var/log/portage/app-misc:unfetched-1:20261122-235806.log",
        ),
        Failure(
            package="app-misc/postbad-1",
            phase="preinst",
            log="/var/log/portage/app-misc:postbad-1:20261122-235806.log",
        ),
    ]


def test_a_failure_without_a_log_does_not_take_the_next_ones() -> None:
    output = ">>> Failed to emerge a/first-1\n>>> Failed to emerge a/second-1, Log file:\n"
    output += ">>>  '/var/log/portage/a:second-1:20260101-000000.log'\n"
    assert [failure.log for failure in parse_failures(output)] == [
        "",
        "/var/log/portage/a:second-1:20260101-000000.log",
    ]


def test_a_good_build_has_no_failures() -> None:
    assert parse_failures(said("build_good")) == []


def test_progress_is_what_starts_ends_and_fails() -> None:
    lines = filter(None, map(progress_line, said("build_failed").splitlines()))
    assert list(lines) == [
        "Emerging (1 of 3) app-misc/broken-1::gentoo",
        "Emerging (2 of 3) app-misc/fine-1::gentoo",
        "Failed to emerge app-misc/broken-1",
        "Completed (2 of 3) app-misc/fine-1::gentoo",
    ]
    lines = filter(None, map(progress_line, said("build_failed").splitlines()))
    assert list(filter(None, map(completed, lines))) == [(2, 3)]


def test_the_log_of_a_failed_download_names_the_file() -> None:
    assert unfetched(said("log_unfetched")) == ("unfetched-1.tar.gz",)
    assert unfetched(said("log_failed")) == ()


def test_a_log_is_shown_without_its_colours() -> None:
    assert "\x1b" in said("log_failed")
    assert " * ERROR: app-misc/broken-1::gentoo failed (compile phase):\n" in plain(
        said("log_failed")
    )


def test_an_atom_without_an_ebuild_is_named_with_what_needs_it() -> None:
    assert unknown_atom(said("unknown_atom")) == ("app-misc/nada", "@blade")
    assert unknown_atom(said("masked")) is None


def test_a_set_that_cannot_be_resolved_is_explained_in_emerges_words_only() -> None:
    assert explain_no_plan(said("masked")).splitlines() == [
        '!!! All ebuilds that could satisfy "app-misc/colours" have been masked.',
        "!!! One of the following masked packages is required to complete your request:",
        "- app-misc/colours-1.0::gentoo (masked by: package.mask)",
        "/etc/portage/package.mask/headnode:",
        "# Written by headnode from cluster.toml: changes here are lost. See docs/options.md.",
        '(dependency required by "cluster-meta/blade-1.0::gentoo" [binary])',
        '(dependency required by "@blade" [argument])',
    ]


def test_a_build_names_each_package_exactly() -> None:
    argv = build_argv(["app-misc/hello-2.10", "app-text/tree-0"], jobs=3)
    assert argv[0] == "emerge"
    assert {"--jobs=3", "--keep-going", "--oneshot", "--binpkg-respect-use=y"} <= set(argv)
    assert argv[-2:] == ["=app-misc/hello-2.10", "=app-text/tree-0"]


def test_variables_are_those_that_have_a_value() -> None:
    names = ("USE", "NOPE", "CONFIG_PROTECT")
    assert parse_variables(said("portageq_envvar"), names) == {
        "USE": "amd64",
        "CONFIG_PROTECT": "/etc",
    }


def test_a_variable_of_several_lines_becomes_one_line_of_the_index() -> None:
    assert parse_variables("USE='a\n b\t c'\nX=1\n", ("USE",)) == {"USE": "a b c"}


def test_how_long_builds_took_is_read_from_emerge_s_own_log_but_for_those_that_failed() -> None:
    assert build_seconds(said("emerge-log")) == {
        "sys-apps/nodekeys-1.0": 4.0,
        "sys-kernel/headnode-old-2.4.99-r2": 7.0,
        "sys-kernel/headnode-old-2.4.99-r3": 6.0,
    }
