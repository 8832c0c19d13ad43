"""Whether pump mode really works: distcc itself goes on without it and says so only in its log.

In pump mode the helpers preprocess: an include server on the headnode finds out which headers a
source needs, and they are sent along. `pump COMMAND` starts that server, runs the command, and ends
it. Source: pump(1) and include_server of distcc 3.4.
"""

from __future__ import annotations

from config.model import DistccMode
from distcc.hosts import host_spec
from distcc.probe import COMPLAINT, Bench
from headnode.errors import CommandError
from headnode.files import digests
from headnode.process import last_lines

PUMP_S = 60.0
# Debian's name goes first: its `pump` is another program.
PROGRAMS = ("distcc-pump", "pump")
COMPILER = "gcc"
# What distcc's log has where the include server did not do its work.
SILENT = ("preprocessing locally", "failed to get includes", "INCLUDE_SERVER_PORT")


def find_pump(bench: Bench) -> str:
    """The builder's program that runs another in pump mode; empty if it has none."""
    script = 'for name; do command -v "$name" > /dev/null && echo "$name" && break; done'
    argv = ["sh", "-c", script, "find", *PROGRAMS]
    return bench.node.run(argv, timeout_s=PUMP_S, check=False).output.strip()


def try_pump(bench: Bench, program: str, helper: str) -> str:
    """Compile the probe in pump mode on one helper that passed. Why it does not work, or empty."""
    if not program:
        return "the builder has no pump"
    inside, folder = bench.inside / "probe", bench.folder / "probe"
    variables = {
        "DISTCC_HOSTS": host_spec(bench.options, helper, DistccMode.PUMP),
        "DISTCC_DIR": str(inside / "distcc"),
        "DISTCC_LOG": str(inside / "pump.log"),
        "DISTCC_FALLBACK": "0",
    }
    setting = [f"{name}={value}" for name, value in variables.items()]
    job = [COMPILER, "-O2", "-c", str(inside / "probe.c"), "-o"]
    try:
        bench.node.run([*job, str(inside / "here.o")], timeout_s=PUMP_S)
        argv = ["env", *setting, program, "distcc", *job, str(inside / "pump.o")]
        done = bench.node.run(argv, timeout_s=PUMP_S, check=False)
    except CommandError as error:
        return f"it did not compile the probe: {last_lines(error.tail, 1)}"
    written = folder / "pump.log"
    log = written.read_text(errors="replace") if written.exists() else ""
    if why := failure(log, done.code, done.tail):
        return why
    here, there = (digests(folder / name, "sha256") for name in ("here.o", "pump.o"))
    return "" if here == there else "its object is another than the builder's"


def failure(log: str, code: int, said: str) -> str:
    """Why a pump run counts as failed, from its log, exit code and output; empty if it does not."""
    lines = log.splitlines()
    silent = [line for line in lines if any(mark in line for mark in SILENT)]
    if silent:
        return f"distcc did without it: {_text(silent[0])}"
    if code:
        complaints = [line for line in lines if COMPLAINT.search(line)]
        return f"it failed: {_text(complaints[0]) if complaints else last_lines(said, 1)}"
    return ""


def _text(line: str) -> str:
    found = COMPLAINT.search(line)
    return found["text"] if found else line
