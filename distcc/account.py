"""Who compiled how much: distcc's own log, read. Pure.

Each run of distcc writes its lines under its process number; a run tries helpers one after the
other and compiles itself where none could. Which lines there are is not documented, and is tested
on captured logs of distcc 3.4.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from distcc.hosts import name_of

LINE = re.compile(r"^distcc\[(?P<pid>\d+)\] (?P<text>.*)$")
EXEC = re.compile(r"^exec on (?P<host>\S+): (?P<command>.*)$")
DONE = re.compile(r"^compile .* on (?P<host>\S+) completed ok$")
REJECTED = re.compile(r"^ERROR: compile .* on (?P<host>\S+) failed$")
# The second kind names no helper: all of them are being avoided for a while.
FELL_BACK = re.compile(r"^(?:\(\w+\) )?Warning: failed to distribute\b")
UNPUMPED = re.compile(r"^\(\w+\) Warning: .*preprocessing locally$")
EXIT = re.compile(r"^\(dcc_exit\) exit: code (?P<code>\d+);")
LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of a build's compile jobs.

    `jobs` are objects that each helper made; `failures` jobs that each took and did not finish, or
    refused; `fallbacks` files that the headnode compiled after that, or since no helper was left;
    `local` files that are not for helpers (assembler, several sources at once); `faulty` files that
    no compiler takes, here or there; `unpumped` objects of `jobs` whose source the headnode had to
    preprocess although that was the helper's part (pump mode). Links, preprocessing and tests of
    what the compiler can are not counted.
    """

    jobs: Mapping[str, int]
    failures: Mapping[str, int]
    local: int
    fallbacks: int
    faulty: int
    unpumped: int = 0

    @property
    def remote(self) -> int:
        """Objects that helpers made."""
        return sum(self.jobs.values())

    @property
    def total(self) -> int:
        """Objects that were made."""
        return self.remote + self.local + self.fallbacks


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run of distcc: the helpers that it tried, and how each try ended."""

    tried: list[str] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)
    done: str = ""
    command: str = ""
    fell_back: bool = False
    unpumped: bool = False

    @property
    def compiles(self) -> bool:
        """Whether it is to make an object, and not to find out what the compiler can."""
        words = self.command.split()
        return bool({"-c", "-S"} & set(words)) and not any(map(_is_test, words))


def _is_test(word: str) -> bool:
    """Whether a source is a test of a configure script, or of the kernel's makefiles."""
    return word == "/dev/null" or word.rpartition("/")[2].startswith("conftest.")


def read_account(lines: Iterable[str]) -> Account:
    """What the log of a build comes to. A run that was killed counts for nothing."""
    runs: dict[str, _Run] = {}
    total = _Sum()
    for line in lines:
        if not (found := LINE.match(line)):
            continue
        run = runs.setdefault(found["pid"], _Run())
        text = found["text"]
        if exit_line := EXIT.match(text):
            total.add(runs.pop(found["pid"]), failed=exit_line["code"] != "0")
        else:
            _note(run, text)
    return total.account()


def _note(run: _Run, text: str) -> None:
    if found := EXEC.match(text):
        run.command = found["command"]
        if found["host"] != LOCALHOST:
            run.tried.append(name_of(found["host"]))
    elif found := DONE.match(text):
        run.done = name_of(found["host"])
    elif FELL_BACK.match(text):
        run.fell_back = True
    elif UNPUMPED.match(text):
        run.unpumped = True
    elif (found := REJECTED.match(text)) and found["host"] != LOCALHOST:
        run.rejected.add(name_of(found["host"]))


class _Sum:
    """Adds runs up."""

    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.local = self.fallbacks = self.faulty = self.unpumped = 0

    def add(self, run: _Run, *, failed: bool) -> None:
        """Count one run that has ended."""
        if not run.compiles:
            return
        if failed:
            self.faulty += 1
            self.failures.update(name for name in run.tried if name not in run.rejected)
            return
        if run.done in run.tried:
            self.jobs[run.done] += 1
            self.unpumped += run.unpumped
            self.failures.update(run.tried[:-1])
            return
        self.failures.update(run.tried)
        self.fallbacks += run.fell_back
        self.local += not run.fell_back

    def account(self) -> Account:
        """What it came to."""
        return Account(
            jobs=dict(sorted(self.jobs.items())),
            failures=dict(sorted(self.failures.items())),
            local=self.local,
            fallbacks=self.fallbacks,
            faulty=self.faulty,
            unpumped=self.unpumped,
        )
