"""What must stay true of the project itself."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from headnode import reference
from headnode.cli import cli

ROOT = Path(__file__).parent.parent
PACKAGES = ("binhost", "blades", "config", "distcc", "headnode", "mirror", "schedules")
GROUND = {"errors", "process", "files", "node", "provision", "gentoo", "wording"}

# Who may import whom (ARCHITECTURE.md). `ground` is headnode's ground floor.
ALLOWED = {
    "ground": {"ground"},
    "config": {"ground", "config"},
    "mirror": {"ground", "config", "mirror"},
    "binhost": {"ground", "config", "binhost"},
    "distcc": {"ground", "config", "distcc"},
    "blades": {"ground", "config", "blades"},
    "schedules": {"ground", "config", "mirror", "binhost", "distcc", "blades", "schedules"},
    "headnode": {"ground", *PACKAGES},
}


def layer_of(module: str) -> str:
    package, _, rest = module.partition(".")
    if package == "headnode" and rest.split(".")[0] in GROUND:
        return "ground"
    return package


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def sources() -> list[Path]:
    return [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    allowed = ALLOWED[layer_of(module)]
    ours = {name for name in imports_of(path) if name.split(".")[0] in PACKAGES}
    wrong = {name for name in ours if name != "headnode" and layer_of(name) not in allowed}
    assert not wrong, f"{module} is {layer_of(module)} and may not import {sorted(wrong)}"


def test_the_page_of_commands_is_current() -> None:
    assert (ROOT / "docs/commands.md").read_text() == reference.render(), "run: make docs"


@pytest.mark.parametrize("name, command", list(reference.commands(cli, "headnode")))
def test_every_command_has_a_sentence_and_an_example(name: str, command: click.Command) -> None:
    summary, rest = reference.parts(command)
    assert summary.endswith(".")
    assert rest.startswith("Example: ")
    assert rest.removeprefix("Example: ").split()[0] == "headnode"


def test_each_package_is_this_checkout_s() -> None:
    for name in PACKAGES:
        assert Path(__import__(name).__file__).parent == ROOT / name


def test_the_wheel_has_every_source_and_data_file(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    )
    missing = set(listed.stdout.split()) - packed
    assert not missing


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
