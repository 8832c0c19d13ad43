"""The pool's index: the entries and digests of all packages, and what came since they were written.

::

    pool/entries       the index entries, in the order in which they came
    pool/sha256        the digests of the packages, as sha256sum(1) checks them
    pool/build-ids     the highest build id that each version ever had (`binhost.build_ids`)
    pool/recent.json   entry and digest of each package that came since, by name

One more package costs what one package costs, whatever there is: it is put into the small file.
When that has many, they are put into the large ones, and it goes. Each file is replaced in one
rename; build ids come first, and an entry after its digest. A name may stand in both for a moment,
and says the same in both.

Who reads without the pool's lock reads the small file before the large ones, and digests last: what
moves on in between is then seen twice, and not missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from binhost import build_ids
from binhost.entries import Entries
from binhost.index import DAMAGED, join_entries
from headnode.errors import PublishError
from headnode.files import write_atomic

# Twice as many cost a small file twice as long to write with each package, and the large ones are
# then written half as often.
RECENT = 64


class Known(NamedTuple):
    """What the index says of a package: its entry, and the SHA-256 of its content."""

    entry: str
    sha256: str


@dataclass(frozen=True, kw_only=True)  # without slots, for cached_property
class Stock:
    """What a pool has: the digest of each package, by name, and the index entries.

    `recent` are those of the small file. The others' entries are read by `read` when one of them is
    asked for.
    """

    sha256: Mapping[str, str]
    recent: Mapping[str, Known]
    read: Callable[[], Entries]

    @cached_property
    def entries(self) -> Entries:
        """The index entries of all packages.

        Raises:
            PublishError: the index is damaged.
        """
        return self.read()

    def entry(self, name: str) -> str:
        """The index entry of a package.

        Raises:
            PublishError: the index is damaged.
        """
        if name in self.recent:
            return self.recent[name].entry
        if name not in self.entries:
            raise PublishError(f"The pool's index has no entry for {name}.", remedy=DAMAGED)
        return self.entries[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolIndex:
    """The index in the pool's `folder`."""

    folder: Path

    @property
    def entries_file(self) -> Path:
        """Where the entries are."""
        return self.folder / "entries"

    @property
    def digests_file(self) -> Path:
        """Where the digests are."""
        return self.folder / "sha256"

    @property
    def build_ids_file(self) -> Path:
        """Where the highest build ids are."""
        return self.folder / "build-ids"

    @property
    def recent_file(self) -> Path:
        """Where those are that came since."""
        return self.folder / "recent.json"

    def stock(self) -> Stock:
        """Everything that the pool offers.

        Raises:
            PublishError: the small file is damaged.
        """
        recent = self.recent()
        sha256 = {**self._digests(), **{name: each.sha256 for name, each in recent.items()}}
        return Stock(sha256=sha256, recent=recent, read=self.entries)

    def entries(self) -> Entries:
        """The index entry of every package, by its name in the pool.

        Raises:
            PublishError: a package has no digest, or the index is damaged.
        """
        recent, found = self.recent(), Entries(_content(self.entries_file))
        if lacking := sorted(found.names.keys() - self._digests().keys() - recent.keys()):
            raise PublishError(
                f"{self.digests_file} lacks {', '.join(lacking)}.",
                remedy="It is damaged: put it back from a backup.",
            )
        return _together(found, recent)

    def recent(self) -> dict[str, Known]:
        """What the small file has.

        Raises:
            PublishError: it is damaged.
        """
        content = _content(self.recent_file)
        try:
            return {name: Known(**each) for name, each in json.loads(content or b"{}").items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(self.recent_file, str(error)) from error

    def build_ids(self, names: Iterable[str]) -> dict[str, int]:
        """The highest build id that each version (CPV) ever had here, whatever is left of it.

        `names` are those that there are; they count also if the file of build ids was lost.

        Raises:
            PublishError: what was written down of them is damaged.
        """
        written = build_ids.read(self.build_ids_file)
        return build_ids.with_names(build_ids.with_names(written, self.recent()), names)

    def add(self, new: Mapping[str, Known], known: Stock) -> Stock:
        """Put packages in that the index does not have, and return what it has then."""
        recent = {**known.recent, **new}
        sha256 = {**known.sha256, **{name: each.sha256 for name, each in new.items()}}
        if len(recent) <= RECENT:
            text = {name: each._asdict() for name, each in recent.items()}
            write_atomic(self.recent_file, json.dumps(text, indent=1) + "\n")
            return Stock(sha256=sha256, recent=recent, read=self.entries)
        entries = _together(Entries(_content(self.entries_file)), recent)
        self._note_build_ids(sha256)
        write_atomic(self.digests_file, join_digests(sha256))
        write_atomic(self.entries_file, entries.content)
        self.recent_file.unlink(missing_ok=True)
        return Stock(sha256=sha256, recent=new, read=self.entries)

    def drop(self, names: Set[str]) -> None:
        """Take packages out, for good: entries before digests, so that none is ever without."""
        sha256, entries = self.stock().sha256, self.entries()
        if names.isdisjoint(sha256) and names.isdisjoint(entries):
            return
        self._note_build_ids(sha256)
        left = {name: entry for name, entry in entries.items() if name not in names}
        if self.recent_file.exists():  # those that stay are in the large files before it goes
            write_atomic(self.digests_file, join_digests(sha256))
        write_atomic(self.entries_file, join_entries(left.values()))
        self.recent_file.unlink(missing_ok=True)
        stay = {name: each for name, each in sha256.items() if name not in names}
        write_atomic(self.digests_file, join_digests(stay))

    def clear_litter(self) -> None:
        """Drop what one that was killed had half written."""
        for file in (self.entries_file, self.digests_file, self.build_ids_file, self.recent_file):
            for litter in self.folder.glob(f".{file.name}.*"):
                litter.unlink()

    def _note_build_ids(self, names: Iterable[str]) -> None:
        """Write down, for good, that these names were given."""
        before = build_ids.read(self.build_ids_file)
        after = build_ids.with_names(before, names)
        if after != before:
            write_atomic(self.build_ids_file, build_ids.to_text(after))

    def _digests(self) -> dict[str, str]:
        return parse_digests(_content(self.digests_file).decode())


def _together(entries: Entries, recent: Mapping[str, Known]) -> Entries:
    """The entries of the large file, and those of the small one that it does not have. Pure."""
    more = [each.entry.encode() for name, each in recent.items() if name not in entries]
    if not more:
        return entries
    return Entries(b"\n".join([entries.content, *more] if entries.content else more))


def _content(path: Path) -> bytes:
    """A file's content, which is text; nothing if there is none."""
    try:
        content = path.read_bytes()
        content.decode()
    except FileNotFoundError:
        return b""
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error
    return content


def _damaged(path: Path, why: str) -> PublishError:
    return PublishError(f"{path} is damaged: {why}.", remedy="Put it back from a backup.")


def parse_digests(text: str) -> dict[str, str]:
    """What a file of sha256sum(1) says: name -> hex digest; names have no spaces. Pure."""
    words = text.split()
    return dict(zip(words[1::2], words[::2], strict=True))


def join_digests(sha256: Mapping[str, str]) -> str:
    """A file for `sha256sum --check`. Pure."""
    return "".join(f"{digest}  {name}\n" for name, digest in sha256.items())
