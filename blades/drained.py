"""Which blades are drained: left alone by rollouts, and told so when they ask by themselves.

One file a class, `binhost/<class>/drained.json`: blade to since when and why, and until when, if
somebody said so; then it is over by itself, for whoever reads it. It is served beside each ring's
deployment. Nobody needs to sign it: who could forge it could as well not answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from blades.ready import why_drained
from headnode.errors import ConfigError
from headnode.files import locked, write_atomic

FILE = "drained.json"
WAIT_S = 10.0  # the file is read and written under its lock, and nothing else
LENGTH = re.compile(r"(\d{1,5})([hdw])")
HOURS = {"h": 1, "d": 24, "w": 168}


def drained(folder: Path, now: datetime) -> dict[str, str]:
    """The drained blades of the class in `folder`, and why, with the end if there is one."""
    said = {name: why_drained(each, now) for name, each in _read(folder).items()}
    return {name: why for name, why in said.items() if why is not None}


def end_of(text: str, now: datetime, zone: tzinfo) -> datetime:
    """The moment that `3d`, `12h`, `2w`, `2026-12-01` or `2026-12-01T06:30` means, in UTC. Pure.

    A day means its beginning, in the time zone `zone`.

    Raises:
        ConfigError: it is none of those, or over.
    """
    if found := LENGTH.fullmatch(text):
        return now + timedelta(hours=int(found[1]) * HOURS[found[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no end.",
            remedy="Write it as 2026-12-01, 2026-12-01T06:30, 12h, 3d or 2w.",
        ) from error
    end = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    if end <= now:
        raise ConfigError(f"{end:%Y-%m-%d %H:%M} UTC is over.", remedy="Name a later moment.")
    return end


def drain(
    folder: Path, names: Iterable[str], why: str, now: datetime, until: datetime | None = None
) -> None:
    """Drain blades; one that is already keeps its date and gets the new reason and end."""
    with _locked(folder, "headnode blades drain"):
        known = _still(_read(folder), now)
        end = {"until": _stamp(until)} if until else {}
        for name in names:
            since = known.get(name, {}).get("since", _stamp(now))
            known[name] = {"since": since, "why": why, **end}
        _write(folder, known)


def claim(
    folder: Path, names: Iterable[str], why: str, now: datetime, *, came: str = ""
) -> list[str]:
    """Drain those of `names` that nobody else has drained, and return them.

    Somebody else's reason is one that `is_own` does not know for `why`. `came` is what came of it.
    """
    text = f"{why}: {came}" if came else why
    with _locked(folder, "headnode rollout reboot"):
        known = _still(_read(folder), now)
        mine = [name for name in names if _is_free(known, name, why)]
        for name in mine:
            known[name] = {"since": known.get(name, {}).get("since", _stamp(now)), "why": text}
        if mine:
            _write(folder, known)
        return mine


def release(folder: Path, names: Iterable[str], why: str) -> None:
    """Undrain those of `names` that `claim` drained for `why`, and nobody has drained since."""
    with _locked(folder, "headnode rollout reboot"):
        known = _read(folder)
        for name in names:
            if _is_free(known, name, why):
                known.pop(name, None)
        _write(folder, known)


def is_own(said: str, why: str) -> bool:
    """Whether the reason that is `said` is `why`, or that and what came of it (`why: …`)."""
    return said == why or said.startswith(f"{why}: ")


def _is_free(known: Mapping[str, Mapping[str, str]], name: str, why: str) -> bool:
    return name not in known or is_own(str(known[name].get("why", "")), why)


def undrain(folder: Path, names: Iterable[str]) -> list[str]:
    """Let blades pull again; those of `names` that were drained."""
    with _locked(folder, "headnode blades undrain"):
        known = _read(folder)
        gone = [name for name in names if known.pop(name, None) is not None]
        if gone:
            _write(folder, known)
        return gone


def _locked(folder: Path, who: str) -> AbstractContextManager[None]:
    return locked(folder / ".drained.lock", who, wait_s=WAIT_S)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _still(known: Mapping[str, dict[str, str]], now: datetime) -> dict[str, dict[str, str]]:
    return {name: each for name, each in known.items() if why_drained(each, now) is not None}


def _read(folder: Path) -> dict[str, dict[str, str]]:
    try:
        said = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    known = said if isinstance(said, dict) else {}
    return {name: each for name, each in known.items() if isinstance(each, dict)}


def _write(folder: Path, known: dict[str, dict[str, str]]) -> None:
    write_atomic(folder / FILE, json.dumps(known, indent=1, sort_keys=True) + "\n")
