"""Distfiles, brought here and checked before anyone asks for them.

A file has its final name only when its size and every digest that the Manifest gives were found
right; until then it is below `.partial/`, where the next run carries on with it. A file that is
there with the right size is trusted. `wanted` says which files are needed, `download` gets one
from one address.

Not fetched: a file with RESTRICT=fetch, which a person has to put in place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from config.model import Distfiles
from headnode import gentoo
from headnode.errors import MirrorError
from headnode.files import digests, is_regular, locked, sync_folder, write_atomic
from mirror.disk import writing_to
from mirror.download import AddressError, Cancelled, download, get_small
from mirror.layout import LAYOUT_CONF, path_of
from mirror.wanted import STRONG, Package, Wanted, plan

__all__ = ["DistfilesError", "Package", "Progress", "Report", "Wanted", "fetch", "plan"]

log = logging.getLogger(__name__)

BACK_OFF_S = 1.0
REMEDY = (
    "Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
    "or sync the tree if the files changed upstream."
)

Reasons = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, over all files; `size_bytes` counts what came in this run."""

    files: int
    files_total: int
    size_bytes: int
    size_bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did, by file name; `failed` has each address with why it did not give the file."""

    fetched: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    failed: Mapping[str, Reasons] = field(default_factory=dict)


class DistfilesError(MirrorError):
    """Some files could not be had; `report` says which, and what came is in place."""

    def __init__(self, report: Report) -> None:
        lines = []
        for filename, reasons in report.failed.items():
            lines.append(f"\n  {filename}" + ("" if reasons else ": no address is known for it"))
            lines.extend(f"\n    {address}: {why}" for address, why in reasons)
        super().__init__(
            f"{len(report.failed)} distfiles could not be fetched.{''.join(lines)}\n",
            remedy=REMEDY,
        )
        self.report = report


def fetch(
    state: Path,
    wanted: Iterable[Wanted],
    options: Distfiles,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Bring the `wanted` files that are not there yet below `<state>/mirror/distfiles/`.

    Each is asked of the mirrors in order, then of the ebuild's own addresses, `options.tries`
    times where the failure may pass. `on_progress` is called from several threads, one at a time.

    Raises:
        DistfilesError: some could not be had; all others are in place.
        MirrorError: the disk is full.
        BusyError: another fetch is running.
    """
    folder = state / "mirror" / "distfiles"
    with writing_to(folder):
        _prepare(folder)
        with locked(folder / ".partial" / ".lock", "a fetch of distfiles"):
            there, absent, by_hand = _sort_out(folder, wanted)
            run = Run(folder, options, absent, on_progress, sleep)
            failed = run.all(absent)
    report = Report(
        fetched=tuple(each.filename for each in absent if each.filename not in failed),
        present=there,
        by_hand=by_hand,
        failed=failed,
    )
    log.info("distfiles: %d fetched, %d present", len(report.fetched), len(report.present))
    if failed:
        raise DistfilesError(report)
    return report


def is_present(folder: Path, wanted: Wanted) -> bool:
    """Whether the file is in place below `folder`, by its size."""
    path = folder / path_of(wanted.filename)
    return is_regular(path) and path.stat().st_size == wanted.size_bytes


def _sort_out(
    folder: Path, wanted: Iterable[Wanted]
) -> tuple[tuple[str, ...], list[Wanted], tuple[str, ...]]:
    """Split into names that are there, files to fetch, and names only a person may fetch."""
    every = list(wanted)
    absent = [each for each in every if not is_present(folder, each)]
    missing = {each.filename for each in absent}
    return (
        tuple(each.filename for each in every if each.filename not in missing),
        [each for each in absent if not each.by_hand],
        tuple(each.filename for each in absent if each.by_hand),
    )


def _prepare(folder: Path) -> None:
    for each in (folder, folder / ".partial"):
        each.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / ".partial").chmod(0o700)
    layout = folder / "layout.conf"
    if not layout.exists() or layout.read_text() != LAYOUT_CONF:
        write_atomic(layout, LAYOUT_CONF)


class Mirrors:
    """Where each mirror keeps a file, by its layout.conf, which is asked for once a run."""

    def __init__(self, bases: Sequence[str], timeout_s: float) -> None:
        self.bases = bases
        self.timeout_s = timeout_s
        self.layouts: dict[str, str | AddressError] = {}
        self.lock = threading.Lock()

    def addresses(self, wanted: Wanted) -> tuple[list[str], list[tuple[str, str]]]:
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
        return good, down

    def layout(self, base: str) -> str | AddressError:
        """Give a mirror's layout.conf, empty if it has none; the error if the mirror is down."""
        with self.lock:
            if base not in self.layouts:
                self.layouts[base] = self._ask(f"{base.rstrip('/')}/distfiles/layout.conf")
            return self.layouts[base]

    def _ask(self, url: str) -> str | AddressError:
        try:
            content = get_small(url, timeout_s=self.timeout_s).decode(errors="replace")
        except AddressError as error:
            return "" if error.status in (403, 404, 410) else error
        # A page that says "not found" with status 200 is no layout.
        return content if "[structure]" in content else ""


