import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from config.load import atoms_of, find, from_values, load
from config.model import Class, Cluster
from headnode.errors import ConfigError, ExitCode

NATIVE = (
    "means the CPU that happens to compile: such binaries trap on another, and distcc helpers "
    "would each compile something else; name the oldest CPU of the class instead, as in "
    "-march=x86-64-v2."
)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """What load says about a file with this text, which is called cluster.toml in it."""
    monkeypatch.chdir(tmp_path)

    def error_of(text: str) -> str:
        path = Path("cluster.toml")
        path.write_text(textwrap.dedent(text))
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.path == path
        assert caught.value.exit_code is ExitCode.USAGE
        return str(caught.value)

    return error_of


Refused = Callable[[str], str]


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("")
    assert load(path) == Cluster()


def test_an_unknown_key_is_refused_with_the_nearest_one(refused: Refused) -> None:
    assert refused("[rollout]\ntransport = 'ssh'\nfan_out = 4\n") == (
        "cluster.toml:3: rollout.fan_out: unknown key. Did you mean `fanout`?"
    )


def test_an_error_carries_its_place_and_remedy_as_fields(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("\n\n[rollout]\nfan_out = 4\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    error = caught.value
    assert (error.path, error.line, error.remedy) == (path, 4, "Did you mean `fanout`?")


def test_an_unknown_key_of_another_table_is_sent_there(refused: Refused) -> None:
    assert refused("[serve]\ncflags = '-O2'\n") == (
        "cluster.toml:2: serve.cflags: unknown key. It belongs in [classes.<name>]."
    )


def test_an_unknown_key_that_is_near_none_is_refused_with_those_that_are_known(
    refused: Refused,
) -> None:
    assert refused("[build]\nzzz = 1\n") == (
        "cluster.toml:2: build.zzz: unknown key. Known here: jobs, root, timeout_s."
    )


def test_an_unknown_table_is_refused_with_the_nearest_one(refused: Refused) -> None:
    assert refused("\n[[class]]\nblade = 1\n") == (
        "cluster.toml:2: class: unknown key. Did you mean `classes`?"
    )


def test_an_unknown_key_in_an_inline_table_is_found(refused: Refused) -> None:
    text = "classes.blade = { rings = { all = 'n[1-3]' }, 'c flags' = '' }\n"
    assert refused(text) == (
        'cluster.toml:1: classes.blade."c flags": unknown key. Did you mean `cflags`?'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[serve]\nhttp_port = "8080"',
            'cluster.toml:2: serve.http_port: expected a whole number, found "8080".',
        ),
        (
            "[serve]\nhttp_port = true",
            "cluster.toml:2: serve.http_port: expected a whole number, found true.",
        ),
        (
            "[serve]\nhttp_port = 0",
            "cluster.toml:2: serve.http_port: expected greater than or equal to 1, found 0.",
        ),
        ("serve = 3", "cluster.toml:1: serve: expected a table, found 3."),
        (
            "[classes]\nblade = []",
            "cluster.toml:2: classes.blade: expected a table, found an array.",
        ),
        (
            "[classes.blade]\npackages = 'app-misc/hello'",
            'cluster.toml:2: classes.blade.packages: expected an array, found "app-misc/hello".',
        ),
        (
            "[classes.blade]\nuse = 1979-05-27",
            "cluster.toml:2: classes.blade.use: expected text, found 1979-05-27.",
        ),
        (
            "[classes.blade]\nworld = 1",
            "cluster.toml:2: classes.blade.world: expected a path (text), found 1.",
        ),
        (
            "[rollout]\ntimeout_s = inf",
            "cluster.toml:2: rollout.timeout_s: expected a finite number, found inf.",
        ),
        (
            "[rollout]\ntransport = 'telnet'",
            "cluster.toml:2: rollout.transport: expected 'ssh' or 'exec', found \"telnet\".",
        ),
        (
            "[rollout]\n\ntransport = 'exec'",
            "cluster.toml:1: rollout.exec_command: "
            "transport `exec` needs an exec_command with %h in it.",
        ),
        (
            "[rollout]\ntransport = 'exec'\nexec_command = 'enter %h'\ngateways = 'gate1'",
            "cluster.toml:4: rollout.gateways: "
            "gateways are for transport `ssh`: an exec_command finds its own way.",
        ),
        (
            "[classes.blade.rings]\ncanary = 'b[1-9]'\n[rollout]\ngateways = 'b[8-12]'",
            "cluster.toml:4: rollout.gateways: "
            "b[8-9] is a blade: its pull would replace what other pulls go through.",
        ),
        (
            "[rollout]\ngateways = 'gate[1-'",
            'cluster.toml:2: rollout.gateways: not a node set: missing bracket: "gate[1-".',
        ),
        (
            "[serve]\nhost = 'http://headnode/'",
            "cluster.toml:2: serve.host: 'http://headnode/' is not a host name or address alone, "
            "without scheme or path.",
        ),
        (
            "[serve]\nhost = 'head..node'",
            "cluster.toml:2: serve.host: 'head..node' is no host name: between its dots are 1 "
            "to 63 characters.",
        ),
        (
            "[mirror.distfiles]\nupstreams = [\n'https://a.example',\n'ftp://b.example']",
            "cluster.toml:4: mirror.distfiles.upstreams[1]: "
            "'ftp://b.example' is not an http:// or https:// address.",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_found(
    refused: Refused, text: str, message: str
) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    ("line", "option", "flag"),
    [
        ("cflags = '-O2 -march=native -pipe'", "cflags", "-march=native"),
        ("cflags = '-O2 -mtune=native'", "cflags", "-mtune=native"),
        ("cxxflags = '${CFLAGS} -mcpu=native+crypto'", "cxxflags", "-mcpu=native+crypto"),
        ("ldflags = '-Wl,-O1 -march=native'", "ldflags", "-march=native"),
        (
            "make_conf.RUSTFLAGS = '-C target-cpu=native'",
            "make_conf.RUSTFLAGS",
            "target-cpu=native",
        ),
        ("make_conf = { A = '', MARCH = 'native' }", "make_conf.MARCH", "native"),
    ],
)
def test_native_is_refused_in_every_flag(
    refused: Refused, line: str, option: str, flag: str
) -> None:
    assert refused(f"[classes.blade]\nuse = ''\n{line}\n") == (
        f"cluster.toml:3: classes.blade.{option}: {flag} {NATIVE}"
    )


def test_use_flags_with_native_in_their_name_are_no_compiler_flags() -> None:
    variables = {"USE": "native-extensions -native-symlinks"}
    cluster = from_values({"classes": {"blade": {"make_conf": variables}}})
    assert cluster.classes["blade"].make_conf == variables


def test_a_node_in_two_rings_is_refused_on_the_second_rings_line(refused: Refused) -> None:
    text = "[classes.blade.rings]\ncanary = 'blade[01-02]'\n\nfleet = 'blade[02-58]'\n"
    assert refused(text) == (
        "cluster.toml:4: classes.blade.rings.fleet: blade02 is in two rings, canary and fleet."
    )


def test_a_node_in_two_classes_is_refused_on_the_second_classs_line(refused: Refused) -> None:
    text = """\
        [classes.blade.rings]
        all = 'blade[01-02]'
        [classes.store.rings]
        one = 'store1'
        two = 'blade02'
    """
    assert refused(text) == (
        "cluster.toml:5: classes.store.rings.two: blade02 is in two classes, blade and store."
    )


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        ("all = 'blade[01-'", 'all: not a node set: missing bracket: "blade[01-".'),
        ("all = ''", "all: an empty node set."),
        ("pool = 'blade1'", "pool: 'pool' is no ring's name: its address is taken."),
        (
            '"a b" = "blade1"',
            "\"a b\": a name has letters, digits, '.', '_' and '-', and starts with a letter or "
            "digit.",
        ),
    ],
)
def test_a_bad_ring_is_refused(refused: Refused, ring: str, message: str) -> None:
    assert refused(f"[classes.blade]\n[classes.blade.rings]\n{ring}\n") == (
        f"cluster.toml:3: classes.blade.rings.{message}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[mirror.repos]",
            "cluster.toml:1: mirror.repos: at least one repository is needed: "
            "profiles come from the first.",
        ),
        (
            "[mirror.repos.gentoo]\nstall_s = 3",
            "cluster.toml:1: mirror.repos.gentoo.upstreams: needs at least one address, or `path`.",
        ),
        (
            "[mirror.repos.gentoo]\nupstreams = []",
            "cluster.toml:2: mirror.repos.gentoo.upstreams: needs at least one address, or `path`.",
        ),
        (
            "[mirror.repos.gentoo]\nupstreams = [\n'https://a/b']",
            "cluster.toml:3: mirror.repos.gentoo.upstreams[0]: "
            "'https://a/b' is not rsync://host/module nor git+https://host/path "
            "(git+ssh, git+file too).",
        ),
        (
            "[mirror.repos.gentoo]\nupstreams = ['rsync://a/b']\npath = '/x'",
            "cluster.toml:3: mirror.repos.gentoo.path: "
            "a repository has either upstreams or a path.",
        ),
        (
            "[mirror.repos.gentoo]\nupstreams = ['rsync://a/b', 'git+https://a/b']",
            "cluster.toml:2: mirror.repos.gentoo.upstreams: "
            "upstreams are either all rsync or all git.",
        ),
        ("classes = {}", "cluster.toml:1: classes: at least one class is needed."),
        (
            "[classes.blade.rings]",
            "cluster.toml:1: classes.blade.rings: a class needs at least one ring.",
        ),
    ],
)
def test_tables_that_leave_nothing_to_work_with_are_refused(
    refused: Refused, text: str, message: str
) -> None:
    assert refused(text) == message


