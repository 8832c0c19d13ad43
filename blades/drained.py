"""Which blades are drained: left alone by rollouts, and told so when they ask by themselves.

One file a class, `binhost/<class>/drained.json`: blade to since when and why. It is served beside
each ring's deployment. Nobody needs to sign it: who could forge it could as well not answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from headnode.files import locked, write_atomic

FILE = "drained.json"


def drained(folder: Path) -> dict[str, str]:
    """The drained blades of the class in `folder`, and why."""
    return {name: str(each.get("why", "")) for name, each in _read(folder).items()}


def drain(folder: Path, names: Iterable[str], why: str, now: datetime) -> None:
    """Drain blades; one that is already keeps its date and gets the new reason."""
    with locked(folder / ".drained.lock", "headnode blades drain"):
        known = _read(folder)
        since = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        for name in names:
            known[name] = {"since": known.get(name, {}).get("since", since), "why": why}
        _write(folder, known)


def claim(
    folder: Path, names: Iterable[str], why: str, now: datetime, *, came: str = ""
) -> list[str]:
    """Drain those of `names` that nobody else has drained, and return them.

    Somebody else's reason is one that `is_own` does not know for `why`. `came` is what came of it.
    """
    text = f"{why}: {came}" if came else why
    with locked(folder / ".drained.lock", "headnode rollout reboot"):
        known = _read(folder)
        mine = [name for name in names if _is_free(known, name, why)]
        since = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        for name in mine:
            known[name] = {"since": known.get(name, {}).get("since", since), "why": text}
        if mine:
            _write(folder, known)
        return mine


def release(folder: Path, names: Iterable[str], why: str) -> None:
    """Undrain those of `names` that `claim` drained for `why`, and nobody has drained since."""
    with locked(folder / ".drained.lock", "headnode rollout reboot"):
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
    with locked(folder / ".drained.lock", "headnode blades undrain"):
        known = _read(folder)
        gone = [name for name in names if known.pop(name, None) is not None]
        if gone:
            _write(folder, known)
        return gone


def _read(folder: Path) -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads((folder / FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(folder: Path, known: dict[str, dict[str, str]]) -> None:
    write_atomic(folder / FILE, json.dumps(known, indent=1, sort_keys=True) + "\n")
