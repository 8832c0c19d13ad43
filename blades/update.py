"""Bring the blade to a deployment that it does not have yet. Part of the pull on a blade.

The order is what makes it safe to be cut anywhere: the deployment is believed, then it is asked
whether now is the time, then the mark `applying` is made, and it goes only when every package was
looked for and every check has passed. Until then each pull goes through all of it again; what is
done already costs little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# What a pull needs at its end, now: what it merges may bring another version of this program.
import blades.kernel
import blades.report
from blades import afterwards, brought, deadman, drift, kept, merging, places, ready
from blades.grub import KernelError
from blades.order import (
    AbsentError,
    Order,
    OrderError,
    UnreachedError,
    check_signature,
    fetch,
    read_json,
)
from blades.places import NotSetUpError, PullError, lacks_trees, read_state, write, write_json

APPLYING = "applying"
# For a deployment without a blade.json: made by a headnode that knew of none.
PLAIN: dict[str, Any] = {
    "checks": [],
    "health": [],
    "pull": {
        "reserve_mib": 0,
        "emerge_timeout_s": 3000.0,
        "defer_load": 0.0,
        "defer_users": False,
        "defer_command": "",
        "defer_timeout_s": 20.0,
        "check_timeout_s": 30.0,
        "restart": [],
        "confirm_s": 0.0,
        "back_command": "",
        "reboot_command": "reboot",
    },
}


def believe(order: Order, settings: Mapping[str, Any]) -> None:
    """Check a deployment that is not the applied one, and note its number and its keys."""
    if settings["signed"]:
        merging.run((places.TRUST,))
        check_signature(order, places.KEYRING)
    where, seen = f"{settings['class']}/{settings['ring']}", read_state("seen.json")
    highest = max(int(seen.get(where, 0)), order.says["sequence"])
    write(places.STATE / "seen.json", json.dumps({**seen, where: highest}) + "\n")
    if settings["signed"] and order.names("keys.asc"):
        keys = order.file("keys.asc").decode()
        if keys != places.KEYS.read_text():
            write(places.KEYS, keys)
            merging.run((places.TRUST,))


def bring_trees(says: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Bring the trees to those of a deployment, in the way that it says."""
    image = says.get("image")
    if image is None:
        if settings.get("tree", "rsync") != "rsync":
            raise NotSetUpError(
                "its trees come by rsync now, and its files are for images: on the headnode, "
                f"headnode blades config {settings['blade']} has what it needs"
            )
        if (places.STATE / "tree").is_symlink():
            merging.run((places.TREE, "leave"))
        sync(says["snapshots"])
        return
    name = f"images/{image['sha256']}.squashfs"
    # What differs from the image that is here comes by rsync.
    delta = ("--delta", f"{settings['rsync']}/{name}") if "rsync" in settings else ()
    url = f"{settings['headnode']}/{name}"
    (places.STATE / "synced").unlink(missing_ok=True)
    size = str(image["size_bytes"])
    merging.run((places.TREE, "use", *delta, url, image["sha256"], size, *says["repos"]))


def sync(snapshots: str) -> None:
    """Bring the trees to a snapshot set by rsync, if they are not there already.

    Portage takes no tree that is older than the one it has ("SERVER OUT OF DATE"), which is what a
    rollback brings; it asks metadata/timestamp.chk, and a tree without one is always synced.
    """
    synced = places.STATE / "synced"
    try:
        if synced.read_text() == snapshots:
            return
        synced.unlink()
    except FileNotFoundError:
        pass
    for stamp in places.REPOS.glob("*/metadata/timestamp.chk"):
        stamp.unlink()
    merging.run(merging.SYNC)
    write(synced, snapshots)


def drained(order: Order, blade: str) -> str | None:
    """Why the headnode says that this blade is drained; None if it is not."""
    url = f"{order.base}/drained.json"
    try:
        said = read_json(fetch(url), url)
    except UnreachedError:
        raise
    except AbsentError:  # nobody is
        return None
    except OrderError as error:
        return f"perhaps, the headnode does not say ({error})"
    return ready.why_drained(said.get(blade), datetime.now(UTC))


