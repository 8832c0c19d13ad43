"""The model walked as options: which table each is in, its type, default and limits in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.model import Cluster, Section
from config.values import Kind

ANY_NAME = "<name>"
"""Stands for a name that the administrator chooses, as in `classes.<name>`."""

_WORDS = {
    str: ("text", "texts"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    bool: ("`true` or `false`", "`true` or `false`"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One key of one table; `table` is dotted, with ANY_NAME where a name is free."""

    table: tuple[str, ...]
    name: str
    field: FieldInfo
    hint: Any

    @property
    def dotted(self) -> str:
        """Its full name, as in `classes.<name>.cflags`."""
        return ".".join((*self.table, self.name))


def tables(
    model: type[Section] = Cluster, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Each table of the file below `model`, outermost first, and the section that describes it."""
    for name, field in model.model_fields.items():
        if section := section_of(field.annotation):
            free = (ANY_NAME,) if get_origin(field.annotation) is dict else ()
            yield (*at, name, *free), section
            yield from tables(section, (*at, name, *free))


def options_of(model: type[Section], table: tuple[str, ...] = ()) -> list[Option]:
    """The options of one table, without the tables below it."""
    hints = get_type_hints(model, include_extras=True)
    return [
        Option(table=table, name=name, field=field, hint=hints[name])
        for name, field in model.model_fields.items()
        if section_of(field.annotation) is None
    ]


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field's value is, or of which it is a table by name."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation if is_section else None


def section_at(loc: tuple[str | int, ...], model: type[Section] = Cluster) -> type[Section] | None:
    """The section that describes the table at `loc` of a file, or None where there is none."""
    keys = iter(key for key in loc if not isinstance(key, int))
    for key in keys:
        field = model.model_fields.get(key)
        section = section_of(field.annotation) if field else None
        if field is None or section is None:
            return None
        if get_origin(field.annotation) is dict and next(keys, None) is None:
            return None
        model = section
    return model


def kind_in_words(hint: Any, *, many: bool = False) -> str:
    """The type of an option in plain words."""
    for extra in reversed(get_args(hint)[1:] if hasattr(hint, "__metadata__") else ()):
        if isinstance(extra, Kind):
            return extra.many if many else extra.one
    if hasattr(hint, "__metadata__"):
        return kind_in_words(get_args(hint)[0], many=many)
    if get_origin(hint) in {types.UnionType, typing.Union}:
        return kind_in_words(get_args(hint)[0], many=many)
    if get_origin(hint) is tuple:
        return f"list of {kind_in_words(get_args(hint)[0], many=True)}"
    if get_origin(hint) is dict:
        key, value = (kind_in_words(each) for each in get_args(hint))
        return f"table: {key} = {value}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{each.value}`" for each in hint)
    return _WORDS[hint][many]


def limits_in_words(field: FieldInfo) -> str:
    """What the value must lie within, or "" where every value of the type is taken."""
    found: dict[type, Any] = {type(each): each for each in field.metadata}
    low, high = found.get(annotated_types.Ge), found.get(annotated_types.Le)
    if low and high:
        return f"{low.ge} to {high.le}"
    if low:
        return f"{low.ge} or more"
    if more := found.get(annotated_types.Gt):
        return f"more than {more.gt}"
    if least := found.get(annotated_types.MinLen):
        return f"{least.min_length} or more"
    return ""


def default_of(field: FieldInfo) -> Any:
    """The default as plain data; None where it is not set, PydanticUndefined where it is needed."""
    return plain(field.get_default(call_default_factory=True, validated_data={}))


def is_needed(field: FieldInfo) -> bool:
    """Whether the file must give it."""
    return default_of(field) is PydanticUndefined


def plain(value: Any) -> Any:
    """A value of the model as what TOML has for it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return value


def key_as_toml(parts: Iterable[str]) -> str:
    """A dotted key, with quotes where TOML wants them."""
    import tomlkit  # here: only errors and generated pages need it

    return str(tomlkit.key(list(parts)).as_string())


def as_toml(value: Any) -> str:
    """A plain value on one line of TOML."""
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update(value)
        return str(table.as_string())
    return str(tomlkit.item(value).as_string())
