"""Asks every helper to compile before a build, and compares what comes back with the builder's own.

The builder compiles the probe itself, with the class's flags, in C and where it can in C++; then
each helper gets the same job through distcc, all of them side by side. A helper that does not
answer, takes too long, or makes another object with another compiler is not used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from config.model import Distcc, DistccMode
from distcc.hosts import host_spec
from distcc.identity import Identity, difference, parse_identity
from headnode.errors import BuildError, CommandError
from headnode.files import digests, remove_tree
from headnode.node.running import Node
from headnode.process import Completed

SIDE_BY_SIDE = 16
LOCAL_S = 300.0
SOURCE = Path(__file__).with_name("probe.c")
NATIVE = re.compile(r"\S*(?<![\w-])native(?![\w-])\S*")
COMPILER_ERROR = re.compile(r"^[^ ]+: (?:fatal )?error: ")
CUT_OFF = re.compile(r"Connection reset|Broken pipe|unexpected eof", re.IGNORECASE)
# Also within a line: the preprocessor, which -v makes talk, may be at one of its own just then.
COMPLAINT = re.compile(r"distcc\[\d+\] (?:\(\w+\) )?(?:ERROR|CRITICAL!?|Warning): (?P<text>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language that is probed: its compiler in the builder, and the class's flags for it."""

    name: str
    compiler: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a helper's probe came to. `reason` is why it is not used, empty if it is."""

    helper: str
    reason: str
    seconds: float = 0.0
    identity: Identity | None = None

    @property
    def fits(self) -> bool:
        """Whether it compiles as the builder does."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where probes are made: the builder, and its DISTCC_DIR as both sides see it."""

    node: Node
    folder: Path
    inside: PurePosixPath
    options: Distcc


def refuse_native(languages: Sequence[Language]) -> None:
    """Refuse flags that mean the CPU of whoever compiles.

    cluster.toml's are refused when it is read; these come from the profile as well.

    Raises:
        BuildError: naming the flag.
    """
    for language in languages:
        if found := NATIVE.search(" ".join(language.flags)):
            raise BuildError(
                f"The flags for {language.name} have {found[0]}: every helper would compile for "
                "a CPU of its own.",
                remedy="Name the oldest CPU of the class instead, in `cflags` of cluster.toml.",
            )


def languages_of(found: Sequence[str], chost: str, flags: Mapping[str, str]) -> list[Language]:
    """What is probed where the builder has the compilers `found`. Pure.

    A compiler with the CHOST's prefix goes before the plain one: packages ask for it first.
    """
    wanted = (("C", "gcc", "CFLAGS"), ("C++", "g++", "CXXFLAGS"))
    languages = []
    for name, compiler, variable in wanted:
        named = [each for each in (f"{chost}-{compiler}", compiler) if each in found]
        if named:
            # With -pipe compiler and assembler speak at once, and into each other's lines.
            words = tuple(each for each in shlex.split(flags.get(variable, "")) if each != "-pipe")
            languages.append(Language(name=name, compiler=named[0], flags=words))
    return languages


def probe_all(
    bench: Bench, helpers: Sequence[str], languages: Sequence[Language], troubles: Mapping[str, str]
) -> list[Found]:
    """Ask all helpers; what became of each, in their order.

    `troubles` is what the relay knows of those that it could not reach.

    Raises:
        BuildError: the builder itself cannot compile the probe.
    """
    remove_tree(bench.folder / "probe")
    (bench.folder / "probe" / "distcc").mkdir(parents=True)
    for name in ("probe.c", "probe.cc"):
        (bench.folder / "probe" / name).write_text(SOURCE.read_text())
    ours = {each.name: _compile_here(bench, each) for each in languages}
    ask = partial(_probe, bench, languages=languages, ours=ours, troubles=troubles)
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        return list(pool.map(ask, helpers))


