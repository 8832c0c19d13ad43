"""The gates put together: which are asked of a move, in which order.

`binhost.integrity` and `binhost.monotonic` decide from what lies on disk. The others ask a blade in
a lab (`schedules.blade_gates`), which is imported when one of them is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from binhost import integrity, monotonic
from binhost.gates import Gates, Move, MoveKind, Waivers
from binhost.monotonic import Stand
from binhost.records import GateReport, Generation
from binhost.signing import verify
from config.model import Gate
from schedules.licences import licence_gates
from schedules.observer import Observer
from schedules.site import Site

ASKED = {
    MoveKind.PUBLISH: tuple(Gate),
    MoveKind.PROMOTE: (Gate.INTEGRITY, Gate.LICENCE, Gate.SMOKE),
    MoveKind.ROLLBACK: (Gate.INTEGRITY, Gate.LICENCE, Gate.WAY_BACK),
}
ON_DISK = frozenset({Gate.INTEGRITY, Gate.LICENCE, Gate.MONOTONIC})


def gates_of(site: Site, *, waivers: Waivers, now: datetime, watch: Observer) -> Gates:
    """The gates of a site's moves; `watch` is told each report as it comes."""

    def ask(move: Move) -> Iterable[GateReport]:
        examination = _Examination(site=site, move=move, waivers=waivers, now=now, watch=watch)
        total, number = len(examination.asked), 0
        started = time.monotonic()
        for number, report in enumerate(examination.reports(), 1):
            watch.amount("gates", number, max(number, total), "gates")
            watch.say(f"{report.gate}: {verdict(report, waivers)}. {report.report}")
            yield report.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
            started = time.monotonic()
        watch.amount("gates", number, number, "gates")  # some had nothing to ask here

    return ask


def verdict(report: GateReport, waivers: Waivers = Waivers()) -> str:  # noqa: B008 (frozen)
    """What a report comes to, in a word or two. Pure."""
    if report.passed:
        return "WARNING" if report.warns else "passed"
    return "waived" if report.waived or report.gate in waivers.names else "NOT PASSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examination:
    """One move, looked at."""

    site: Site
    move: Move
    waivers: Waivers
    now: datetime
    watch: Observer

    @property
    def asked(self) -> list[Gate]:
        chosen = self.site.cluster.publish.gates
        return [gate for gate in ASKED[self.move.kind] if gate in chosen]

    def reports(self) -> Iterator[GateReport]:
        if Gate.INTEGRITY in self.asked:
            yield self._integrity()
        if Gate.LICENCE in self.asked:
            yield from licence_gates(self.site, self.move)
        if Gate.MONOTONIC in self.asked:
            yield self._monotonic()
        if on_blade := [gate for gate in self.asked if gate not in ON_DISK]:
            yield from self._on_blade(on_blade)

    def _on_blade(self, gates: list[Gate]) -> Iterator[GateReport]:
        from schedules.blade_gates import Examination

        examination = Examination(
            site=self.site, move=self.move, waivers=self.waivers, now=self.now, watch=self.watch
        )
        yield from examination.reports(gates)

    def _integrity(self) -> GateReport:
        move, present = self.move, self.move.present
        fetched = sorted(set(move.entries).difference(present.packages if present else ()))
        pool = self.site.binhost(move.class_name).pool
        return integrity.examine(
            pool.folder, move.entries, move.generation.packages, fetched, self._signatures
        )

    def _signatures(self, files: Iterable[Path]) -> Iterator[str]:
        """What is wrong with packages' signatures, as a blade would check them."""
        binhost = self.site.binhost(self.move.class_name)
        if binhost.keys:
            for path, fault in verify(files, binhost.keys.verify_home()).items():
                yield f"{path} has no signature that blades trust: {fault}."

    def _monotonic(self) -> GateReport:
        present = self.move.present
        old = Stand(
            atoms=present.atoms if present else (),
            packages=present.packages if present else (),
            read=lambda: self._entries(present) if present else {},
        )
        entries = self.move.entries
        new = Stand(atoms=self.move.generation.atoms, packages=entries, read=lambda: entries)
        limit = self.site.cluster.publish.max_gone_percent
        return monotonic.examine(old, new, max_gone_percent=limit)

    def _entries(self, generation: Generation) -> Mapping[str, str]:
        return self.site.binhost(self.move.class_name).generations.entries(generation)
