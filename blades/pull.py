"""Bring this blade to what its ring has. Started on blades as /usr/local/sbin/headnode-pull.

    headnode-pull [--now] [--confirm] [--report] [--brief]
                                        pull; --now: whatever would put it off; --confirm: the
                                        headnode will confirm it (blades.deadman); --report: tell
                                        the headnode, which did not ask for it (blades.report);
                                        --brief: who started it asks what emerge still plans
    headnode-pull --trees               bring the trees alone, for plain emerge on a new blade
    headnode-pull status                say what the blade is at
    headnode-pull health                run the health commands of what was applied
    headnode-pull confirm NUMBER        the headnode found the blade well with that deployment
    headnode-pull dead-man NUMBER       wait for that, and go back without it
    headnode-pull reboot                restart into the kernel that is due (blades.restart)
    headnode-pull booted                the headnode found the blade well with the kernel that runs

A pull asks the headnode which deployment its ring has; is that what was applied last, it is done
without starting emerge, and nearly nothing was imported. Else `blades.update` checks it, and brings
the blade to exactly that state from binary packages alone. `blades.places` says where what lies.

The last line it prints is a report in JSON: `result` is `updated`, `unchanged`, `deferred` (put
off; `error` says why), `unreached` (the blade cannot reach the headnode) or `failed`. Exit codes: 0
all but the last two, 1 failed, 2 not set up, 3 unreached. Only the standard library, emerge and
gpg: the blade may have nothing else.
"""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import time
from datetime import UTC, datetime

from blades import deadman, drift, places
from blades.order import (
    Order,
    OrderError,
    UnreachedError,
    check_clock,
    check_terms,
    fetch_order,
)
from blades.places import NotSetUpError, PullError, lacks_trees, read_settings, read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

CLOCK_SKEW_S = 300.0
AT_WORK = "another pull is at work on this blade"
FAILED, NOT_SET_UP, UNREACHED = 1, 2, 3
OPTIONS = {f"--{word}": word for word in ("brief", "confirm", "now", "report", "trees")}


class Stopped(BaseException):
    """Somebody ended the pull by a signal."""


def stop(number: int, frame: FrameType | None) -> None:
    """Leave by the way of errors, so that emerge is ended, too, and what was cut is noted."""
    raise Stopped(f"ended by signal {number}")


def pull(settings: Mapping[str, Any], report: dict[str, Any], words: frozenset[str]) -> None:
    """One pull; `report` is filled in as it goes."""
    known = read_state("applied.json")
    report["source_builds"] = report["fetched_bytes"] = 0  # while emerge is not started
    try:
        order = fetch_order("/".join((settings["headnode"], "binhost", *place_of(settings))))
    except OrderError:
        if deadman.is_due(time.time()):
            from blades.update import go_back

            go_back(settings, report)
        raise
    if deadman.is_due(time.time()):  # the blade was off then; it has not lost its headnode
        deadman.disarm()
    says = order.says
    report["generation"], report["sequence"] = says["generation"], says["sequence"]
    report["packages"] = known.get("packages", 0)
    check(order, settings)
    half_way = (places.STATE / "applying").exists() or lacks_trees(says)
    if known.get("deployment") == says and not half_way and drift.untouched():
        report["result"] = "unchanged"
        return
    if deadman.is_refused(says) and "now" not in words:
        from blades.update import believe

        believe(order, settings)  # it may tell of other keys
        raise PullError(
            f"this blade went back from generation {says['generation']} by itself, since nobody "
            "confirmed it: move the ring, or run headnode-pull --now on the blade"
        )
    from blades.update import update

    update(order, settings, report, words)


