"""The commented cluster.toml that `headnode init` writes, made from the model.

Every option stands in it with its meaning; one that is not set by default is commented out, with
an example. Of several tables of one kind (classes, repositories) the first carries the comments.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

import tomlkit

from config import options
from config.load import as_written
from config.model import Section
from config.options import Option

WIDTH = 90
ORDER = (
    *("serve", "classes", "mirror", "build", "publish", "binhost", "signing", "distcc", "rollout"),
    *("pull", "kernel", "openmosix", "schedule", "notices", "ledger", "state"),
)
"""The tables in the order in which a newcomer edits them."""

INTRO = """\
cluster.toml: what this cluster is, and how headnode keeps it up to date.

Every option is here. A line that is left out means the default, so this file may be as
short as you like. A key that headnode does not know is refused, with its line.
Start with [serve] host and the rings and packages of your class; the rest works as it is.
"""


def render(values: Mapping[str, Any] | None = None) -> str:
    """The whole file, with `values` (nested as in the file) instead of the model's defaults.

    What is below a name that the administrator chooses (`classes`, `repos`, `rings`) replaces
    the default table as a whole, as it would in a file.

    Raises:
        ConfigError: the model refuses `values`.
    """
    cluster = as_written(values or {})
    lines = [*_comment(INTRO)]
    for name in sorted(type(cluster).model_fields, key=ORDER.index):
        lines += _field(cluster, name, (), explain=True)
    return "\n".join(lines) + "\n"


def _field(model: Section, name: str, at: tuple[str, ...], *, explain: bool) -> Iterator[str]:
    """One table below `model`, or each of a table of tables."""
    field, value = type(model).model_fields[name], getattr(model, name)
    if get_origin(field.annotation) is not dict:
        yield from _table(value, (*at, name), explain=explain)
        return
    about = field.description or ""
    for number, (key, each) in enumerate(value.items()):
        first = explain and number == 0
        yield from _table(each, (*at, name, key), explain=first, about=about)


def _table(model: Section, at: tuple[str, ...], *, explain: bool, about: str = "") -> Iterator[str]:
    """One table: header, its options, then the tables below it, as TOML wants it."""
    all_options = options.options_of(type(model), at)
    plain = [each for each in all_options if get_origin(each.field.annotation) is not dict]
    below = [name for name in type(model).model_fields if name not in {o.name for o in all_options}]
    yield ""
    yield ""
    if explain:
        yield from _comment(type(model).__doc__ or "")
        yield from _comment(about)
    yield f"[{options.key_as_toml(at)}]"
    for option in plain:
        yield from _option(option, getattr(model, option.name), explain=explain)
    for option in all_options:
        if option not in plain:
            yield from _named_values(option, getattr(model, option.name), explain=explain)
    for name in below:
        yield from _field(model, name, at, explain=explain)


def _option(option: Option, value: Any, *, explain: bool) -> Iterator[str]:
    if explain:
        yield ""
        yield from _comment(_meaning(option, value))
    if value is not None:
        yield f"{option.name} = {_value(option.name, options.plain(value))}"
    elif explain:
        example = (option.field.examples or [""])[0]
        yield f"# {option.name} = {options.as_toml(example)}"


def _named_values(option: Option, values: Mapping[str, Any], *, explain: bool) -> Iterator[str]:
    """An option that is a table of names and values, under a header of its own."""
    yield ""
    if explain:
        yield from _comment(option.field.description or "")
    yield f"[{options.key_as_toml((*option.table, option.name))}]"
    for name, value in values.items():
        yield f"{options.key_as_toml([name])} = {_value(name, options.plain(value))}"


def _meaning(option: Option, value: Any) -> str:
    """The description, and the default where the value is another."""
    about = option.field.description or ""
    default = options.default_of(option.field)
    if options.is_needed(option.field) or options.plain(value) == default:
        return about
    shown = "not set" if default is None else options.as_toml(default)
    return f"{about} Default: {shown}."


def _value(name: str, value: Any) -> str:
    """A value as TOML; an array that would make too long a line has a line for each item."""
    text = options.as_toml(value)
    if isinstance(value, list) and len(name) + len(text) > WIDTH - len(" = "):
        array = tomlkit.array()
        array.extend(value)
        text = str(array.multiline(True).as_string())
    return text


def _comment(text: str) -> Iterator[str]:
    """Paragraphs and lines of `text` as comment lines, none wider than WIDTH."""
    for line in text.splitlines():
        for wrapped in textwrap.wrap(line, WIDTH - 2, break_on_hyphens=False) or [""]:
            yield f"# {wrapped}".rstrip()
