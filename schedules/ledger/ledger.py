"""The ledger as the rest of headnode uses it: one object, opened for a site."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from schedules.ledger import pulls, runs
from schedules.ledger.pulls import BladeState, KeptReport, Pulled
from schedules.ledger.runs import Run
from schedules.ledger.store import Store, url_of
from schedules.rollout import BladeReport
from schedules.site import Site


class Ledger:
    """What ran and how each blade is. To be closed, or used as a context.

    Nothing touches the database before the first call, so that opening it never fails for that.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def of(cls, site: Site) -> Self:
        """The ledger that cluster.toml names.

        Raises:
            EnvironmentLacksError: it is a PostgreSQL database, and there is no driver for that.
        """
        options = site.cluster.ledger
        return cls(Store(url_of(options.url, site.state), options.busy_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.store.close()

    def pulled(self, report: BladeReport, at: datetime) -> None:
        """Write down a pull that the headnode saw.

        Raises:
            LedgerError: it cannot be written.
        """
        self.pulled_all([Pulled(report=report, at=at)], at)

    def pulled_all(self, reports: Iterable[Pulled], now: datetime) -> int:
        """Write down pulls in one transaction; how many of them were not there yet.

        Raises:
            LedgerError: they cannot be written; none of them is.
        """
        with self.store.writing() as connection:
            return pulls.write_pulls(connection, reports, now)

    def booted(self, blade: str, kernel: str, due: str, error: str, at: datetime) -> None:
        """Write down how a restart went (`pulls.write_booted`).

        Raises:
            LedgerError: it cannot be written.
        """
        with self.store.writing() as connection:
            pulls.write_booted(connection, blade, kernel, due, error, at)

    def blades(self) -> dict[str, BladeState]:
        """Every blade that was ever heard of or tried, by name.

        Raises:
            LedgerError: it cannot be read.
        """
        if self.store.is_new:  # asking shall not make a file
            return {}
        with self.store.reading() as connection:
            return {each.name: each for each in pulls.read_blades(connection)}

    def reports(self, blade: str, most: int = 20) -> list[KeptReport]:
        """The newest reports of a blade, the newest first.

        Raises:
            LedgerError: it cannot be read.
        """
        if self.store.is_new:
            return []
        with self.store.reading() as connection:
            return pulls.read_reports(connection, blade, most)

    def runs(self, headnode: str, *, job: str | None = None, most: int = 20) -> list[Run]:
        """The newest runs of a headnode (of a job), the newest first.

        Raises:
            LedgerError: it cannot be read.
        """
        if self.store.is_new:
            return []
        with self.store.reading() as connection:
            return runs.read_runs(connection, headnode, job=job, most=most)

    def update_seconds(self, most: int = 1000) -> dict[str, float]:
        """How long the last update of each blade took, by name, as far back as `most` updates.

        Raises:
            LedgerError: it cannot be read.
        """
        if self.store.is_new:
            return {}
        with self.store.reading() as connection:
            return pulls.read_seconds(connection, most)

    def count_reports(self) -> int:
        """How many reports are kept.

        Raises:
            LedgerError: it cannot be read.
        """
        with self.store.reading() as connection:
            return pulls.count_reports(connection)
