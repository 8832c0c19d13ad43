"""A distfile that somebody asks for and the mirror lacks: fetched once, checked, kept.

Others who ask meanwhile wait for the same download, in this process and in others
(`mirror.claims`). A file is fetched only if a tree in use names it, and has its name only when it
is what the Manifest says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from config.model import Distfiles
from headnode.errors import MirrorError
from headnode.files import is_regular
from mirror import lookup
from mirror.catalogue import TreeSet
from mirror.claims import Cancelled
from mirror.disk import writing_to
from mirror.distfiles import DistfilesError, Report
from mirror.fetcher import Fetcher, NotHadError
from mirror.layout import is_file_name
from mirror.store import Store
from mirror.wanted import Wanted

Failed = tuple[float, MirrorError]


class PullThrough:
    """Fetches what is asked for; one for each process, used by all its threads.

    `trees` gives the snapshot sets in use, the newest first, each time that a file is missing.
    Made after a fork, not before it: it has threads.
    """

    def __init__(
        self, state: Path, options: Distfiles, trees: Callable[[], Sequence[TreeSet]]
    ) -> None:
        self._store = Store(state)
        self._options = options
        self._trees = trees
        self._fetcher = Fetcher(self._store, options)
        self._slots = threading.Semaphore(options.parallel)
        self._guard = threading.Lock()
        self._running: dict[str, Future[Path]] = {}
        self._failed: dict[str, Failed] = {}

    def fetch(self, filename: str) -> Path | None:
        """Give where the file lies, fetched now if need be; None if no tree in use names it.

        Waits `wait_s` for a download, which goes on after that. What failed less than `quiet_s`
        ago, in any process, fails at once.

        Raises:
            DistfilesError: no address gave it.
            MirrorError: only a person may fetch it, the disk is full, or it takes longer.
        """
        if not is_file_name(filename):
            return None
        place = self._store.place(filename)
        if is_regular(place):
            return place
        with writing_to(self._store.folder):
            wanted = lookup.find(self._store.state, self._trees(), filename)
        if wanted is None:
            return None
        if wanted.by_hand:  # no download: it is in the recycle bin, or for a person
            self._get(wanted)
            return place
        try:
            return self._download(wanted).result(self._options.wait_s)
        except TimeoutError:
            raise MirrorError(
                f"{filename} is still being fetched after {self._options.wait_s:g} s.",
                remedy="Ask again: the download goes on.",
            ) from None

    def close(self) -> None:
        """End the downloads that run; what came of them stays, to be carried on with."""
        self._fetcher.end()
        with self._guard:
            running = list(self._running.values())
        wait(running)

    def _download(self, wanted: Wanted) -> Future[Path]:
        """Start the file's download, or give the one that runs.

        Raises:
            MirrorError: it failed a moment ago.
        """
        with self._guard:
            if running := self._running.get(wanted.filename):
                return running
            until, error = self._failed.get(wanted.filename, (0.0, None))
            if error and time.monotonic() < until:
                raise error
            future: Future[Path] = Future()
            self._running[wanted.filename] = future
        # A daemon: a server that ends does not wait for it, and what came is carried on with.
        thread = threading.Thread(target=self._bring, args=(wanted, future), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread can be had just now (limits: pids, memory)
            failed = MirrorError(
                f"{wanted.filename} cannot be fetched now: {error}.",
                remedy="The next request tries it again; look at the limits of the service.",
            )
            self._settle(wanted.filename, None)
            future.set_exception(failed)
            raise failed from error
        return future

    def _bring(self, wanted: Wanted, future: Future[Path]) -> None:
        try:
            with self._slots:
                self._get(wanted)
        except BaseException as error:
            self._settle(wanted.filename, error if isinstance(error, MirrorError) else None)
            future.set_exception(error)
        else:
            self._settle(wanted.filename, None)
            future.set_result(self._store.place(wanted.filename))

    def _settle(self, filename: str, error: MirrorError | None) -> None:
        """Take note that a download is over; an error is given to who asks within `quiet_s`."""
        now = time.monotonic()
        with self._guard:
            del self._running[filename]
            self._failed = {name: each for name, each in self._failed.items() if each[0] > now}
            if error:
                self._failed[filename] = (now + self._options.quiet_s, error)

    def _get(self, wanted: Wanted) -> None:
        try:
            with writing_to(self._store.folder):
                self._store.prepare()
                self._fetcher.get(wanted, quiet_s=self._options.quiet_s)
        except NotHadError as error:
            if wanted.by_hand:
                raise by_hand(wanted) from error
            raise DistfilesError(Report(failed={wanted.filename: error.reasons})) from error
        except Cancelled as error:
            raise MirrorError(f"{wanted.filename} was on its way when headnode ended.") from error


def by_hand(wanted: Wanted) -> MirrorError:
    """The error for a file that only a person may fetch."""
    return MirrorError(
        f"{wanted.filename} is to be fetched by hand: {', '.join(wanted.by)} has RESTRICT=fetch.",
        remedy=f"Get it as the ebuild says, then: headnode mirror add {wanted.filename}",
    )
