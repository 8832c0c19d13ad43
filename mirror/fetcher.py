"""One distfile at a time into its place: from the recycle bin, a mirror, or the ebuild's addresses.

What comes is checked with every digest that the Manifest gives (BLAKE2B and SHA512) before it has
its final name. Whoever fetches a file claims it, so that it is fetched once, whoever else wants it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from config.model import Distfiles
from mirror.claims import Cancelled, Reasons, claimed
from mirror.download import AddressError, download
from mirror.mirrors import Hosts, Mirrors
from mirror.store import Store, mismatch, put_in_place
from mirror.wanted import Wanted

log = logging.getLogger(__name__)

BACK_OFF_S = 1.0
BY_HAND = (("RESTRICT=fetch", "get it as the ebuild says, then: headnode mirror add FILE"),)


class Came(StrEnum):
    """Where a file came from."""

    THERE = "there already"
    RECYCLED = "recycled"
    FETCHED = "fetched"


class NotHadError(Exception):
    """A file could not be had: `reasons` has each address that was asked, with why."""

    def __init__(self, reasons: Reasons) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class Fetcher:
    """Brings files into the `store`, from several threads. `end` ends it soon.

    `on_position` is told a file's name and how many of its bytes are there. `sleep` is given the
    pauses between tries, in seconds, and `chance` gives a number from 0 to 1 that varies them: many
    that failed together would else come back together.
    """

    def __init__(
        self,
        store: Store,
        options: Distfiles,
        *,
        on_position: Callable[[str, int], None] = lambda filename, position: None,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.options = options
        self.mirrors = Mirrors(options.upstreams, options.timeout_s)
        self.hosts = Hosts(options.per_host)
        self.on_position = on_position
        self.sleep = sleep
        self.chance = chance
        self._ended = threading.Event()

    def end(self) -> None:
        """Have whatever is on its way end soon, with Cancelled; what came stays to be resumed."""
        self._ended.set()

    def get(self, wanted: Wanted, *, quiet_s: float = 0.0, anew: bool = False) -> Came:
        """Bring one file into place, or wait for whoever else does. `Store.prepare` came before.

        Within `quiet_s` seconds of a failure, anybody's, it is not tried again. `anew` replaces
        what is there.

        Raises:
            NotHadError: nobody gave it.
            Cancelled: after `end`.
            OSError: it cannot be written.
        """
        claim_path = self.store.claim(wanted.filename)
        with claimed(claim_path, self._ended.is_set) as claim:
            if not anew and self.store.has(wanted):
                return Came.THERE
            if self.store.restore(wanted):
                log.info("%s: back from the recycle bin", wanted.filename)
                return Came.RECYCLED
            if wanted.by_hand:
                raise NotHadError(BY_HAND)
            failed = claim.failed_within(quiet_s)
            if failed is not None:
                raise NotHadError(failed)
            try:
                self._from_anywhere(wanted)
            except NotHadError as error:
                claim.fail(error.reasons)
                raise
            return Came.FETCHED

    def _from_anywhere(self, wanted: Wanted) -> None:
        addresses, reasons = self.mirrors.addresses(wanted) if wanted.mirrored else ([], ())
        for address in (*addresses, *wanted.uris):
            why = self._from_address(address, wanted)
            if not why:
                log.info("%s: fetched from %s", wanted.filename, address)
                return
            log.warning("%s: %s: %s", wanted.filename, address, why)
            reasons = (*reasons, (address, why))
        raise NotHadError(reasons)

    def _from_address(self, address: str, wanted: Wanted) -> str:
        """Fetch the file from one address, again while the failure may pass; say why not."""
        why = ""
        for attempt in range(self.options.tries):
            if attempt:
                self.sleep(BACK_OFF_S * 2 ** (attempt - 1) * (0.5 + self.chance()))
            try:
                self._attempt(address, wanted)
            except AddressError as error:
                why = error.why
                if not error.passing:
                    break
            else:
                return ""
        return why

    def _attempt(self, address: str, wanted: Wanted) -> None:
        """Download, check, put in place. What was resumed and is wrong is tried once from zero."""
        partial = self.store.partials / wanted.filename
        resumed = partial.exists()
        with self.hosts.asking(address, self._ended.is_set):
            try:
                self._download(address, partial, wanted)
            except AddressError as error:
                if not resumed or not error.spoilt:
                    raise
                partial.unlink(missing_ok=True)
                self._download(address, partial, wanted)
        put_in_place(partial, self.store.place(wanted.filename))

    def _download(self, address: str, partial: Path, wanted: Wanted) -> None:
        """Download into `partial` and check it; what is wrong is removed."""
        if self._ended.is_set():
            raise Cancelled
        download(
            address,
            partial,
            size_bytes=wanted.size_bytes,
            timeout_s=self.options.timeout_s,
            on_position=lambda position: self.on_position(wanted.filename, position),
            cancelled=self._ended.is_set,
        )
        why = mismatch(partial, wanted.size_bytes, wanted.digests)
        if why:
            partial.unlink()
            raise AddressError(why, spoilt=True)
