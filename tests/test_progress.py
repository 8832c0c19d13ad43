"""Every command that takes long, on a terminal: a bar with rate and time to go; plain lines off it.

In a lab of one blade; a pseudo-terminal is what each command is run on.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from headnode import rehearsal
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

pytestmark = [pytest.mark.lab, pytest.mark.slow]
# In this order: each finds what it has to do in what those before it left. And what is counted.
COMMANDS = (
    ("mirror sync", r"distfiles .* MB, .* MB/s, \d:\d\d:\d\d to go"),
    ("build", r"build .* 3 of 3 packages, .*/(s|min), 0:00:00 to go"),
    ("publish", r"gates .* 7 of 7 gates, .*/(s|min), 0:00:00 to go"),
    ("rollout run", r"rollout .* 1 of 1 blades, .*/(s|min), 0:00:00 to go"),
    ("mirror verify", r"reading .* MB, .* MB/s, \d:\d\d:\d\d to go"),
    ("generations verify", r"packages .* MB, .* MB/s, 0:00:00 to go"),
    ("security", r"advisories for generation 1 .* 1 of 1 advisories, "),
)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    with rehearsal.running(tmp_path_factory.mktemp("lab"), 1, cache=tarballs) as made:
        text = made.config.read_text()
        less = '"@system", "sys-apps/bladeinfo"'
        made.config.write_text(text.replace('"cluster-meta/blade"', less))
        glsa = made.upstream / "tree/metadata/glsa"
        glsa.mkdir(parents=True)
        (glsa / "glsa-202601-01.xml").write_text('<glsa><package name="a/b"></package></glsa>')
        bump(made.upstream, "sys-apps/bladeinfo")  # stamps the tree
        rehearsal.start_headnode(made)
        yield made


@pytest.mark.parametrize(("line", "bar"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_long_command_shows_a_bar_on_a_terminal(
    up: Rehearsal, on_terminal: Callable[[Sequence[str]], str], line: str, bar: str
) -> None:
    shown = on_terminal(up.argv(*line.split()))
    assert "\u2501" in shown
    assert re.search(bar, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)), shown


def test_off_a_terminal_they_are_lines(up: Rehearsal) -> None:
    bump(up.upstream, "sys-apps/bladeinfo")
    for line, _ in COMMANDS[:4]:
        done = up.headnode(*line.split())
        assert "\u2501" not in done.output + done.errors
        assert "to go" not in done.errors
        assert "\x1b" not in done.output + done.errors
