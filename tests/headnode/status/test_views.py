"""The pages over HTTP, from a real server: safe with hostile names, live, and read-only."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, TypeVar

import pytest

from binhost.server import Server
from headnode.status import views as views_module
from headnode.status.model import Fact, Pull
from headnode.status.sources import fleet
from headnode.status.views import POLICY, Views

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\x1b[2J\u202e"
PATIENCE_S = 20.0
AnyFact = TypeVar("AnyFact", bound=Fact)
PAGES = ("/", "/status/blades/blade17", "/status/generations/blade/5", "/status/nothing")


class Outline(HTMLParser):
    """What a page is made of: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def ask(
    server: Server, path: str, method: str = "GET", **fields: str
) -> tuple[http.client.HTTPResponse, str]:
    client = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
    client.request(method, path, headers={k.replace("_", "-"): v for k, v in fields.items()})
    response = client.getresponse()
    text = response.read().decode()
    client.close()
    return response, text


def again(fact: AnyFact, **changes: object) -> AnyFact:
    """The same with these changes, made as the adapters make it."""
    return type(fact)(**{**dict(fact), **changes})


Look = Callable[..., Any]
Serve = Callable[..., Server]


@pytest.fixture
def page(look: Look, serve: Serve) -> Server:
    """A cluster of 58 blades after a night, served."""
    return serve(look(58).site)


