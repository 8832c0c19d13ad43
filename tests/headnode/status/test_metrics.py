"""The metrics are what Prometheus reads, and say what the status says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headnode.status import metrics
from headnode.status.gather import Gatherer

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def samples(look: Callable[..., Any], clock: Callable[[], datetime]) -> Samples:
    return read(metrics.render(Gatherer(look(58).site).status(clock())).decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"headnode_{name}", tuple(sorted(labels.items()))))


FLEET = {"class": "blade", "ring": "fleet"}


def test_blades_are_counted_by_health_zeroes_too(samples: Samples) -> None:
    counts = {
        health: value(samples, "blades", health=health, **FLEET)
        for health in ("good", "failed", "unreached", "behind", "drained", "pulling", "never")
    }
    assert counts == {
        "good": 51,
        "failed": 1,
        "unreached": 2,
        "behind": 1,
        "drained": 1,
        "pulling": 0,
        "never": 0,
    }


def test_each_blade_has_its_generation_and_when_it_was_seen(samples: Samples) -> None:
    assert value(samples, "blade_generation", blade="blade31", **FLEET) == 3
    assert value(samples, "blade_good", blade="blade31", **FLEET) == 0
    assert value(samples, "blade_good", blade="blade30", **FLEET) == 1
    seen = value(samples, "blade_seen_timestamp_seconds", blade="blade31", **FLEET)
    assert seen == datetime.fromisoformat("2026-03-02T01:30:00Z").timestamp()


def test_an_alert_can_be_made_of_age_verdict_and_expiry(samples: Samples) -> None:
    assert value(samples, "verdict") == 3
    assert value(samples, "generation", **{"class": "blade"}) == 5
    assert value(samples, "ring_generation", **FLEET) == 5
    synced = value(samples, "mirror_synced_timestamp_seconds", repo="gentoo")
    assert synced == datetime.fromisoformat("2026-03-04T01:34:00Z").timestamp()
    assert value(samples, "mirror_stale", repo="gentoo") == 0
    assert value(samples, "build_seconds", **{"class": "blade"}) == 1510
    assert value(samples, "run_failed", job="nightly") == 0
    assert value(samples, "next_run_timestamp_seconds", job="nightly") == (
        datetime.fromisoformat("2026-03-05T01:30:00Z").timestamp()
    )


def test_what_is_not_known_has_no_sample(
    empty: Callable[..., Any], clock: Callable[[], datetime]
) -> None:
    found = read(metrics.render(Gatherer(empty(2)).status(clock())).decode())
    names = {name for name, _ in found}
    assert "headnode_blade_good" not in names
    assert "headnode_mirror_synced_timestamp_seconds" not in names
    assert value(found, "blades", health="never", **{"class": "blade", "ring": "canary"}) == 1
