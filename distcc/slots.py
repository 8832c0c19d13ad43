"""How many jobs make is to start. Pure."""

from __future__ import annotations

from config.model import Distcc


def make_jobs(options: Distcc, helpers: int, cores: int) -> int:
    """The jobs of make -j: the slots of the helpers, as far as the headnode can feed them."""
    slots = helpers * options.slots + options.local_slots
    return min(slots, cores * options.feed) if options.feed else slots


def make_options(options: Distcc, helpers: int, cores: int) -> str:
    """MAKEOPTS for a build with that many helpers.

    -l is about the headnode: where helpers are lost in the middle, it keeps what is left for the
    headnode from being started all at once.
    """
    return f"-j{make_jobs(options, helpers, cores)} -l{cores + 1}"