def test_a_make_conf_value_that_would_end_its_quotes_is_refused(refused: Refused) -> None:
    assert refused("[classes.blade]\nuse = '\" FEATURES=\"'\n") == (
        "cluster.toml:2: classes.blade.use: "
        "a make.conf value has no quotation mark or backslash, and is one line."
    )


def test_all_problems_of_a_file_are_said_at_once_in_its_order(refused: Refused) -> None:
    text = """\
        [classes.blade]
        cflags = "-march=native"
        packages = [
          "app-misc/hello",
          "hello",
        ]
        [rollout]
        fan_out = 3
        [serve]
        http_port = 70000
    """
    assert refused(text) == (
        f"cluster.toml:2: classes.blade.cflags: -march=native {NATIVE}\n"
        "cluster.toml:5: classes.blade.packages[1]: "
        "'hello' is not a package atom (category/name, or with an operator and a version, as in "
        "=category/name-1.2) nor a set (@name).\n"
        "cluster.toml:8: rollout.fan_out: unknown key. Did you mean `fanout`?\n"
        "cluster.toml:10: serve.http_port: expected less than or equal to 65535, found 70000."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[serve]\nhost headnode\n",
            "cluster.toml:2: not TOML: expected '=' after a key in a key/value pair (column 6).",
        ),
        (
            "[serve]\nhost = 'a\n",
            'cluster.toml:2: not TOML: expected "\'" before the end of the file.',
        ),
        ("a = [1,\n2", "cluster.toml:2: not TOML: unclosed array before the end of the file."),
        (
            "[serve]\n[serve]\n",
            "cluster.toml:2: not TOML: cannot declare ('serve',) twice (column 7).",
        ),
        (f"a = {'[' * 9999}", "cluster.toml:1: not TOML: nested too deeply."),
    ],
)
def test_a_syntax_error_is_said_with_its_line(refused: Refused, text: str, message: str) -> None:
    assert refused(text) == message


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: there is no such file. Run `headnode init` to write one."
    )


