"""The sentence at the top, and what wants a look with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from headnode.status.model import (
    Blade,
    Counts,
    Gate,
    Generation,
    Health,
    Level,
    Point,
    Repo,
    Ring,
    Run,
    Verdict,
)
from headnode.status.verdict import judge

NOW = datetime(2026, 3, 4, 7, tzinfo=UTC)
TONIGHT = NOW - timedelta(hours=5)


def blades(count: int, **others: Health) -> list[Blade]:
    """So many blades, good but for the named ones (`blade07=Health.FAILED`)."""
    return [one(f"blade{number:02}", others) for number in range(1, count + 1)]


def one(name: str, others: dict[str, Health]) -> Blade:
    health = others.get(name, Health.GOOD)
    has = {Health.GOOD: 5, Health.DRAINED: 5, Health.NEVER: None}.get(health, 4)
    return Blade(
        name=name,
        class_name="blade",
        ring="fleet",
        health=health,
        generation=has,
        wanted=5,
        note="disk full" if health is Health.FAILED else "",
    )


def ring(**facts: object) -> Ring:
    usual = {
        "class_name": "blade",
        "name": "fleet",
        "nodes": "blade[01-58]",
        "generation": 5,
        "sequence": 9,
        "since": TONIGHT,
        "issued": NOW - timedelta(days=8),
        "expires": NOW + timedelta(days=6),
        "blades": 58,
        "pulled": 58,
    }
    return Ring.model_validate(usual | facts)


def generation(number: int = 5, gates: tuple[Gate, ...] = ()) -> Generation:
    return Generation(
        class_name="blade",
        number=number,
        made=TONIGHT,
        why="",
        packages=10,
        rings=("fleet",),
        tags=(),
        before=number - 1,
        changes=Counts(),
        news=(),
        gates=gates,
    )


def verdict(of: Sequence[Blade], **more: object) -> Verdict:
    usual: dict[str, object] = {
        "now": NOW,
        "rings": [ring()],
        "generations": [generation()],
        "repos": [],
    }
    return judge(blades=of, **(usual | more))  # type: ignore[arg-type]


def said(found: Verdict) -> list[tuple[str, str, str]]:
    return [(each.level.value, each.text, each.remedy) for each in found.points]


def test_a_good_night_is_one_sentence_and_no_point() -> None:
    assert verdict(blades(58)) == Verdict(
        level=Level.GOOD, headline="All 58 blades have generation 5.", points=()
    )


def test_a_cluster_of_one_blade_is_spoken_of_as_one() -> None:
    assert verdict(blades(1)).headline == "The blade has generation 5."


def test_rings_with_different_generations_are_not_named_by_one_number() -> None:
    found = verdict(blades(3), rings=[ring(name="canary", generation=6), ring()])
    assert found.headline == "All 3 blades have what their ring has."


def test_each_trouble_is_a_point_with_the_command_that_helps_worst_first() -> None:
    found = verdict(
        blades(
            58,
            blade17=Health.FAILED,
            blade31=Health.UNREACHED,
            blade32=Health.UNREACHED,
            blade44=Health.BEHIND,
            blade50=Health.DRAINED,
        )
    )
    assert (found.level, found.headline) == (Level.BAD, "54 of 58 blades have generation 5.")
    pull = "headnode rollout run --nodes"
    assert said(found) == [
        ("bad", "blade17: failed to update (disk full).", f"{pull} blade17"),
        ("warn", "blade[31-32]: not reached.", f"{pull} blade[31-32]"),
        ("note", "blade50: drained.", "headnode blades undrain blade50"),
        ("note", "blade44: still to take what the ring has.", ""),
    ]


def test_a_new_blade_that_has_not_pulled_yet_is_a_note() -> None:
    assert said(verdict(blades(3, blade03=Health.NEVER))) == [
        ("note", "blade03: never heard of.", "headnode rollout run --nodes blade03")
    ]


def test_many_blades_are_counted_in_the_sentence_and_named_in_the_command() -> None:
    odd = {f"blade{number:02}": Health.FAILED for number in range(1, 58, 2)}
    found = verdict(blades(58, **odd))
    assert found.points[0].text == "29 blades: failed to update (disk full)."
    assert found.points[0].remedy.startswith("headnode rollout run --nodes blade[01,03,05,")


def test_a_blade_that_is_behind_for_more_than_a_night_and_a_day_wants_a_look() -> None:
    behind = blades(3, blade02=Health.BEHIND)
    late = verdict(behind, rings=[ring(since=NOW - timedelta(hours=37))])
    assert said(late) == [
        (
            "warn",
            "blade02: behind the ring for over 36 hours.",
            "headnode rollout run --nodes blade02",
        )
    ]


def test_a_deployment_that_blades_will_soon_refuse_is_urgent() -> None:
    remedy = "headnode serve renews deployments while it runs: look at what it logs."
    soon = verdict(blades(2), rings=[ring(expires=NOW + timedelta(hours=47))])
    assert said(soon) == [
        (
            "bad",
            "Blades of the ring fleet refuse its deployment from 2026-03-06 06:00 UTC on.",
            remedy,
        )
    ]
    over = verdict(blades(2), rings=[ring(expires=NOW - timedelta(hours=1))])
    assert over.points[0].text == (
        "Blades of the ring fleet refuse its deployment since 2026-03-04 06:00 UTC."
    )


def test_a_short_time_of_validity_is_urgent_only_with_a_quarter_of_it_left() -> None:
    made = {"issued": NOW, "expires": NOW + timedelta(days=2)}
    for hours, level in ((0, "good"), (35, "good"), (37, "bad")):
        later = NOW + timedelta(hours=hours)
        assert verdict(blades(2), rings=[ring(**made)], now=later).level.value == level


def test_a_stale_repository_and_a_waived_gate_are_said() -> None:
    stale = Repo(
        name="gentoo",
        snapshot=None,
        age_h=None,
        last_good=None,
        last_try=None,
        warning="gentoo was never synced",
    )
    gate = Gate(name="smoke", passed=False, waived="known", report="munge is not set up")
    found = verdict(blades(1), repos=[stale], generations=[generation(gates=(gate,))])
    assert said(found) == [
        ("warn", "gentoo was never synced.", "headnode mirror sync --now"),
        (
            "note",
            "Generation 5 was let through although smoke said no.",
            "headnode generations show 5",
        ),
    ]


def run(job: str, result: str, hour: int) -> Run:
    at = NOW.replace(hour=hour)
    return Run(id=f"{job}{hour}", job=job, step="", started=at, ended=at, result=result, note="why")


def test_a_job_that_failed_counts_until_it_went_well_again() -> None:
    failed = verdict(blades(1), runs=[run("night", "failed", 3), run("night", "good", 1)])
    assert said(failed) == [
        (
            "bad",
            "The job night failed on 2026-03-04 03:00 UTC: why.",
            "headnode schedule run night",
        )
    ]
    assert said(verdict(blades(1), runs=[run("night", "good", 3), run("night", "failed", 1)])) == []


def test_a_job_that_was_cut_off_is_to_be_gone_on_with() -> None:
    assert said(verdict(blades(1), runs=[run("nightly", "cut off", 3)])) == [
        (
            "warn",
            "The job nightly was cut off on 2026-03-04 03:00 UTC: why.",
            "headnode schedule run nightly",
        )
    ]


def test_a_new_headnode_is_told_what_to_do_first() -> None:
    found = verdict(blades(2, blade01=Health.NEVER, blade02=Health.NEVER), generations=[])
    assert found.headline == "Nothing was published yet."
    assert said(found) == [
        (
            "note",
            "No generation was published yet.",
            "headnode mirror sync && headnode build && headnode publish",
        )
    ]
    silent = verdict(blades(2, blade01=Health.NEVER, blade02=Health.NEVER))
    assert silent.headline == "No blade has reported yet; there are 2."


def test_what_could_not_be_gathered_is_the_worst() -> None:
    point = Point(level=Level.BAD, text="What the rings have cannot be told: damaged.")
    assert verdict(blades(1), problems=[point]).points == (point,)


def test_a_pending_reboot_is_a_note_with_the_command_for_it() -> None:
    pending = [each.model_copy(update={"reboot_pending": True}) for each in blades(3)[:2]]
    assert said(verdict([*pending, *blades(3)[2:]])) == [
        ("note", "blade[01-02]: reboot pending.", "headnode rollout reboot --nodes blade[01-02]")
    ]
