"""Advisories, news and messages of ebuilds on the status page, from a real tree's files."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from headnode.status import terminal
from headnode.status.gather import Gatherer
from headnode.status.model import Level, Status
from headnode.status.sources import security
from schedules.security import mark_read, security_once

Look = Callable[..., Any]


def gathered(looked: Any, clock: Callable[[], Any]) -> Status:
    return Gatherer(looked.site).status(clock())


def test_an_advisory_is_said_with_the_rings_and_blades_that_it_is_about(
    look: Look, insecure: Callable[..., None], clock: Callable[[], Any]
) -> None:
    looked = look(58)
    insecure(looked.site)
    status = gathered(looked, clock)
    found = [(each.name, each.severity, each.packages, each.nodes) for each in status.advisories]
    assert found == [
        ("202603-07", "high", ("dev-libs/openssl-3.3.3",), "blade[01-58]"),
        ("202602-03", "normal", ("dev-lang/python-3.13.1",), "blade[17,31-32,44]"),
    ]
    assert status.advisories[0].rings == ("canary", "fleet")
    assert status.advisories[1].rings == ()
    [point] = [each for each in status.verdict.points if "advisories" in each.text]
    assert (point.level, point.text, point.remedy) == (
        Level.WARN,
        "2 security advisories about what blades have: GLSA-202603-07, GLSA-202602-03.",
        "headnode security",
    )


def test_news_and_messages_are_there_once_and_until_they_are_read(
    look: Look, insecure: Callable[..., None], clock: Callable[[], Any]
) -> None:
    looked = look(58)
    insecure(looked.site)
    status = gathered(looked, clock)
    assert [(each.kind, each.about, each.title) for each in status.unread] == [
        ("news", "2026-03-02", "OpenSSH 10 drops DSA keys"),
        (
            "message",
            "sys-cluster/slurm-24.11.1",
            "slurmdbd's tables are converted at its first start.",
        ),
    ]
    said = {each.text: each.remedy for each in status.verdict.points}
    assert said["Unread: 1 news item and 1 message of an ebuild."] == "headnode security --read"
    mark_read(looked.site.state, security_once(looked.site, "blade"))
    again = gathered(looked, clock)
    assert again.unread == ()
    assert not any(text.text.startswith("Unread") for text in again.verdict.points)


def test_the_page_and_the_terminal_show_them(
    look: Look,
    insecure: Callable[..., None],
    serve: Callable[..., Any],
    get: Callable[[str], str],
    clock: Callable[[], Any],
) -> None:
    looked = look(58)
    insecure(looked.site)
    page = get(f"{serve(looked.site).url}/")
    assert "<td>GLSA-202603-07</td><td>high</td><td>dev-libs/openssl-3.3.3</td>" in page
    assert "<summary>OpenSSH 10 drops DSA keys <small>news, 2026-03-02</small></summary>" in page
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal.render(gathered(looked, clock)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "GLSA-202603-07" in shown
    assert "slurmdbd's tables are converted at its first start." in shown
    api = json.loads(get(f"{serve(looked.site).url}/api/v1/advisories"))
    assert [each["name"] for each in api] == ["202603-07", "202602-03"]


def test_it_is_worked_out_once_and_again_when_a_tree_or_a_ring_changes(
    look: Look,
    insecure: Callable[..., None],
    clock: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = look(58)
    insecure(looked.site)
    asked: list[str] = []

    def counted(site: Any, name: str, **options: Any) -> Any:
        asked.append(name)
        return security_once(site, name, **options)

    monkeypatch.setattr(security, "security_once", counted)
    first = gathered(looked, clock)
    assert gathered(looked, clock).advisories == first.advisories
    assert asked == ["blade"]
    insecure(looked.site, stamp="20260304T070000Z", advisories=1)
    assert [each.name for each in gathered(looked, clock).advisories] == ["202603-07"]
    assert asked == ["blade", "blade"]
    Path(looked.site.state / security.FILE).write_text("{")  # damaged: looked for again
    gathered(looked, clock)
    assert asked == ["blade", "blade", "blade"]