def update(
    order: Order, settings: Mapping[str, Any], report: dict[str, Any], words: frozenset[str]
) -> None:
    """Bring the blade to `order`; `report` is filled in as it goes.

    `words` may have `now` (nothing puts it off), `confirm` (the headnode will confirm it) and
    `brief` (what emerge still plans is asked by whoever started the pull).
    """
    says, before = order.says, read_state("applied.json").get("deployment", {})
    merging.begin_log()
    believe(order, settings)
    deadman.follow()
    half_way = (places.STATE / APPLYING).exists() or lacks_trees(says)
    if before and kept.same_state(before, says) and not half_way and drift.untouched():
        _note(order, report["packages"])
        report["result"] = "unchanged"
        return
    needed = [name for name in kept.FILES[1:] if name != "blade.json" or order.names(name)]
    texts = {name: order.file(name).decode() for name in needed}
    texts["deployment.json"] = order.content.decode()
    if why := _why_not_now(order, texts, settings, words):
        report["result"], report["error"] = "deferred", why
        return
    _note_cut(report)
    # Not for an edit that is put right: the blade was found well with this deployment before.
    is_new = bool(deadman.waiting()) or not (before and kept.same_state(before, says))
    deadman.disarm()
    sequence = says["sequence"]
    try:
        apply(texts, settings, report, brief="brief" in words)
    except BaseException as error:
        _mark(sequence, str(error) or type(error).__name__)
        raise
    kept.keep(texts, before)
    _note(order, report["packages"])
    limits = blade_of(texts)["pull"]
    if "confirm" in words and limits["confirm_s"] and before and is_new:
        report["confirm"] = deadman.arm(sequence, limits["confirm_s"])
    report["result"] = "updated"


