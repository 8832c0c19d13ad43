"""The manual's page of error messages, from the code itself: `python -m headnode.remedies`.

Every place where an error is raised with a message is found in the source; what is put into a
message when it is raised shows as `…`.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUILT_IN = frozenset(name for name in dir(builtins) if name.endswith("Error"))
PACKAGES = ("config", "mirror", "binhost", "distcc", "blades", "schedules", "headnode")
INTRO = """\
# What it says when something is wrong

Made by `make docs` from the code. `…` stands for what is known when it happens: a file, a blade, a
number. Whatever is served stays as it was; after the remedy, run the same command again.
"""
NO_REMEDY = "The message says it."


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """A message, and what to do about it (may be empty)."""

    package: str
    message: str
    remedy: str


def errors_in(source: str, package: str) -> Iterator[Said]:
    """The messages of the errors that a module raises or makes."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = _name(node.func)
        # pydantic makes what an option's check raises into a ConfigError.
        ours = name.endswith("Error") and (name not in BUILT_IN or package == "config")
        if ours and " " in (message := _text(node.args[0])):
            remedies = [_text(word.value) for word in node.keywords if word.arg == "remedy"]
            yield Said(package, message, "".join(remedies))


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """The text of a literal, with `…` for what is only known later; empty if it is none. Pure."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return re.sub(r"(…\s*)+…", "…", "".join(_text(each) or "…" for each in values))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return (_text(left) or "…") + (_text(right) or "…")
    return ""


def said(root: Path) -> list[Said]:
    """Every message of the packages below `root`, in order, each once."""
    found = {
        each
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        for each in errors_in(path.read_text(), package)
    }
    return sorted(found)


def _cell(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def render(root: Path) -> str:
    """The whole page."""
    lines = [INTRO]
    for package in PACKAGES:
        rows = [each for each in said(root) if each.package == package]
        if not rows:
            continue
        lines += [f"## {package}", "", "| message | what to do |", "|---|---|"]
        lines += [f"| {_cell(row.message)} | {_cell(row.remedy) or NO_REMEDY} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(Path(__file__).parents[1]), end="")
