"""The JSON under /api/v1 does what its OpenAPI file says, whatever it is asked."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from binhost.server import Server
from headnode.status import api
from headnode.status.model import Status

ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0


def fetch(server: Server, path: str) -> Any:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=PATIENCE_S) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def server(filled_site: Any, serve_all: Callable[..., Server]) -> Iterator[Server]:
    return serve_all(filled_site)


schema = schemathesis.openapi.from_dict(api.openapi())


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_openapi_file_says(case: Any, server: Server) -> None:
    case.call_and_validate(base_url=f"{server.url}/api/v1", timeout=PATIENCE_S)


def test_the_openapi_file_in_the_docs_is_the_one_that_is_served(server: Server) -> None:
    said = (ROOT / "docs/openapi.json").read_text()
    assert said == api.openapi_text(), "run: make docs"
    assert fetch(server, "/api/v1/openapi.json") == json.loads(said)


def test_the_whole_status_can_be_read_back_as_what_it_was(server: Server) -> None:
    status = Status.model_validate(fetch(server, "/api/v1/status"))
    assert [each.number for each in status.generations] == [5, 4, 3, 2, 1]
    assert len(status.blades) == 58


def test_the_parts_are_the_whole_s(server: Server) -> None:
    whole = fetch(server, "/api/v1/status")
    named = {
        "verdict": "verdict",
        "blades": "blades",
        "rings": "rings",
        "generations": "generations",
        "mirror": "repos",
        "builds": "builds",
        "runs": "runs",
        "next": "next_runs",
        "rollout": "rollout",
        "helpers": "helpers",
    }
    now = datetime(2026, 3, 4, 7, 12, tzinfo=UTC).isoformat().replace("+00:00", "Z")
    assert whole["now"] == now
    for path, key in named.items():
        assert fetch(server, f"/api/v1/{path}") == whole[key]


def test_a_generation_and_a_blade_are_found_by_name(server: Server) -> None:
    generation = fetch(server, "/api/v1/generations/blade/4")
    assert generation["generation"]["why"] == "kernel with the patch for the network cards"
    assert generation["changes"] == [
        {
            "name": "sys-kernel/blade-kernel",
            "slot": "0",
            "kind": "up",
            "old": "6.12.8-1",
            "new": "6.12.16-1",
            "why": [],
        }
    ]
    assert fetch(server, "/api/v1/blades/blade17")["blade"]["health"] == "failed"


def test_what_is_not_there_is_said_in_json(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetch(server, "/api/v1/blades/nobody")
    assert raised.value.code == 404
    assert json.loads(raised.value.read()) == {"error": "There is none of that name."}
