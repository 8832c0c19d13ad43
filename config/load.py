"""cluster.toml read into the model; whatever is wrong with it, said with file, line and option.

Everything that is wrong is said at once, one line each, in the order of the file.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from config import options
from config.locate import Loc, line_of, lines_of
from config.model import Class, Cluster, Section
from config.overlay import kernel_package, with_overlay
from config.values import Atom
from headnode.errors import ConfigError

Model = TypeVar("Model", bound=Section)

DEFAULT_PATHS = (Path("cluster.toml"), Path("/etc/headnode/cluster.toml"))

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_type": "a table",
    "path_type": "a path (text)",
    "string_type": "text",
    "tuple_type": "an array",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where (`line` if it is known), what, and what to do."""

    line: int | None
    what: str
    remedy: str = ""


def find(explicit: Path | None, defaults: Iterable[Path] = DEFAULT_PATHS) -> Path:
    """The file to read: `explicit` if it is given, else the first of `defaults` that is there.

    Raises:
        ConfigError: there is none.
    """
    if explicit is not None:
        return explicit
    tried = list(defaults)
    for path in tried:
        if _is_there(path):
            return path
    raise ConfigError(
        f"There is no configuration: neither {' nor '.join(map(str, tried))}.",
        remedy="Run `headnode init` to write one, or name one with --config.",
    )


def load(path: Path) -> Cluster:
    """Read `path`; relative paths in it come out relative to its folder, so absolute.

    Where a set needs it, the overlay that headnode renders is among the repositories.

    Raises:
        ConfigError: it cannot be read, is not TOML, or an option is not as it must be.
    """
    return _whole(read_as(path, Cluster, if_absent="Run `headnode init` to write one."))


def read_as(path: Path, model: type[Model], *, if_absent: str = "") -> Model:
    """Read a TOML file as `model`; its relative paths come out relative to the file's folder.

    Raises:
        ConfigError: it cannot be read, is not TOML, or a key is not as it must be.
    """
    text = read_text(path, if_absent=if_absent)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _report(path, [_syntax_problem(text, error)]) from error
    try:
        return model.model_validate(data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise _report(path, _problems(error, lines_of(text), model)) from error


def from_values(values: Mapping[str, Any]) -> Cluster:
    """The cluster that `values` (nested as in the file) and the defaults make.

    Raises:
        ConfigError: an option is not as it must be.
    """
    return _whole(as_written(values))


def as_written(values: Mapping[str, Any]) -> Cluster:
    """The same with no more in it than a file has: the overlay is not among its repositories.

    Raises:
        ConfigError: an option is not as it must be.
    """
    try:
        return Cluster.model_validate(values)
    except ValidationError as error:
        raise _report(None, _problems(error, {}, Cluster)) from error


def _whole(cluster: Cluster) -> Cluster:
    atoms: list[str] = []
    for cls in cluster.classes.values():
        try:
            atoms += atoms_of(cls)
        except ConfigError:  # whoever needs the set says what is wrong with its world file
            atoms += cls.packages
    return with_overlay(cluster, atoms)


def atoms_of(cls: Class) -> tuple[str, ...]:
    """The set @blade of a class: `packages`, the world file's atoms and its kernel, each once.

    In the file, `#` starts a comment and blank lines are skipped (portage(5), world).

    Raises:
        ConfigError: the world file cannot be read, or lines of it are no atoms.
    """
    atoms = list(cls.packages)
    if cls.world is not None:
        atoms += _atoms_in(cls.world)
    if cls.kernel:
        atoms.append(kernel_package(cls.kernel))
    return tuple(dict.fromkeys(atoms))


def _atoms_in(path: Path) -> list[str]:
    adapter: TypeAdapter[str] = TypeAdapter(Atom)
    atoms, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if atom := line.partition("#")[0].strip():
            try:
                atoms.append(adapter.validate_python(atom))
            except ValidationError as error:
                what = f"{_message(error.errors()[0])}."
                problems.append(Problem(line=number, what=what))
    if problems:
        raise _report(path, problems)
    return atoms


def _is_there(path: Path) -> bool:
    """Whether to read it; one that may not be looked at is there, and reading it says so."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def read_text(path: Path, *, if_absent: str = "") -> str:
    """The text of a file of configuration.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("there is no such file.", path=path, remedy=if_absent) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}.", path=path) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 text: byte 0x{error.object[error.start]:02x}."
        raise ConfigError(what, path=path, line=line, remedy="Save it as UTF-8.") from error


