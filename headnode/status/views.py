"""Answers to requests: a status that is at most a second old, as page, JSON, metrics, feed, event.

However many look at it at once, the state folder is read once a second at most, and a page is made
once for each status.

Events are server-sent events as browsers speak them, but each stream ends at once: the browser
comes back after RETRY_MS by itself (HTML, 9.2.3), on the same connection. An open stream for each
looker would hold a thread or a place in the event loop whose first duty is to send packages.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import unquote

from binhost.replies import Reply, data_reply
from config.portage import http_url
from headnode.status import api, feed, metrics
from headnode.status.gather import Gatherer
from headnode.status.model import Status
from headnode.status.page import render
from schedules.site import Site

FRESH_S = 1.0
RETRY_MS = 2000
HTML = "text/html; charset=utf-8"
JSON = "application/json"
ATOM = "application/atom+xml; charset=utf-8"
EVENTS = "text/event-stream; charset=utf-8"

# Nothing but our own style sheet, script and events, and no page of anybody's around ours.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
FRESH = (("Cache-Control", "no-cache"), *GUARDS)
FOR_EVER = (("Cache-Control", "public, max-age=31536000, immutable"), *GUARDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A status with its digest, and the replies that were made of it so far, by path."""

    status: Status
    digest: str
    until_s: float
    replies: dict[str, Reply] = field(default_factory=dict)


class Views:
    """All that is answered about one cluster; for any number of threads."""

    def __init__(self, site: Site, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._gatherer = Gatherer(site)
        self._base = http_url(site.cluster, "")
        self._now = now
        self._guard = threading.Lock()
        self._shot: Shot | None = None

    def answer(self, path: str, fields: Mapping[str, str]) -> Reply:
        """The reply to a GET of a percent-encoded path."""
        if (found := render.assets().get(path)) is not None:
            content, kind = found
            return data_reply(HTTPStatus.OK, content, kind, *FOR_EVER)
        shot = self.current()
        if path == "/status/events":
            return _events(shot.digest, fields.get("last-event-id", ""))
        if (made := shot.replies.get(path)) is None:
            made = self._make(path, shot)
            if made.status is HTTPStatus.OK:  # else anybody could fill the memory
                shot.replies[path] = made
        return made

    def current(self) -> Shot:
        """The status as it is now, or was a second ago.

        While somebody looks, all others get what was known before: if a look takes long (a database
        that does not answer), it holds up one thread of the server, and not all.
        """
        shot = self._shot
        if shot is not None and time.monotonic() < shot.until_s:
            return shot
        if shot is None:
            self._guard.acquire()
        elif not self._guard.acquire(blocking=False):
            return shot
        try:
            if self._shot is None or time.monotonic() >= self._shot.until_s:
                self._shot = self._look()
            return self._shot
        finally:
            self._guard.release()

    def _look(self) -> Shot:
        status = self._gatherer.status(self._now())
        until_s = time.monotonic() + FRESH_S
        return Shot(status=status, digest=digest_of(status), until_s=until_s)

    def _make(self, path: str, shot: Shot) -> Reply:
        status = shot.status
        match _names(path):
            case [""]:
                return _html(HTTPStatus.OK, render.front_page(status, shot.digest))
            case ["status", "blades", name]:
                return self._blade(shot, name)
            case ["status", "generations", class_name, number]:
                return self._generation(shot, class_name, number)
            case ["status", "generations.atom"]:
                text = feed.render(status, self._base)
                return data_reply(HTTPStatus.OK, text, ATOM, *FRESH)
            case ["metrics"]:
                return data_reply(HTTPStatus.OK, metrics.render(status), metrics.KIND, *FRESH)
            case ["api", "v1", *rest]:
                code, body = api.answer(rest, status, self._gatherer)
                return data_reply(code, body, JSON, *FRESH)
        return _missing(shot, "There is no such page.")

    def _blade(self, shot: Shot, name: str) -> Reply:
        found = self._gatherer.blade(shot.status, name)
        if found is None:
            return _missing(shot, "There is no such blade.")
        return _html(HTTPStatus.OK, render.blade_page(shot.status, found, shot.digest))

    def _generation(self, shot: Shot, class_name: str, number: str) -> Reply:
        found = self._gatherer.generation(class_name, number)
        if found is None:
            return _missing(shot, "There is no such generation (any more).")
        return _html(HTTPStatus.OK, render.generation_page(shot.status, found, shot.digest))


def digest_of(status: Status) -> str:
    """A digest that changes when anything does, and every minute, since ages are shown. Pure."""
    same = status.model_copy(update={"now": status.now.replace(second=0, microsecond=0)})
    return hashlib.sha256(same.model_dump_json().encode()).hexdigest()[:16]


def _names(path: str) -> list[str]:
    """The decoded names of a path; one that is not UTF-8 is no name of ours. Pure."""
    try:
        return [unquote(part, errors="strict") for part in path[1:].split("/")]
    except UnicodeDecodeError:
        return []


def _events(digest: str, last_seen: str) -> Reply:
    news = "" if last_seen == digest else f"id: {digest}\nevent: status\ndata: {digest}\n"
    text = f"retry: {RETRY_MS}\n{news}\n"
    return data_reply(HTTPStatus.OK, text.encode(), EVENTS, ("Cache-Control", "no-store"), *GUARDS)


def _html(code: HTTPStatus, text: str) -> Reply:
    return data_reply(code, text.encode("utf-8", "replace"), HTML, *FRESH)


def _missing(shot: Shot, what: str) -> Reply:
    return _html(HTTPStatus.NOT_FOUND, render.missing_page(shot.status, what, shot.digest))