def pull_trees(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Bring the trees alone to the ring's deployment: plain emerge has a profile then."""
    from blades import merging
    from blades.update import believe, bring_trees

    order = fetch_order("/".join((settings["headnode"], "binhost", *place_of(settings))))
    check(order, settings)
    merging.begin_log()
    believe(order, settings)
    bring_trees(order.says, settings)
    report["result"] = "trees"


def settle_kernel(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Have the kernel of the generation booted next, where there is one."""
    if not settings.get("kernel"):
        return
    from blades.grub import KernelError
    from blades.kernel import settle_into

    try:
        settle_into(settings, report)
    except KernelError as error:
        raise PullError(str(error)) from error
    said = report["kernel"]
    report |= {"kernel": said["running"], "kernel_due": said["due"], "kernels": said}


def place_of(settings: Mapping[str, Any]) -> tuple[str, str]:
    """The class and the ring of this blade."""
    return str(settings["class"]), str(settings["ring"])


def check(order: Order, settings: Mapping[str, Any]) -> None:
    """Check that a deployment is for this blade and for now."""
    limits = places.read_object(places.STATE / "now/blade.json").get("pull", {})
    now = datetime.now(UTC)
    check_clock(order, now, limits.get("max_clock_skew_s", CLOCK_SKEW_S))
    where = place_of(settings)
    seen = int(read_state("seen.json").get("/".join(where), 0))
    check_terms(order, *where, seen, now, signed=settings["signed"])


def locked_pull(settings: Mapping[str, Any], report: dict[str, Any], words: frozenset[str]) -> None:
    """Pull; put off if another is at work on this blade, which is no fault of what is pulled.

    Raises:
        PullError: above all that the trees alone are wanted, and another is at work.
    """
    with places.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if "trees" in words:  # what comes next on such a blade needs them
                raise PullError(AT_WORK) from None
            report["result"], report["error"] = "deferred", AT_WORK
            return
        if "trees" in words:
            pull_trees(settings, report)
            return
        pull(settings, report, words)
        if report["result"] == "unchanged" and (waits := deadman.waiting().get("sequence")):
            report["unconfirmed"] = waits
        if report["result"] in ("updated", "unchanged"):
            settle_kernel(settings, report)


def why_away(
    error: BaseException, settings: Mapping[str, Any], report: Mapping[str, Any]
) -> str | None:
    """Why a pull that ended by `error` found no headnode; None if it is not that.

    Once packages were merged, it may be their doing that nothing is reached any more; not so if the
    headnode's machine answers, and says that nobody serves there.
    """
    if isinstance(error, PullError) and report["emerge"]:  # emerge says less well what is wrong
        try:
            fetch_order("/".join((settings["headnode"], "binhost", *place_of(settings))))
        except UnreachedError as found:
            error = found
        except OrderError:
            return None
    if not isinstance(error, UnreachedError) or (report["changes"] and not error.refused):
        return None
    return f"{error}{half_way()}"


def half_way() -> str:
    """That a pull is not through, with how it ended, after a full stop; empty if none is."""
    if not (places.STATE / "applying").exists():
        return ""
    last = read_state("applying")
    why = str(last.get("error") or "it was cut off").partition("\n")[0]
    return f". Its pull of deployment {last.get('sequence', '?')} is half-way: {why}"


def status(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Say what the blade is at."""
    known = read_state("applied.json")
    says = known.get("deployment", {})
    report["generation"], report["sequence"] = says.get("generation"), says.get("sequence")
    report["packages"] = known.get("packages", 0)
    report["half_way"] = (places.STATE / "applying").exists()
    report["unconfirmed"] = deadman.waiting().get("sequence")
    report["boot"] = deadman.boot_id()
    report["result"] = "status"
    if settings.get("kernel"):
        from blades.restart import standing

        standing(settings, report)


def health(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Run the health commands of what was applied."""
    from blades.afterwards import failures
    from blades.update import blade_of

    status(settings, report)
    now = places.STATE / "now/blade.json"
    blade = blade_of({"blade.json": now.read_text()} if now.exists() else {})
    if why := failures(blade["health"], blade["pull"]["check_timeout_s"]):
        raise PullError("; ".join(why))
    report["result"] = "well"


def confirm(number: str, report: dict[str, Any]) -> None:
    """Take the headnode's word that the blade is well."""
    known = read_state("applied.json").get("deployment", {}).get("sequence")
    if not deadman.confirm(int(number)) and (known != int(number) or deadman.waiting()):
        raise PullError(f"no pull of deployment {number} waits to be confirmed")
    report["result"] = "confirmed"


def dead_man(number: str, settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Go back to what the blade had, unless a pull is confirmed in time."""
    report["result"] = "confirmed"
    if deadman.wait(int(number)):
        from blades.update import go_back

        with places.LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if deadman.waiting().get("sequence") == int(number):
                go_back(settings, report)


def restart(settings: Mapping[str, Any], report: dict[str, Any], *, done: bool) -> None:
    """Restart into the kernel that is due, or (`done`) keep it: see `blades.restart`."""
    from blades.restart import booted
    from blades.restart import restart as begin

    (booted if done else begin)(settings, report)


def chosen(words: list[str], report: dict[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What the command line asks for.

    Raises:
        NotSetUpError: there is no such command.
    """
    match words:
        case ["status"]:
            return lambda settings: status(settings, report)
        case ["health"]:
            return lambda settings: health(settings, report)
        case ["reboot"]:
            return lambda settings: restart(settings, report, done=False)
        case ["booted"]:
            return lambda settings: restart(settings, report, done=True)
        case ["confirm", number] if number.isdecimal():
            return lambda settings: confirm(number, report)
        case ["dead-man", number] if number.isdecimal():
            return lambda settings: dead_man(number, settings, report)
    if unknown := [word for word in words if word not in OPTIONS]:
        raise NotSetUpError(f"its headnode-pull knows no {' '.join(unknown)}")
    return lambda settings: locked_pull(settings, report, frozenset(OPTIONS[x] for x in words))


def main(words: list[str] | None = None) -> int:
    """Do what was asked for, print the report, and return the exit code."""
    started = time.monotonic()
    report: dict[str, Any] = {"result": "failed", "emerge": False, "changes": [], "error": ""}
    report |= {"warnings": [], "drift": [], "kernel": deadman.kernel()}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    code, settings = FAILED, None
    words = sys.argv[1:] if words is None else words
    try:
        work = chosen(words, report)
        settings = read_settings()
        report |= {"blade": settings["blade"], "ring": settings["ring"]}
        work(settings)
        code = 0
    except NotSetUpError as error:
        report["error"] = f"this blade is not set up: {error}"
        code = NOT_SET_UP
    except (PullError, OrderError, OSError, ValueError, KeyError, TypeError, Stopped) as error:
        report["error"] = str(error) or repr(error)
        if settings and (why := why_away(error, settings, report)):
            report["error"], code = why, UNREACHED
    if code:
        report["result"] = "unreached" if code == UNREACHED else "failed"
    report["seconds"] = round(time.monotonic() - started, 2)
    if settings and "--report" in words:
        from blades.report import send

        if why := send(settings, report, places.LOG):
            report["warnings"].append(f"the report was not taken: {why}")
    print(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main())