def _report(path: Path | None, problems: list[Problem]) -> ConfigError:
    """All problems as one error: the first as its own, the others on lines below it."""
    first, *others = sorted(problems, key=lambda each: each.line or 0)
    if not others:
        return ConfigError(first.what, path=path, line=first.line, remedy=first.remedy)
    texts = [str(_report(path, [each])) for each in others]
    head = str(ConfigError(first.what, remedy=first.remedy))
    return ConfigError("\n".join([head, *texts]), path=path, line=first.line)


def _syntax_problem(text: str, error: Exception) -> Problem:
    """What tomllib says, with the place taken out of its message (before 3.14 it is only there)."""
    message, line, column = str(error), text.rstrip().count("\n") + 1, None
    if place := re.search(r" \(at line (\d+), column (\d+)\)$", message):
        message, line, column = message[: place.start()], int(place[1]), int(place[2])
    message = message.replace(" (at end of document)", " before the end of the file")
    if isinstance(error, RecursionError):
        message = "Nested too deeply"
    where = f" (column {column})" if column else ""
    return Problem(line=line, what=f"not TOML: {message[:1].lower()}{message[1:]}{where}.")


def _problems(error: ValidationError, lines: dict[Loc, int], model: type[Section]) -> list[Problem]:
    found = error.errors(include_url=False)
    return [_problem(each, lines, model) for each in found if not _follows(each, found)]


def _follows(detail: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a list counts as too short only because an item of it was refused."""
    loc = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(each["loc"]) > len(loc) and each["loc"][: len(loc)] == loc for each in found
    )


def _problem(detail: ErrorDetails, lines: dict[Loc, int], model: type[Section]) -> Problem:
    loc = _loc(detail)
    line, name = line_of(lines, loc), _dotted(loc)
    if detail["type"] == "extra_forbidden":
        return Problem(line=line, what=f"{name}: unknown key.", remedy=_known_keys(loc, model))
    if detail["type"] == "missing":
        field = _section(loc[:-1], model).model_fields[str(loc[-1])]
        return Problem(line=line, what=f"{name}: is missing.", remedy=f"{field.description}")
    return Problem(line=line, what=f"{name}: {_message(detail)}.")


def _loc(detail: ErrorDetails) -> Loc:
    """Where the error is, in the file's terms: a refused key is where that key is."""
    at = detail.get("ctx", {}).get("at", ())
    return tuple(part for part in (*detail["loc"], *at) if part != "[key]")


def _message(detail: ErrorDetails) -> str:
    """What is wrong, without a full stop: our own words, else what was expected and found."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "misplaced":
        return str(context["text"])
    if kind == "too_short":
        return f"needs at least {context['min_length']} item"
    expected = _EXPECTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    return f"expected {expected}, found {_shown(detail['input'])}"


def _shown(value: Any) -> str:
    """A value as it stands in the file, cut short."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    text = options.as_toml(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(loc: Loc) -> str:
    """A path as an administrator writes it: `mirror.repos."a b".upstreams[0]`."""
    name = ""
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += ("." if name else "") + options.key_as_toml([part])
    return name


def _section(loc: Loc, model: type[Section]) -> type[Section]:
    section = options.section_at(loc, model)
    assert section is not None, f"the model has no table {loc}"  # noqa: S101 (pydantic said so)
    return section


def _known_keys(loc: Loc, model: type[Section]) -> str:
    """The key that was probably meant, else the table that has it, else all keys of this table."""
    known, key = list(_section(loc[:-1], model).model_fields), str(loc[-1])
    if near := difflib.get_close_matches(key, known, n=1):
        return f"Did you mean `{near[0]}`?"
    if elsewhere := [at for at, table in options.tables(model) if key in table.model_fields]:
        names = [f"[{'.'.join(at)}]" if at else "the top" for at in elsewhere]
        return f"It belongs in {' or '.join(names)}."
    return f"Known here: {', '.join(sorted(known))}."
