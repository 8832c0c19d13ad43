"""Where each mirror keeps a file, by its layout.conf; and how many files a host is asked at once.

Source: GLEP 75.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote, urlsplit

from headnode import gentoo
from mirror.claims import Cancelled, Reasons
from mirror.download import AddressError, get_small
from mirror.wanted import Wanted

LAYOUT_S = 24 * 3600.0  # as long as Portage's own clients keep one
DOWN_S = 60.0
POLL_S = 0.2


class Mirrors:
    """The mirrors at `bases`. Each is asked for its layout.conf once a day, when first needed."""

    def __init__(self, bases: Sequence[str], timeout_s: float) -> None:
        self.bases = bases
        self.timeout_s = timeout_s
        self.layouts: dict[str, tuple[float, str | AddressError]] = {}
        self.lock = threading.Lock()

    def addresses(self, wanted: Wanted) -> tuple[list[str], Reasons]:
        """Give the file's address on each mirror, and the mirrors that are down, with why."""
        good: list[str] = []
        down: list[tuple[str, str]] = []
        for base in self.bases:
            layout = self.layout(base)
            if isinstance(layout, AddressError):
                down.append((base, f"its layout.conf could not be had: {layout.why}"))
            else:
                path = gentoo.mirror_path(layout, wanted.filename, wanted.digests)
                good.append(f"{base.rstrip('/')}/distfiles/{quote(path)}")
        return good, tuple(down)

    def layout(self, base: str) -> str | AddressError:
        """Give a mirror's layout.conf, empty if it has none; the error if the mirror is down."""
        with self.lock:
            until, known = self.layouts.get(base, (0.0, ""))
            if time.monotonic() >= until:
                known = self._ask(f"{base.rstrip('/')}/distfiles/layout.conf")
                good_s = DOWN_S if isinstance(known, AddressError) else LAYOUT_S
                self.layouts[base] = (time.monotonic() + good_s, known)
            return known

    def _ask(self, url: str) -> str | AddressError:
        try:
            content = get_small(url, timeout_s=self.timeout_s).decode(errors="replace")
        except AddressError as error:
            return "" if error.status in (403, 404, 410) else error
        # A page that says "not found" with status 200 is no layout.
        return content if "[structure]" in content else ""


class Hosts:
    """Holds back whoever would ask one host for more than `limit` files at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.slots: dict[str, threading.Semaphore] = {}
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def asking(self, address: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Ask the host of `address` in the block, which starts when it is its turn.

        Raises:
            Cancelled: `cancelled` said so while waiting.
        """
        with self.lock:
            slot = self.slots.setdefault(_host(address), threading.Semaphore(self.limit))
        while not slot.acquire(timeout=POLL_S):
            if cancelled():
                raise Cancelled
        try:
            yield
        finally:
            slot.release()


def _host(address: str) -> str:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:  # it is refused when it is opened
        return ""
