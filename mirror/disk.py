"""What a full or broken disk of our own becomes: one error that names the folder and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from headnode.errors import MirrorError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Run the block, in which `folder` is written to.

    Raises:
        MirrorError: instead of an OSError, such as a full disk; what was served still is.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        why = "its disk is full" if full else str(error)
        raise MirrorError(
            f"{folder} cannot be written to: {why}. What was served before still is.",
            remedy="Free some space, then run this again: it carries on where it stopped."
            if full
            else "Put that right, then run this again.",
        ) from error
