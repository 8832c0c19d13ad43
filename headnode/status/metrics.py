"""The status for Prometheus. Everything is read from disk, so every server process says the same.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_timestamp_seconds` for
moments. A value that is not known has no sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from headnode.status.model import Health, Level, Status

KIND = "text/plain; version=0.0.4; charset=utf-8"
LEVELS = tuple(Level)  # 0: good, 1: note, 2: warn, 3: bad
Sample = tuple[tuple[str, ...], float | int | datetime | None]


def render(status: Status) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Once(status))
    return bytes(generate_latest(registry))


class _Once(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield InfoMetricFamily("headnode", "The headnode.", value={"version": status.version})
        yield _gauge(
            "headnode_verdict",
            "How urgent it is to look: 0 not, 1 something to know, 2 soon, 3 now.",
            (),
            [((), LEVELS.index(status.verdict.level))],
        )
        yield from _of_blades(status)
        yield from _of_rings(status)
        yield from _of_work(status)


def _gauge(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for values, number in samples:
        if number is not None:
            value = number.timestamp() if isinstance(number, datetime) else float(number)
            family.add_metric(values, value)
    return family


def _of_blades(status: Status) -> Iterator[Metric]:
    counts = Counter((each.class_name, each.ring, each.health) for each in status.blades)
    rings = [(each.class_name, each.name) for each in status.rings]
    yield _gauge(
        "headnode_blades",
        "Blades, by class, ring and health.",
        ("class", "ring", "health"),
        [((*ring, health.value), counts[(*ring, health)]) for ring in rings for health in Health],
    )
    labels = ("blade", "class", "ring")
    names = [((each.name, each.class_name, each.ring), each) for each in status.blades]
    yield _gauge(
        "headnode_blade_generation",
        "The generation that a blade has.",
        labels,
        [(name, each.generation) for name, each in names],
    )
    yield _gauge(
        "headnode_blade_good",
        "Whether a blade has what its ring has; nothing for one that never reported.",
        labels,
        [
            (name, None if each.health is Health.NEVER else each.health is Health.GOOD)
            for name, each in names
        ],
    )
    yield _gauge(
        "headnode_blade_seen_timestamp_seconds",
        "When a blade last answered.",
        labels,
        [(name, each.seen) for name, each in names],
    )


def _of_rings(status: Status) -> Iterator[Metric]:
    labels = ("class", "ring")
    names = [((each.class_name, each.name), each) for each in status.rings]
    yield _gauge(
        "headnode_ring_generation",
        "The generation in front of a ring.",
        labels,
        [(name, each.generation) for name, each in names],
    )
    yield _gauge(
        "headnode_ring_deployment",
        "The number of a ring's deployment.",
        labels,
        [(name, each.sequence) for name, each in names],
    )
    yield _gauge(
        "headnode_ring_expires_timestamp_seconds",
        "When blades would refuse a ring's deployment.",
        labels,
        [(name, each.expires) for name, each in names],
    )
    newest = {each.class_name: each for each in reversed(status.generations)}
    yield _gauge(
        "headnode_generation",
        "The newest generation of a class.",
        ("class",),
        [((name,), each.number) for name, each in newest.items()],
    )
    yield _gauge(
        "headnode_generation_made_timestamp_seconds",
        "When the newest generation of a class was made.",
        ("class",),
        [((name,), each.made) for name, each in newest.items()],
    )


def _of_work(status: Status) -> Iterator[Metric]:
    repos = [((each.name,), each) for each in status.repos]
    yield _gauge(
        "headnode_mirror_synced_timestamp_seconds",
        "When a repository was last synced.",
        ("repo",),
        [(name, each.last_good) for name, each in repos],
    )
    yield _gauge(
        "headnode_mirror_stale",
        "Whether a repository is older than [mirror] stale_h allows.",
        ("repo",),
        [(name, bool(each.warning)) for name, each in repos],
    )
    builds = [((each.class_name,), each) for each in status.builds]
    yield _gauge(
        "headnode_build_running",
        "Whether somebody is at work in a class's builder.",
        ("class",),
        [(name, bool(each.holder)) for name, each in builds],
    )
    yield _gauge(
        "headnode_build_finished_timestamp_seconds",
        "When the last good build ended.",
        ("class",),
        [(name, each.finished) for name, each in builds],
    )
    yield _gauge(
        "headnode_build_seconds",
        "How long the last good build took.",
        ("class",),
        [(name, each.seconds) for name, each in builds],
    )
    last = {(each.job,): each for each in reversed(status.runs) if not each.step and each.ended}
    yield _gauge(
        "headnode_run_ended_timestamp_seconds",
        "When a job last ended.",
        ("job",),
        [(name, each.ended) for name, each in last.items()],
    )
    yield _gauge(
        "headnode_run_failed",
        "Whether a job failed when it last ran.",
        ("job",),
        [(name, each.result == "failed") for name, each in last.items()],
    )
    yield _gauge(
        "headnode_next_run_timestamp_seconds",
        "When a job is due.",
        ("job",),
        [((each.job,), each.at) for each in status.next_runs],
    )
    yield _gauge(
        "headnode_helper_jobs",
        "Compile jobs that a distcc helper did.",
        ("helper",),
        [((each.name,), each.jobs) for each in status.helpers],
    )
