"""How blades are shown: a line in a table, or all that is known of one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime

from blades.inventory import Blade, select
from headnode.console import say, table
from schedules.ledger.ledger import Ledger
from schedules.ledger.pulls import BladeState, KeptReport
from schedules.site import Site

MIB = 1 << 20
COLUMNS = (
    *("blade", "class", "ring", "generation due", "generation", "result", "last contact"),
    *("last success", "kernel", "kernel due", "reboot", "source builds"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A blade of cluster.toml, the generation that its ring has, and what the ledger knows."""

    blade: Blade
    due: int | None
    state: BladeState | None

    def as_json(self) -> dict[str, object]:
        """All of it; what nobody has heard of yet is null."""
        fields = [each.name for each in dataclasses.fields(BladeState)]
        known = {name: getattr(self.state, name, None) for name in fields}
        return known | {
            "name": self.blade.name,
            "class": self.blade.class_name,
            "ring": self.blade.ring,
            "due_generation": self.due,
            "reboot_pending": self.state is not None and self.state.reboot_pending,
        }

    def cells(self, now: datetime) -> tuple[object, ...]:
        """A row of the table."""
        blade, state = self.blade, self.state
        about = (blade.name, blade.class_name, blade.ring, self.due or "-")
        if state is None:
            return (*about, *("-",), "never heard of", *("-",) * 6)
        return (
            *(*about, state.generation or "-", state.result),
            *(ago(state.contact, now), ago(state.success, now)),
            *(state.kernel or "-", state.kernel_due or "-"),
            "pending" if state.reboot_pending else "-",
            "-" if state.source_builds is None else state.source_builds,
        )


def known_blades(site: Site, nodes: str | None) -> list[Line]:
    """The blades of a node set (None: all), in the order of cluster.toml.

    Raises:
        ConfigError: it names a blade that is in no ring.
        LedgerError: the ledger cannot be read.
    """
    blades = select(site.cluster, nodes)
    with Ledger.of(site) as ledger:
        known = ledger.blades()
    due: dict[tuple[str, str], int | None] = {}
    for class_name, ring in {(blade.class_name, blade.ring) for blade in blades}:
        current = site.binhost(class_name).ring(ring).current()
        due[class_name, ring] = current.generation if current else None
    return [
        Line(blade=each, due=due[each.class_name, each.ring], state=known.get(each.name))
        for each in blades
    ]


def ago(at: datetime | None, now: datetime) -> str:
    """How long ago something was, in the unit that a person would use."""
    if at is None:
        return "never"
    seconds = max(0, int((now - at).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def show_blade(line: Line, reports: list[KeptReport]) -> None:
    """Print all that is known of one blade."""
    for name, value in line.as_json().items():
        if name not in ("error", "error_at", "error_log"):
            say(f"{name.replace('_', ' '):<17}{shown(value)}")
    if reports:
        say("")
        table(
            ("at", "result", "generation", "changed", "source builds", "MiB", "seconds", "error"),
            (
                (
                    shown(each.at),
                    each.result,
                    each.generation or "-",
                    sum(change.startswith("+") for change in each.changes),
                    "-" if each.source_builds is None else each.source_builds,
                    "-" if each.fetched_bytes is None else f"{each.fetched_bytes / MIB:.1f}",
                    f"{each.seconds:.1f}",
                    each.error.partition("\n")[0],
                )
                for each in reports
            ),
        )
    if line.state and line.state.error:
        say(f"\nLast error, {shown(line.state.error_at)}:\n{line.state.error}")
        if line.state.error_log:
            say(f"\nIts log:\n{line.state.error_log.rstrip()}")


def shown(value: object) -> str:
    """A value for a person; times to the second, in UTC."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return "-" if value in (None, "") else str(value)
