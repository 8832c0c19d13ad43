"""How many jobs are started at once. Pure."""

from __future__ import annotations

from config.model import Distcc


def make_jobs(options: Distcc, helpers: int, cores: int) -> int:
    """The jobs of make -j: the slots of the helpers, as far as the headnode can feed them."""
    slots = helpers * options.slots + options.local_slots
    return min(slots, cores * options.feed) if options.feed else slots


def make_options(options: Distcc, helpers: int, cores: int) -> str:
    """MAKEOPTS for a build with that many helpers.

    -l is for what does not go through distcc, and as high as what distcc itself lets run at once on
    the headnode. With less, make starts one job after the other as soon as the headnode has
    anything else to do: seen with -l3 on two cores, all objects of a package went to one helper.
    """
    return f"-j{make_jobs(options, helpers, cores)} -l{cpp_slots(cores) + cores}"


def cpp_slots(cores: int) -> int:
    """Sources that the headnode preprocesses at once: one may wait for the disk or the network."""
    return 2 * cores