def _probe(
    bench: Bench,
    helper: str,
    *,
    languages: Sequence[Language],
    ours: Mapping[str, Identity],
    troubles: Mapping[str, str],
) -> Found:
    seconds, identity = 0.0, None
    for language in languages:
        try:
            done = _compile_there(bench, helper, language)
        except CommandError:
            limit = bench.options.probe_timeout_s
            reason = f"it is slow: no object within {limit:g} s"
            return Found(helper=helper, reason=reason, seconds=limit)
        seconds = max(seconds, done.seconds)
        if done.code:
            reason = explain(done.errors, troubles.get(helper, ""), bench.options.port)
            return Found(helper=helper, reason=reason, seconds=seconds)
        try:
            theirs = _identity(bench, helper, language, done)
        except ValueError:
            reason = "its compiler does not say what it is"
            return Found(helper=helper, reason=reason, seconds=seconds)
        identity = identity or theirs
        if reason := difference(theirs, ours[language.name]):
            return Found(helper=helper, reason=reason, seconds=seconds, identity=theirs)
    return Found(helper=helper, reason="", seconds=seconds, identity=identity)


def explain(errors: str, trouble: str, port: int) -> str:
    """Why a helper made no object, from what distcc said. Pure."""
    if trouble:
        return f"it does not answer at port {port}: {trouble}"
    lines = errors.splitlines()
    said = [line for line in lines if COMPILER_ERROR.match(line)]
    said += [found["text"] for found in map(COMPLAINT.search, lines) if found]
    first = said[0] if said else "no reason given"
    if CUT_OFF.search(first):
        return (
            "it answers and takes no job: its distccd does not allow this headnode's address, or "
            "not this compiler"
        )
    return f"it made no object: {first}"


def compile_argv(language: Language, source: str, target: str) -> list[str]:
    """The command line that compiles the probe and lets the compiler say who it is. Pure."""
    return [language.compiler, "-v", *language.flags, "-c", source, "-o", target]


def _source(bench: Bench, language: Language) -> str:
    return str(bench.inside / "probe" / ("probe.cc" if language.name == "C++" else "probe.c"))


def _target(bench: Bench, who: str, language: Language) -> str:
    return str(bench.inside / "probe" / f"{who}.{language.name}.o")


def _compile_here(bench: Bench, language: Language) -> Identity:
    argv = compile_argv(language, _source(bench, language), _target(bench, "builder", language))
    done = bench.node.run(argv, timeout_s=LOCAL_S, check=False)
    if done.code:
        raise BuildError(
            f"The builder's own {language.compiler} does not compile the probe:\n{done.tail}",
            remedy="Correct `cflags` of the class in cluster.toml, or [build] root.",
        )
    try:
        return _identity(bench, "builder", language, done)
    except ValueError as error:
        raise BuildError(
            f"The builder's {language.compiler} does not say what it is:\n{done.tail}",
            remedy="Helpers can only be compared with gcc or clang.",
        ) from error


def _compile_there(bench: Bench, helper: str, language: Language) -> Completed:
    spec = host_spec(bench.options, helper, DistccMode.PLAIN, slots=1)
    variables = {
        "DISTCC_HOSTS": f"--localslots_cpp={SIDE_BY_SIDE} {spec}",
        "DISTCC_DIR": str(bench.inside / "probe" / "distcc"),
        "DISTCC_FALLBACK": "0",
        "DISTCC_SKIP_LOCAL_RETRY": "1",
    }
    setting = [f"{name}={value}" for name, value in variables.items()]
    job = compile_argv(language, _source(bench, language), _target(bench, helper, language))
    argv = ["env", *setting, "distcc", *job]
    return bench.node.run(argv, timeout_s=bench.options.probe_timeout_s, check=False)


def _identity(bench: Bench, who: str, language: Language, done: Completed) -> Identity:
    target = bench.folder / "probe" / PurePosixPath(_target(bench, who, language)).name
    return parse_identity(done.errors, digests(target, "sha256")["sha256"])
