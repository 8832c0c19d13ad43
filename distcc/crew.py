"""The helpers of one build: who passed, how emerge is told of them, and what came of it.

Nothing here makes a build fail that would succeed without helpers: what is wrong with one is a
reason why it is left out, and without any the headnode compiles alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path, PurePosixPath

from config.distccd import DISTCC_LINK, MASQUERADE, compiler_names
from config.model import Distcc, DistccMode
from distcc.account import Account, read_account
from distcc.hosts import distcc_hosts, helper_names
from distcc.probe import Bench, Found, languages_of, probe_all, refuse_native
from distcc.pump import find_pump, try_pump
from distcc.relay import relayed
from distcc.slots import make_options
from headnode.errors import NodeError
from headnode.files import remove_tree
from headnode.node.running import Node
from headnode.wording import counted

TOOL_S = 60.0
# -network-sandbox: within it nothing reaches a helper, every job fails there and is compiled here,
# and the build succeeds without a word (Portage 3.0.83). The builder's own network is no less
# closed: the relay is all there is.
# -pid-sandbox: distcc names its jobs by process numbers, in its log and its state files, and within
# it those of packages that build side by side are the same. The builder has its own anyway.
FEATURES = "distcc -network-sandbox -pid-sandbox"
PAUSE_MS = 100  # distcc looks for a free slot once a second, which is as long as many jobs take
LINKS = """
command -v distcc > /dev/null || exit 0
mkdir -p {folder}
for name in {names}; do
	[ -x /usr/bin/"$name" ] || [ -x /usr/local/bin/"$name" ] || continue
	echo "$name"
	[ -e {folder}/"$name" ] || ln -s {target} {folder}/"$name" || exit 1
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """The builder that is to be helped: its DISTCC_DIR outside and inside, CHOST and flags.

    The folder is made anew, so it lies in one that the builder shares.
    """

    node: Node
    folder: Path
    inside: PurePosixPath
    chost: str
    flags: Mapping[str, str]
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Who helps: what became of each probe, and how emerge is started so that they do.

    `variables` and `prefix` are empty where nobody helps. `pump` is why pump mode, which was asked
    for, is not used.
    """

    found: tuple[Found, ...]
    mode: DistccMode = DistccMode.PLAIN
    pump: str = ""
    make_options: str = ""
    variables: Mapping[str, str]
    prefix: tuple[str, ...] = ()

    @property
    def helpers(self) -> tuple[str, ...]:
        """Those that passed."""
        return tuple(each.helper for each in self.found if each.fits)

    @property
    def left_out(self) -> dict[str, str]:
        """The others, with the reason."""
        return {each.helper: each.reason for each in self.found if not each.fits}


def alone(options: Distcc, reason: str) -> Crew:
    """Nobody helps, for one reason."""
    found = tuple(Found(helper=name, reason=reason) for name in helper_names(options))
    return Crew(found=found, variables={})


@contextmanager
def assembled(
    options: Distcc, yard: Yard, report: Callable[[str], None] = lambda line: None
) -> Iterator[Crew]:
    """Probe all helpers, and have those that passed within the builder's reach for the block.

    Raises:
        BuildError: the flags mean another CPU on each helper, or the builder cannot compile.
    """
    names = helper_names(options)
    remove_tree(yard.folder)
    for name in ("lock", "state"):
        (yard.folder / name).mkdir(parents=True)
    # Written by whichever user a package is built as.
    (yard.folder / "log").touch()
    (yard.folder / "log").chmod(0o666)
    languages = languages_of(_masquerade(yard), yard.chost, yard.flags)
    refuse_native(languages)
    if not languages:
        yield alone(options, "the builder has no distcc or no gcc: install them in [build] root")
        return
    bench = Bench(node=yard.node, folder=yard.folder, inside=yard.inside, options=options)
    with ExitStack() as stack:
        try:
            relay = stack.enter_context(relayed(yard.node, names, options.port))
        except NodeError as error:
            yield alone(options, str(error))
            return
        report(f"Asking {counted(len(names), 'helper')} to compile")
        yield _crew(options, yard, bench, probe_all(bench, names, languages, relay.troubles))


def _masquerade(yard: Yard) -> list[str]:
    """Have every compiler of the builder called through distcc; the compilers' names.

    None where the builder has no distcc.
    """
    names = " ".join(compiler_names(yard.chost))
    script = LINKS.format(names=names, folder=MASQUERADE, target=DISTCC_LINK)
    return yard.node.run(["sh", "-c", script], timeout_s=TOOL_S).output.split()


def _crew(options: Distcc, yard: Yard, bench: Bench, found: Sequence[Found]) -> Crew:
    helpers = [each.helper for each in found if each.fits]
    if not helpers:
        return Crew(found=tuple(found), variables={})
    program = find_pump(bench) if options.mode is DistccMode.PUMP else ""
    pump = try_pump(bench, program, helpers[0]) if options.mode is DistccMode.PUMP else ""
    mode = DistccMode.PLAIN if pump else options.mode
    jobs = make_options(options, len(helpers), yard.cores)
    return Crew(
        found=tuple(found),
        mode=mode,
        pump=pump,
        make_options=jobs,
        prefix=(program,) if mode is DistccMode.PUMP else (),
        variables={
            "FEATURES": FEATURES,
            "MAKEOPTS": jobs,
            "DISTCC_HOSTS": distcc_hosts(options, helpers, cores=yard.cores, mode=mode),
            "DISTCC_DIR": str(yard.inside),
            "DISTCC_LOG": str(yard.inside / "log"),
            "DISTCC_IO_TIMEOUT": str(ceil(options.job_timeout_s)),
            "DISTCC_PAUSE_TIME_MSEC": str(PAUSE_MS),
        },
    )


def account(folder: Path) -> Account:
    """What became of the jobs of the build whose DISTCC_DIR is `folder`, so far."""
    try:
        with (folder / "log").open(errors="replace") as lines:
            return read_account(lines)
    except FileNotFoundError:
        return read_account(())
