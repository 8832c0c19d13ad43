"""The gate `integrity`: what an index offers is there, and is what was built.

Sizes are compared for every package. Content is read again only where blades are about to fetch
it: `headnode generations verify` reads everything, and takes its time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from binhost.entries import Entries
from binhost.index import field
from binhost.records import GateReport
from config.model import Gate
from headnode.files import digests

# Says what is wrong with the signatures of package files, a sentence each.
VerifySignatures = Callable[[Iterable[Path]], Iterable[str]]


def no_signatures(files: Iterable[Path]) -> Iterable[str]:
    """Look at no signature."""
    return ()


def examine(
    pool: Path,
    entries: Mapping[str, str],
    sha256: Mapping[str, str],
    fetched: Collection[str],
    verify_signatures: VerifySignatures = no_signatures,
) -> GateReport:
    """Look at the pool's files of an index; `fetched` names those whose content blades will fetch.

    `sha256` are the digests that the generation gives, by pool name.
    """
    wrong = list(_wrong_sizes(pool, entries))
    there = [name for name in fetched if (pool / name).is_file()]
    for name in there:
        wrong += _wrong_content(pool / name, name, entries[name], sha256[name])
    wrong += verify_signatures([pool / name for name in there])
    good = (
        f"Every package ({len(entries)}) is there in the size that the index says; those that "
        f"blades will fetch ({len(there)}) have the digests they were published with."
    )
    return GateReport(
        gate=Gate.INTEGRITY, passed=not wrong, report="\n".join(wrong) if wrong else good
    )


def _wrong_sizes(pool: Path, entries: Mapping[str, str]) -> Iterator[str]:
    if not pool.is_dir():
        yield f"{pool} is not there."
        return
    root = os.open(pool, os.O_RDONLY | os.O_DIRECTORY)  # each name is looked up from there
    look = partial(os.stat, dir_fd=root)
    try:
        for name, said in Entries.of(entries).sizes():
            try:
                found = look(name).st_size
            except FileNotFoundError:
                yield f"{pool}/{name} is not there."
            else:
                if found != said:
                    yield f"{pool}/{name} has {found} bytes; its index entry says {said}."
    finally:
        os.close(root)


def _wrong_content(path: Path, name: str, entry: str, sha256: str) -> Iterator[str]:
    said = {"sha256": sha256}
    for key in ("MD5", "SHA1"):
        if (digest := field(entry, key)) is not None:
            said[key.lower()] = digest
    found = digests(path, *said)
    wrong = [key.upper() for key in said if found[key] != said[key]]
    if wrong:
        yield f"{name} is not what was published: its {', '.join(wrong)} differs."