@pytest.fixture
def hostile(look: Look, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A cluster in which everything that others may write is an attack."""
    looked = look(58)
    bad = replace(looked.fleet.heard["blade17"], error=HOSTILE, kernel=HOSTILE)
    pull = Pull(at=bad.tried, result=HOSTILE, good=False, error=HOSTILE, changes=(HOSTILE,) * 9)
    changed = replace(
        looked.fleet,
        heard={**looked.fleet.heard, "blade17": bad},
        drained={"blade50": HOSTILE},
        runs=tuple(again(run, note=HOSTILE) for run in looked.fleet.runs),
    )
    monkeypatch.setattr("headnode.status.gather.read_fleet", lambda site, now: changed)
    monkeypatch.setattr("headnode.status.gather.pulls_of", lambda site, name: ((pull,), HOSTILE))
    return serve(looked.site)


def test_the_front_page_has_every_blade_ring_and_generation(page: Server) -> None:
    response, text = ask(page, "/")
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    outline = Outline(text)
    cells = [
        attrs["href"]
        for tag, attrs in outline.elements
        if "cell" in str(attrs.get("class")) and tag == "a"
    ]
    assert cells == [f"/status/blades/blade{number:02}" for number in range(1, 59)]
    words = " ".join(" ".join(outline.words).split())
    assert "54 of 58 blades have generation 5." in words
    assert "blade17: failed to update (emerge failed with exit code 1: no space left" in words
    assert "headnode rollout run --nodes blade17" in words
    assert "kernel with the patch for the network cards" in words
    assert "sys-kernel/blade-kernel 6.12.8-1 → 6.12.16-1" in words


def test_a_blade_s_page_has_what_each_pull_fetched_and_compiled(
    page: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2026, 3, 3, tzinfo=UTC)
    pulls = (
        Pull(at=at, result="updated", good=True, source_builds=1, fetched_bytes=5 << 20),
        Pull(at=at, result="unreached", good=False),
    )
    monkeypatch.setattr("headnode.status.gather.pulls_of", lambda site, name: (pulls, ""))
    words = Outline(ask(page, "/status/blades/blade17")[1]).words
    text = " ".join(" ".join(words).split()).replace("\N{EN DASH}", "?")
    assert " updated ? ? 1 5.0 MiB 0.0 ? " in text
    assert " unreached ? ? ? ? 0.0 ? " in text


def test_a_blade_s_page_tells_why_it_is_behind(page: Server) -> None:
    response, text = ask(page, "/status/blades/blade17")
    words = " ".join(" ".join(Outline(text).words).split())
    assert response.status == 200
    assert "emerge failed with exit code 1: no space left on device" in words
    assert "ring fleet of class blade generation 4 , its ring has 5" in words


def test_a_generation_s_page_has_its_packages_gates_and_trees(page: Server) -> None:
    response, text = ask(page, "/status/generations/blade/5")
    words = " ".join(" ".join(Outline(text).words).split())
    assert response.status == 200
    assert "dev-lang/python 0 up 3.13.1-1 3.13.2-1" in words
    assert "dev-libs/json-c 0 removed 0.18-1" in words
    assert "gentoo 20260303T020100Z → 20260304T020100Z" in words
    assert "way-back passed A lab blade went there and back." in words


@pytest.mark.parametrize(
    "path",
    [
        "/status/blades/blade99",
        "/status/blades/%00",
        "/status/blades/%ff",
        "/status/blades/..%2f..",
        "/status/generations/blade/99",
        "/status/generations/blade/-1",
        "/status/generations/blade/٣",
        "/status/generations/blade/" + "9" * 200,
        "/status/generations/nobody/1",
        "/status/",
        "/status/assets/..%2frender.py",
        "/api/v1/blades/blade99",
        "/api/v1/",
    ],
)
def test_what_is_not_there_is_404(page: Server, path: str) -> None:
    response, _ = ask(page, path.replace("٣", "%D9%A3"))
    assert response.status == 404


@pytest.mark.parametrize("path", PAGES)
def test_hostile_text_is_shown_and_does_nothing(hostile: Server, path: str) -> None:
    _, text = ask(hostile, path)
    outline = Outline(text)
    assert {tag for tag, _ in outline.elements}.isdisjoint({"img", "iframe", "object", "base"})
    for tag, attrs in outline.elements:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        if tag == "script":
            assert str(attrs["src"]).startswith("/status/assets/status.")
    assert [tag for tag, _ in outline.elements].count("script") == 1
    assert "\x1b" not in text and "\u202e" not in text
    if path in PAGES[:2]:
        assert any("<script>alert(1)</script>" in word for word in outline.words)
        assert any("{{7*7}}" in word for word in outline.words)


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_taken_from_elsewhere_and_the_policy_says_so(page: Server, path: str) -> None:
    response, text = ask(page, path)
    for tag, attrs in Outline(text).elements:
        for name in ("src", "href", "action"):
            address = attrs.get(name)
            assert address is None or address.startswith(("/", "data:,")), (tag, attrs)
            assert address is None or not address.startswith("//"), (tag, attrs)
    assert response.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert response.headers["Access-Control-Allow-Origin"] is None
    assert response.headers["Set-Cookie"] is None


def test_nothing_can_be_changed_over_http(page: Server) -> None:
    for path in ("/", "/status/events", "/metrics", "/api/v1/blades"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            response, _ = ask(page, path, method)
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_looking_changes_nothing_on_disk(look: Look, serve: Serve) -> None:
    site = look(58).site

    def listing() -> list[tuple[str, int]]:
        return sorted((str(path), path.lstat().st_mtime_ns) for path in site.state.rglob("*"))

    before = listing()
    server = serve(site)
    for path in (*PAGES, "/metrics", "/api/v1/status", "/status/generations.atom"):
        ask(server, path)
    assert listing() == before


def test_files_are_still_served_beside_the_page(page: Server, look: Look) -> None:
    site = look(58).site
    response, text = ask(page, "/binhost/blade/fleet/Packages")
    assert response.status == 200
    assert text == (site.state / "binhost/blade/rings/fleet/current/Packages").read_text()
    assert ask(page, "/distfiles/nothing")[0].status == 404


def test_style_sheet_and_script_are_kept_for_ever_under_a_name_that_changes(page: Server) -> None:
    _, text = ask(page, "/")
    for address in re.findall(r'"(/status/assets/[^"]+)"', text):
        response, content = ask(page, address)
        assert response.status == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["Content-Type"] == (
            "text/css; charset=utf-8"
            if address.endswith(".css")
            else "text/javascript; charset=utf-8"
        )
        assert "http" not in content.replace("http-", "")


def test_an_event_comes_only_when_the_browser_has_an_older_page(page: Server) -> None:
    response, text = ask(page, "/status/events")
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    found = re.fullmatch(r"retry: 2000\nid: (\w{16})\nevent: status\ndata: (\w{16})\n\n", text)
    assert found is not None
    assert found[1] == found[2]
    assert ask(page, "/status/events", Last_Event_ID=found[1])[1] == "retry: 2000\n\n"
    assert f'data-digest="{found[1]}"' in ask(page, "/")[1]


def test_a_page_is_made_once_a_second_however_many_look(
    look: Look, clock: Callable[[], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(views_module.time, "monotonic", lambda: seconds[0])
    looked: list[object] = []

    class Counting(views_module.Gatherer):
        def status(self, now: datetime) -> Any:
            looked.append(now)
            return super().status(now)

    monkeypatch.setattr(views_module, "Gatherer", Counting)
    views = Views(look(58).site, now=clock)
    first = views.answer("/", {})
    assert views.answer("/", {}) is first
    views.answer("/api/v1/status", {})
    seconds[0] = 0.99
    assert views.answer("/", {}) is first
    seconds[0] = 1.0
    assert views.answer("/", {}) is not first
    assert len(looked) == 2


def test_a_look_that_takes_long_holds_up_nobody_else(
    look: Look, clock: Callable[[], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    views = Views(look(3).site, now=clock)
    first = views.current()
    monkeypatch.setattr(views_module, "FRESH_S", 0.0)
    begun, go_on = threading.Event(), threading.Event()

    def slow(site: Any, now: datetime) -> Any:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return fleet.Fleet()

    monkeypatch.setattr("headnode.status.gather.read_fleet", slow)
    monkeypatch.setattr(views_module.time, "monotonic", lambda: first.until_s + 1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(views.current()))
    thread.start()
    assert begun.wait(PATIENCE_S)
    assert views.current() is first
    go_on.set()
    thread.join(PATIENCE_S)
    assert found != [first]
    assert views.current() is not first


def test_paths_that_are_not_there_fill_no_memory(look: Look, clock: Callable[[], datetime]) -> None:
    views = Views(look(3).site, now=clock)
    for number in range(100):
        views.answer(f"/status/blades/nobody{number}", {})
    assert len(views.current().replies) == 0


def test_a_damaged_record_is_said_and_the_page_is_still_there(look: Look, serve: Serve) -> None:
    site = look(58).site
    broken = site.state / "binhost/blade/generations/5/generation.json"
    broken.write_text("{}")
    response, text = ask(serve(site), "/")
    assert response.status == 200
    words = " ".join(" ".join(Outline(text).words).split())
    assert f"What was published of blade cannot be told: {broken} is damaged" in words
    assert "Nothing was published yet." in words


def test_a_headnode_on_which_nothing_was_done_says_what_to_do_first(
    empty: Callable[..., Any], serve: Serve
) -> None:
    _, text = ask(serve(empty(58)), "/")
    words = " ".join(" ".join(Outline(text).words).split())
    assert "Nothing was published yet." in words
    assert "headnode mirror sync && headnode build && headnode publish" in words
    assert "Nothing was built yet." in words
    assert "Next nightly in 18 h Thu 01:15 UTC" in words
    assert "Nothing ran in the last 24 hours." in words


def test_a_thousand_blades_fit_into_a_small_page(look: Look, serve: Serve) -> None:
    response, text = ask(serve(look(1000).site), "/")
    assert response.status == 200
    assert len(text) < 200_000
    assert text.count('class="cell g0 good"') + text.count(" failed") > 900