def test_a_folder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory."


def test_a_file_that_may_not_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ConfigError) as caught:
            load(path)
    finally:
        os.seteuid(user)
    assert str(caught.value) == f"{path}: cannot be read: Permission denied."


def test_a_file_that_is_not_utf_8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"[serve]\nhost = 'caf\xe9'\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2: is not UTF-8 text: byte 0xe9. Save it as UTF-8."


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"\xef\xbb\xbf[serve]\nhost = 'a'\n")
    assert load(path).serve.host == "a"


def test_the_named_file_comes_before_the_default_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.touch()
    assert find(Path("named"), [first, second]) == Path("named")
    assert find(None, [first, second]) == second
    first.touch()
    assert find(None, [first, second]) == first


def test_a_file_that_may_not_be_looked_at_is_found_so_that_reading_it_says_why(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o600)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        assert find(None, [folder / "cluster.toml"]) == folder / "cluster.toml"
    finally:
        os.seteuid(user)


def test_no_file_at_all_ends_in_how_to_write_one() -> None:
    with pytest.raises(ConfigError) as caught:
        find(None, [Path("missing/a"), Path("missing/b")])
    assert str(caught.value) == (
        "There is no configuration: neither missing/a nor missing/b. "
        "Run `headnode init` to write one, or name one with --config."
    )


def test_relative_paths_are_relative_to_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("etc").mkdir()
    path = Path("etc/cluster.toml")
    path.write_text("state.path = 'state'\nbuild.root = '/stage3'\nclasses.blade.world = 'w'\n")
    cluster = load(path)
    assert cluster.state.path == tmp_path / "etc" / "state"
    assert cluster.build.root == Path("/stage3")
    assert cluster.classes["blade"].world == tmp_path / "etc" / "w"


def test_the_set_is_the_packages_and_then_the_world_file_each_once(tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.write_text("# golden node\n\napp-misc/hello # said twice\n  dev-lang/python:3.12  \n")
    cls = Class(packages=("sys-apps/sed", "app-misc/hello"), world=world)
    assert atoms_of(cls) == ("sys-apps/sed", "app-misc/hello", "dev-lang/python:3.12")


def test_bad_lines_of_a_world_file_are_said_with_file_and_line(tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.write_text("app-misc/hello\nhello\n\nsys-apps/sed and more\n")
    with pytest.raises(ConfigError) as caught:
        atoms_of(Class(world=world))
    assert str(caught.value) == (
        f"{world}:2: 'hello' is not a package atom (category/name, or with an operator and a "
        "version, as in =category/name-1.2) nor a set (@name).\n"
        f"{world}:4: 'sys-apps/sed and more' is not a package atom (category/name, or with an "
        "operator and a version, as in =category/name-1.2) nor a set (@name)."
    )


def test_a_missing_world_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        atoms_of(Class(world=tmp_path / "world"))
    assert str(caught.value) == f"{tmp_path / 'world'}: there is no such file."


def test_values_without_a_file_are_refused_in_the_same_words() -> None:
    with pytest.raises(ConfigError) as caught:
        from_values({"rollout": {"fan_out": 3}})
    assert str(caught.value) == "rollout.fan_out: unknown key. Did you mean `fanout`?"
