"""A distfile that a person fetched (RESTRICT=fetch), checked and put in place.

The person's own file is copied, never moved or linked: a later write to it must not change what is
served.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from headnode.errors import MirrorError
from headnode.files import is_regular
from mirror import lookup, validators
from mirror.catalogue import TreeSet
from mirror.claims import claimed
from mirror.disk import writing_to
from mirror.store import Store, mismatch, put_in_place
from mirror.wanted import Wanted


def add(state: Path, trees: Sequence[TreeSet], files: Iterable[Path]) -> tuple[str, ...]:
    """Put `files` in place, all or, where one is not what `trees` (newest first) want, none.

    Gives their names.

    Raises:
        MirrorError: a file is not there, no Manifest knows its name, or it is another.
    """
    store = Store(state)
    checked = [(path, _check(state, trees, path)) for path in files]
    with writing_to(store.folder):
        store.prepare()
        for path, wanted in checked:
            _copy(store, path, wanted)
    return tuple(wanted.filename for _, wanted in checked)


def _check(state: Path, trees: Sequence[TreeSet], path: Path) -> Wanted:
    if not path.is_file():
        raise MirrorError(f"{path} is not a file.", remedy="Name the file that you fetched.")
    with writing_to(state / "mirror" / "catalogues"):
        wanted = lookup.find(state, trees, path.name)
    if wanted is None:
        raise MirrorError(
            f"No Manifest of a tree in use names {path.name}.",
            remedy="Give the file the name that the ebuild has for it, or sync the tree if the "
            "package is new.",
        )
    _require(path, path, wanted)
    return wanted


def _require(path: Path, copy: Path, wanted: Wanted) -> None:
    """Check a copy of the person's file `path`.

    Raises:
        MirrorError: it differs from what is wanted.
    """
    why = mismatch(copy, wanted.size_bytes, wanted.digests)
    if why:
        digests = "".join(f"\n  {kind} {value}" for kind, value in wanted.digests.items())
        raise MirrorError(
            f"{path} is not the file that {', '.join(wanted.by)} wants: {why}. Expected are "
            f"{wanted.size_bytes} bytes with{digests}\n",
            remedy="Fetch it again, in the version that the ebuild names.",
        )


def _copy(store: Store, path: Path, wanted: Wanted) -> None:
    partial = store.partials / wanted.filename
    with claimed(store.claim(wanted.filename)):
        if is_regular(store.place(wanted.filename)) and not mismatch(
            store.place(wanted.filename), wanted.size_bytes, wanted.digests
        ):
            return
        validators.forget(partial)
        try:
            shutil.copyfile(path, partial)
            _require(path, partial, wanted)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        put_in_place(partial, store.place(wanted.filename))