def blade_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the blade is to be like, with a default for everything that is not said."""
    said = json.loads(texts.get("blade.json", "{}"))
    return {**PLAIN, **said, "pull": {**PLAIN["pull"], **said.get("pull", {})}}


def _why_not_now(
    order: Order, texts: Mapping[str, str], settings: Mapping[str, Any], words: frozenset[str]
) -> str:
    limits = blade_of(texts)["pull"]
    need = ready.needed_bytes(texts["Packages"], merging.installed(), limits["reserve_mib"])
    if full := ready.too_full(need):
        return full
    if "now" in words:
        return ""
    return "; ".join(ready.reasons(limits, drained(order, settings["blade"])))


def _note_cut(report: dict[str, Any]) -> None:
    """Say what became of the last pull, if it did not end well."""
    if merging.end_orphan():
        report["warnings"].append("the emerge of a pull that was killed was still at work: ended")
    try:
        text = (places.STATE / APPLYING).read_text()
    except FileNotFoundError:
        return
    try:
        last = dict(json.loads(text))
    except (ValueError, TypeError):
        last = {}
    number, why = last.get("sequence", "?"), last.get("error") or "it was cut off"
    first = str(why).partition("\n")[0]
    report["warnings"].append(f"the last pull, of deployment {number}, did not end well: {first}")


def _mark(sequence: int, error: str) -> None:
    write_json(places.STATE / APPLYING, {"sequence": sequence, "error": error})


def apply(
    texts: Mapping[str, str],
    settings: Mapping[str, Any],
    report: dict[str, Any],
    *,
    brief: bool = False,
) -> None:
    """Bring the blade to what `texts` (the files of a deployment, by name) say."""
    says = json.loads(texts["deployment.json"])
    packages = read_json(texts["generation.json"].encode(), "generation.json", "packages")
    wanted = merging.expected(packages["packages"])
    _mark(says["sequence"], "")
    report["emerge"] = True
    report["source_builds"] = report["fetched_bytes"] = None  # until it is known
    before, so_far = merging.installed(), (brought.merged(), brought.files())
    try:
        blade = blade_of(texts)
        if "files" in blade:
            report["drift"] += drift.put(blade, datetime.now(UTC))
        merging.put_index(texts["Packages"])
        if not report.get("by_itself"):
            bring_trees(says, settings)
        known = is_known_converged(packages)
        _merge(wanted, says, blade, settings, report, known=known, brief=brief)
    finally:
        after = merging.installed()
        report["changes"] = merging.differences(before, after)
        brought.tell(report, so_far, texts["Packages"])
    report["packages"] = len(wanted)
    _look(blade, report)


def is_known_converged(generation: Mapping[str, Any]) -> bool:
    """Whether a blade in a lab was asked what emerge still plans with it, and it was nothing."""
    gates = generation.get("gates", ())
    return any(each["gate"] == "converged" and each["passed"] for each in gates)


def _merge(
    wanted: Mapping[str, str],
    says: Mapping[str, Any],
    blade: Mapping[str, Any],
    settings: Mapping[str, Any],
    report: dict[str, Any],
    *,
    known: bool,
    brief: bool,
) -> None:
    limit_s = blade["pull"]["emerge_timeout_s"]
    if "files" not in blade:
        write(places.ETC / "sets/blade", "".join(f"{atom}\n" for atom in sorted(says["atoms"])))
    with merging.configuration(settings["signed"]) as environment:
        merging.run(merging.UPDATE, limit_s, **environment)
        if merging.installed().keys() - wanted.keys():
            merging.run(merging.DEPCLEAN, limit_s, **environment)
        there = merging.installed()
        lacking = [name for name, number in wanted.items() if there.get(name) != number]
        if lacking:
            raise PullError(f"emerge ended well, but did not install {', '.join(sorted(lacking))}")
        report["world"] = merging.own_world()
        # One that is just like the lab's blade, from where the answer is known, is not asked.
        if brief or (known and not report["world"] and there.keys() == wanted.keys()):
            return
        if more := merging.still_planned(environment, limit_s):
            report["warnings"].append(more)


def _look(blade: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Everything that is looked at when the packages are there."""
    limits, folders = blade["pull"], afterwards.protected()
    came = [change[1:] for change in report["changes"] if change.startswith("+")]
    found = {*afterwards.edited(came, folders), *afterwards.proposed(folders)}
    report["edited"] = sorted(found)
    done, report["stale"], wrong = afterwards.refresh(limits["restart"])
    report["restarted"] = done
    report["warnings"] += wrong
    if why := afterwards.failures(blade["checks"], limits["check_timeout_s"]):
        raise PullError("; ".join(why))


def _note(order: Order, packages: int) -> None:
    done = {"deployment": order.says, "packages": packages}
    write_json(places.STATE / "applied.json", done)
    (places.STATE / APPLYING).unlink(missing_ok=True)


def go_back(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Go back to what the blade had before its last pull, without the headnode.

    Raises:
        PullError: a package of that is not here any more.
    """
    texts, refused = kept.texts_of("before"), kept.texts_of("now")
    texts["Packages"] = kept.from_here(texts["Packages"], int(time.time()))
    report["by_itself"] = True
    limits = blade_of(refused)["pull"]
    merging.begin_log()
    deadman.refuse(json.loads(refused["deployment.json"]))
    apply(texts, settings, report)
    kept.gone_back()
    says = json.loads(texts["deployment.json"])
    write_json(places.STATE / "applied.json", {"deployment": says, "packages": report["packages"]})
    (places.STATE / APPLYING).unlink(missing_ok=True)
    deadman.disarm()
    try:  # or the blade boots what it has just refused, when somebody switches it off and on
        blades.kernel.settle(settings)
    except (KernelError, OSError, ValueError) as error:
        report["warnings"].append(str(error))
    if line := limits["back_command"]:
        report["warnings"] += afterwards.failures([line], 300.0)
    report["result"] = "updated"
