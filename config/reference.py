"""The manual's page of options, made from the model: `python -m config.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from config import options
from config.model import Section
from config.options import Option

INTRO = """\
# Options of cluster.toml

Made from the model by `python -m config.reference > docs/options.md`; do not edit it here.

Relative paths are relative to the folder of cluster.toml. A key that is not listed here is
refused. `<name>` stands for a name of your choice. Times are in seconds.
"""


def render() -> str:
    """The page in Markdown: a section for each table, a row for each option."""
    sections = ["\n".join(_section(at, model)) for at, model in options.tables()]
    return "\n".join([INTRO, *(f"{section}\n" for section in sections)]).rstrip() + "\n"


def _section(at: tuple[str, ...], model: type[Section]) -> Iterator[str]:
    yield f"## [{'.'.join(at)}]"
    yield ""
    yield " ".join(part for part in ((model.__doc__ or "").strip(), _about(at)) if part)
    if rows := options.options_of(model, at):
        yield ""
        yield "| Option | Type | Default | Meaning |"
        yield "| --- | --- | --- | --- |"
        yield from (_row(option) for option in rows)


def _about(at: tuple[str, ...]) -> str:
    """What a table of named tables says about its names."""
    if at[-1] != options.ANY_NAME:
        return ""
    parent = options.section_at(tuple(at[:-2]))
    return (parent.model_fields[at[-2]].description or "") if parent else ""


def _row(option: Option) -> str:
    kind = ", ".join(
        part
        for part in (options.kind_in_words(option.hint), options.limits_in_words(option.field))
        if part
    )
    cells = (f"`{option.dotted}`", kind, _default(option), option.field.description or "")
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _default(option: Option) -> str:
    if options.is_needed(option.field):
        return "must be given"
    default = options.default_of(option.field)
    return "not set" if default is None else f"`{options.as_toml(default)}`"


if __name__ == "__main__":
    sys.stdout.write(render())
