"""The generations as an Atom feed: for a reader, or a chat that shows feeds.

Source: RFC 4287; `tag:` addresses are those of RFC 4151.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree import ElementTree

from headnode.status.model import Generation, Status
from headnode.wording import counted

ATOM = "http://www.w3.org/2005/Atom"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render(status: Status, base: str) -> bytes:
    """The feed; `base` is the address of the server, with its slash."""
    feed = ElementTree.Element("feed", xmlns=ATOM)
    newest = max((each.made for each in status.generations), default=EPOCH)
    _add(feed, "title", f"{status.host}: generations")
    _add(feed, "id", f"{base}status/generations.atom")
    _add(feed, "updated", newest.isoformat())
    _add(_add(feed, "author"), "name", "headnode")
    _add(feed, "link", rel="self", href=f"{base}status/generations.atom")
    _add(feed, "link", rel="alternate", href=base)
    for each in sorted(status.generations, key=lambda each: each.made, reverse=True):
        _entry(feed, each, status.host, base)
    return bytes(ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True))


def _entry(feed: ElementTree.Element, it: Generation, host: str, base: str) -> None:
    entry = _add(feed, "entry")
    made = it.made.isoformat()
    where = f"{quote(it.class_name, safe='')}/{it.number}"
    _add(entry, "id", f"tag:{host},{it.made:%Y-%m-%d}:headnode/{where}")
    _add(entry, "title", f"Generation {it.number} of {it.class_name}")
    _add(entry, "updated", made)
    _add(entry, "published", made)
    _add(entry, "link", rel="alternate", href=f"{base}status/generations/{where}")
    _add(entry, "summary", "\n".join(_lines(it)))


def _lines(it: Generation) -> Iterator[str]:
    if it.why:
        yield it.why
    if it.before is None:
        yield f"{counted(it.packages, 'package')}."
        return
    kinds = {kind: count for kind, count in it.changes.model_dump().items() if count}
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "the same packages"
    yield f"Since generation {it.before}: {said}."
    yield from it.news


def _add(
    parent: ElementTree.Element, name: str, text: str = "", **facts: str
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name, facts)
    child.text = text or None
    return child
