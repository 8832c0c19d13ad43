"""`headnode` by a clock of its own: `python -P clocked.py SECONDS WORD…`, so many seconds ahead.

What the schedule starts from there goes by the same clock.
"""

import sys
from datetime import datetime, timedelta
from pathlib import Path

from headnode.cli import run
from headnode.commands.context import Settings, now

AHEAD = timedelta(seconds=float(sys.argv[1]))
PROGRAM = (sys.executable, "-P", str(Path(__file__).absolute()), sys.argv[1])


def clock() -> datetime:
    """The time here."""
    return now() + AHEAD


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:], Settings(clock=clock, program=PROGRAM)))
