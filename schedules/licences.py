"""The licence gate of a class that is marked public."""

from __future__ import annotations

from collections.abc import Iterable

from binhost.gates import Move
from binhost.licences import check_licences, redistributable
from binhost.records import GateReport
from schedules.site import Site


def licence_gates(site: Site, move: Move) -> Iterable[GateReport]:
    """What the licences of a move's packages say; nothing for a class that is not public.

    Licence groups are those of the trees that the generation was built from.
    """
    klass = site.klass(move.class_name)
    if not klass.public:
        return ()
    trees = site.repos_of(move.generation.snapshots).values()
    missing = redistributable((tree / "profiles" for tree in trees), klass.redistributable)
    return (check_licences(move.entries, missing),)
