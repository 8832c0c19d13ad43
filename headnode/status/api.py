"""The JSON under /api/v1: one table says what there is, for the answers and for the OpenAPI file.

Fields may be added within v1; none is taken away or given another meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any

from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from headnode.status.gather import Gatherer
from headnode.status.model import (
    Advisory,
    Blade,
    BladeDetail,
    Build,
    Fact,
    Generation,
    GenerationDetail,
    Helper,
    NextRun,
    Repo,
    Ring,
    Rollout,
    Run,
    Status,
    Unread,
    Verdict,
)

REFERENCE = "#/components/schemas/{model}"
Names = Mapping[str, str]


class Problem(Fact):
    """Why there is no answer."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path below /api/v1 and its answer; `answer` returns None where there is none.

    `kind` is the type of an answer, or of its items where it is a list.
    """

    path: str
    summary: str
    kind: type[Fact]
    answer: Callable[[Status, Gatherer, Names], object]
    is_list: bool = False
    nullable: bool = False

    @property
    def parts(self) -> list[str]:
        """The names between the slashes; `{…}` stands for any."""
        return self.path[1:].split("/")

    @property
    def parameters(self) -> list[str]:
        """What the `{…}` of the path are called."""
        return [part[1:-1] for part in self.parts if part.startswith("{")]


ENDPOINTS = (
    Endpoint(
        path="/status",
        summary="Everything at once: what the status page shows.",
        kind=Status,
        answer=lambda status, look, names: status,
    ),
    Endpoint(
        path="/verdict",
        summary="What it comes to: a level, a sentence, and what wants a look.",
        kind=Verdict,
        answer=lambda status, look, names: status.verdict,
    ),
    Endpoint(
        path="/blades",
        summary="Every blade, with its generation and health.",
        kind=Blade,
        answer=lambda status, look, names: status.blades,
        is_list=True,
    ),
    Endpoint(
        path="/blades/{name}",
        summary="One blade, its pulls (newest first), and the log of the last one.",
        kind=BladeDetail,
        answer=lambda status, look, names: look.blade(status, names["name"]),
    ),
    Endpoint(
        path="/rings",
        summary="Every ring, and what is in front of it.",
        kind=Ring,
        answer=lambda status, look, names: status.rings,
        is_list=True,
    ),
    Endpoint(
        path="/generations",
        summary="The newest generations of every class, newest first.",
        kind=Generation,
        answer=lambda status, look, names: status.generations,
        is_list=True,
    ),
    Endpoint(
        path="/generations/{class}/{number}",
        summary="One generation, and everything that it changed.",
        kind=GenerationDetail,
        answer=lambda status, look, names: look.generation(names["class"], names["number"]),
    ),
    Endpoint(
        path="/advisories",
        summary="Security advisories about what blades have, and which blades those are.",
        kind=Advisory,
        answer=lambda status, look, names: status.advisories,
        is_list=True,
    ),
    Endpoint(
        path="/unread",
        summary="News and messages of ebuilds that nobody has read.",
        kind=Unread,
        answer=lambda status, look, names: status.unread,
        is_list=True,
    ),
    Endpoint(
        path="/mirror",
        summary="How fresh each repository is.",
        kind=Repo,
        answer=lambda status, look, names: status.repos,
        is_list=True,
    ),
    Endpoint(
        path="/builds",
        summary="What each class's builder does, and what it did last.",
        kind=Build,
        answer=lambda status, look, names: status.builds,
        is_list=True,
    ),
    Endpoint(
        path="/runs",
        summary="What was done lately, newest first.",
        kind=Run,
        answer=lambda status, look, names: status.runs,
        is_list=True,
    ),
    Endpoint(
        path="/next",
        summary="When each job is due.",
        kind=NextRun,
        answer=lambda status, look, names: status.next_runs,
        is_list=True,
    ),
    Endpoint(
        path="/rollout",
        summary="The rollout that runs, or the last one; null if there was none.",
        kind=Rollout,
        answer=lambda status, look, names: status.rollout,
        nullable=True,
    ),
    Endpoint(
        path="/helpers",
        summary="The machines that compile for the headnode.",
        kind=Helper,
        answer=lambda status, look, names: status.helpers,
        is_list=True,
    ),
)


def answer(names: Sequence[str], status: Status, look: Gatherer) -> tuple[HTTPStatus, bytes]:
    """The answer to the decoded names after /api/v1."""
    if list(names) == ["openapi.json"]:
        return HTTPStatus.OK, openapi_text().encode()
    for endpoint in ENDPOINTS:
        found = _match(endpoint.parts, names)
        if found is None:
            continue
        value = endpoint.answer(status, look, found)
        if value is not None or endpoint.nullable:
            return HTTPStatus.OK, to_json(value)
        return HTTPStatus.NOT_FOUND, _problem("There is none of that name.")
    return HTTPStatus.NOT_FOUND, _problem("There is no such path; see /api/v1/openapi.json.")


def _match(parts: Sequence[str], names: Sequence[str]) -> dict[str, str] | None:
    if len(parts) != len(names):
        return None
    pairs = list(zip(parts, names, strict=True))
    if any(part != name for part, name in pairs if not part.startswith("{")):
        return None
    return {part[1:-1]: name for part, name in pairs if part.startswith("{")}


def _problem(text: str) -> bytes:
    return Problem(error=text).model_dump_json().encode()


@cache
def openapi_text() -> str:
    """The OpenAPI file, as it is served and as it lies in docs/."""
    return json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n"


def openapi() -> dict[str, Any]:
    """The description of the API in OpenAPI 3.1. Pure."""
    kinds: list[type[Fact]] = list(dict.fromkeys([*(each.kind for each in ENDPOINTS), Problem]))
    _, schemas = models_json_schema(
        [(kind, "serialization") for kind in kinds], ref_template=REFERENCE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headnode",
            "version": "1",
            "description": "The state of a cluster, to read. Nothing can be changed here.",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "servers": [{"url": "/api/v1"}],
        "paths": {each.path: {"get": _operation(each)} for each in ENDPOINTS},
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    item: dict[str, Any] = {"$ref": REFERENCE.format(model=endpoint.kind.__name__)}
    schema = {"type": "array", "items": item} if endpoint.is_list else item
    if endpoint.nullable:
        schema = {"anyOf": [item, {"type": "null"}]}
    responses = {"200": _response("The answer.", schema)}
    if endpoint.parameters:
        problem = {"$ref": REFERENCE.format(model="Problem")}
        responses["404"] = _response("There is none of that name.", problem)
    said = endpoint.path[1:].replace("/", "_").replace("{", "").replace("}", "")
    return {
        "operationId": f"get_{said}",
        "summary": endpoint.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in endpoint.parameters
        ],
        "responses": responses,
    }


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


if __name__ == "__main__":
    print(openapi_text(), end="")
