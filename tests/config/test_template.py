import tomllib
from pathlib import Path
from typing import Any

import pytest

from config import options
from config.load import from_values, load
from config.model import Cluster
from config.template import WIDTH, render
from headnode.errors import ConfigError

AWKWARD = [
    "ssh 'a b' -- \"%h\"",
    "back\\slash \\n %h",
    "two\nlines\r\n\tand a tab",
    '"""three""" and \'\'\'',
    "ünïcode \u2028 \x7f \x00 #=[]{}",
    "",
    "x" * 300,
]


def loaded(text: str, folder: Path) -> Cluster:
    path = folder / "cluster.toml"
    path.write_text(text, newline="")
    return load(path)


def test_the_file_loads_to_the_defaults(tmp_path: Path) -> None:
    assert loaded(render(), tmp_path) == Cluster()


def test_the_file_of_a_class_with_a_kernel_of_its_own_loads(tmp_path: Path) -> None:
    values = {"classes": {"blade": {"packages": ["app-misc/a"], "kernel": "openmosix"}}}
    cluster = loaded(render(values), tmp_path)
    assert cluster.classes["blade"].kernel == "openmosix"
    assert cluster == from_values(values)


def test_every_option_stands_in_the_file_and_only_unset_ones_are_commented_out() -> None:
    written = tomllib.loads(render())
    text = render().splitlines()
    for at, model in options.tables():
        names = {"classes": "blade", "repos": "gentoo"}
        table: Any = written
        for before, part in zip(("", *at), at, strict=False):
            table = table[names[before] if part == options.ANY_NAME else part]
        for option in options.options_of(model, at):
            if options.default_of(option.field) is None:
                assert any(line.startswith(f"# {option.name} = ") for line in text), option.dotted
            else:
                assert option.name in table, option.dotted


def test_every_meaning_stands_in_the_file() -> None:
    words = " ".join(line.removeprefix("#").strip() for line in render().splitlines())
    for at, model in options.tables():
        assert (model.__doc__ or "") in words
        for option in options.options_of(model, at):
            assert (option.field.description or "") in words


def test_no_line_is_too_wide_to_read() -> None:
    assert [line for line in render().splitlines() if len(line) > WIDTH] == []


def test_the_file_begins_with_what_a_newcomer_edits_first() -> None:
    tables = [line for line in render().splitlines() if line.startswith("[")]
    assert tables == [
        "[serve]",
        "[classes.blade]",
        "[classes.blade.make_conf]",
        "[classes.blade.rings]",
        "[mirror]",
        "[mirror.repos.gentoo]",
        "[mirror.distfiles]",
        "[build]",
        "[publish]",
        "[binhost]",
        "[signing]",
        "[distcc]",
        "[rollout]",
        "[pull]",
        "[kernel]",
        "[openmosix]",
        "[openmosix.addresses]",
        "[schedule]",
        "[schedule.jobs]",
        "[notices]",
        "[ledger]",
        "[state]",
    ]


def test_an_example_that_is_commented_out_loads_when_it_is_taken(tmp_path: Path) -> None:
    text = render().replace("# helpers =", "helpers =").replace("# world =", "world =")
    text = text.replace("networks = []", 'networks = ["10.0.1.0/24"]')
    cluster = loaded(text, tmp_path)
    assert cluster.distcc.helpers == "blade[01-58]"
    assert cluster.classes["blade"].world == tmp_path / "blade.world"


@pytest.mark.parametrize("value", AWKWARD)
def test_any_text_comes_back_as_it_was(tmp_path: Path, value: str) -> None:
    values = {"rollout": {"exec_command": value}}
    assert loaded(render(values), tmp_path) == from_values(values)


@pytest.mark.parametrize(
    "values",
    [
        {"serve": {"host": "10.1.0.1", "http_port": 80}},
        {"state": {"path": "/srv/head node"}, "build": {"root": "/srv/stage3", "jobs": 2}},
        {"rollout": {"timeout_s": 0.5, "transport": "exec", "exec_command": "lab exec %h"}},
        {"distcc": {"helpers": "blade[01-04]", "networks": ["10.0.1.0/24"]}},
        {"classes": {"blade": {"rings": {"canary": "n1", "a.b": "n[2-3]"}}}},
        {
            "classes": {
                "blade": {
                    "packages": ["app-misc/hello", "@system", "=dev-libs/long-name-1.2.3-r4"] * 4,
                    "package_use": ["net-misc/curl http2", "a/b \"quoted\" \\ 'x'"],
                    "make_conf": {"VIDEO_CARDS": "", "L10N": "de en"},
                    "world": "/etc/world",
                },
                "store.2": {"rings": {"all": "store[1-3]"}, "use": "-X"},
            }
        },
        {
            "mirror": {
                "repos": {
                    "own": {"upstreams": ["rsync://10.1.0.1:8730/own"]},
                    "gentoo": {"upstreams": ["rsync://a/b", "rsync://c/d"], "stall_s": 5},
                },
                "distfiles": {"upstreams": [], "tries": 1},
            }
        },
    ],
)
def test_other_values_come_back_as_they_were(tmp_path: Path, values: dict[str, Any]) -> None:
    cluster = loaded(render(values), tmp_path)
    assert cluster == from_values(values)
    assert list(cluster.mirror.repos) == list(from_values(values).mirror.repos)


def test_another_value_keeps_its_comment_which_then_names_the_default() -> None:
    lines = render({"serve": {"http_port": 80}}).splitlines()
    assert (
        lines[lines.index("http_port = 80") - 1] == "# TCP port of the HTTP server. Default: 8080."
    )


def test_values_that_the_model_refuses_are_not_written() -> None:
    with pytest.raises(ConfigError) as caught:
        render({"serve": {"hots": "a"}})
    assert str(caught.value) == "serve.hots: unknown key. Did you mean `host`?"