class Run:
    """One run over several files: its threads, its progress, and how it ends early."""

    def __init__(
        self,
        folder: Path,
        options: Distfiles,
        absent: Sequence[Wanted],
        on_progress: Callable[[Progress], None],
        sleep: Callable[[float], None],
    ) -> None:
        self.folder = folder
        self.options = options
        self.mirrors = Mirrors(options.upstreams, options.timeout_s)
        self.sleep = sleep
        self.on_progress = on_progress
        self.files_total = len(absent)
        self.size_bytes_total = sum(each.size_bytes for each in absent)
        self.files = 0
        self.size_bytes = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def all(self, absent: Sequence[Wanted]) -> dict[str, Reasons]:
        """Fetch `absent` in parallel; give those that failed, each address with why."""
        failed: dict[str, Reasons] = {}
        with ThreadPoolExecutor(self.options.parallel) as pool:
            futures = {pool.submit(self.one, each): each for each in absent}
            try:
                for future in as_completed(futures):
                    reasons = future.result()
                    self.count(files=1)
                    if reasons is not None:
                        failed[futures[future].filename] = reasons
            except BaseException:
                self.ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return dict(sorted(failed.items()))

    def count(self, *, files: int = 0, size_bytes: int = 0) -> None:
        """Take note of progress and hand it on."""
        with self.lock:
            self.files += files
            self.size_bytes += size_bytes
            self.on_progress(
                Progress(
                    files=self.files,
                    files_total=self.files_total,
                    size_bytes=self.size_bytes,
                    size_bytes_total=self.size_bytes_total,
                )
            )

    def one(self, wanted: Wanted) -> Reasons | None:
        """Fetch one file into place; None if that went well, else each address with why not."""
        addresses, reasons = self.mirrors.addresses(wanted) if wanted.mirrored else ([], [])
        for address in (*addresses, *wanted.uris):
            why = self.from_address(address, wanted)
            if not why:
                log.info("%s: fetched from %s", wanted.filename, address)
                return None
            log.warning("%s: %s: %s", wanted.filename, address, why)
            reasons.append((address, why))
        return tuple(reasons)

    def from_address(self, address: str, wanted: Wanted) -> str:
        """Fetch one file from one address, again while the failure may pass; say why not."""
        why = ""
        for attempt in range(self.options.tries):
            if attempt:
                self.sleep(BACK_OFF_S * 2 ** (attempt - 1))
            try:
                self.attempt(address, wanted)
            except AddressError as error:
                why = error.why
                if not error.passing:
                    break
            else:
                return ""
        return why

    def attempt(self, address: str, wanted: Wanted) -> None:
        """Download, check, put in place. What was resumed and is wrong is tried once from zero."""
        partial = self.folder / ".partial" / wanted.filename
        resumed = partial.exists()
        try:
            self.download(address, partial, wanted)
            verify(partial, wanted)
        except AddressError as error:
            if not resumed or not error.spoilt:
                raise
            partial.unlink(missing_ok=True)
            self.download(address, partial, wanted)
            verify(partial, wanted)
        put_in_place(partial, self.folder / path_of(wanted.filename))

    def download(self, address: str, partial: Path, wanted: Wanted) -> None:
        """Download into `partial`, counting, and ended when the run is."""
        if self.ended.is_set():
            raise Cancelled
        download(
            address,
            partial,
            size_bytes=wanted.size_bytes,
            timeout_s=self.options.timeout_s,
            on_bytes=lambda count: self.count(size_bytes=count),
            cancelled=self.ended.is_set,
        )


def verify(partial: Path, wanted: Wanted) -> None:
    """Check a complete file against the Manifest; one that is wrong is removed.

    Raises:
        AddressError: its size or a digest differs.
    """
    size = partial.stat().st_size
    if size != wanted.size_bytes:
        partial.unlink()
        raise AddressError(f"it has {size} bytes and should have {wanted.size_bytes}", spoilt=True)
    found = digests(partial, *(STRONG[kind] for kind in wanted.digests))
    for kind, expected in wanted.digests.items():
        got = found[STRONG[kind]]
        if got != expected.lower():
            partial.unlink()
            raise AddressError(
                f"wrong content: its {kind} is {got[:16]}…, the Manifest says {expected[:16]}…",
                spoilt=True,
            )


def put_in_place(partial: Path, target: Path) -> None:
    """Make a checked file visible, in one rename, readable by everyone."""
    with partial.open("rb") as file:
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o755)
    partial.replace(target)
    sync_folder(target.parent)
