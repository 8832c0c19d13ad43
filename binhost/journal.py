"""The pool's index as a journal: what comes is added at the ends of two files.

::

    pool/entries   the index entries, each with an empty line after it, in the order they came
    pool/sha256    the digests of the packages, as sha256sum(1) checks them

One more package costs what one package costs, whatever there is. Entries are written first, and
made durable; a digest's line makes its entry count. What a publish that was cut off left behind the
last entry that counts is no part of the journal, and the next one writes over it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from binhost.entries import PATH, Entries, block_of
from binhost.index import field
from headnode.errors import PublishError
from headnode.files import append, sync_together, tail_of, write_atomic

# A whole entry fits in it, but for the rarest; then all of the file is read.
TAIL_BYTES = 1 << 16
HEX_DIGITS = 64
DIGEST_LINE = re.compile(r"^([0-9a-f]{64})  (\S+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """The journal in the pool's `folder`."""

    folder: Path

    @property
    def entries_file(self) -> Path:
        """Where the entries are."""
        return self.folder / "entries"

    @property
    def digests_file(self) -> Path:
        """Where the digests are."""
        return self.folder / "sha256"

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each package, by its name in the pool."""
        try:
            return parse_digests(self.digests_file.read_text())
        except FileNotFoundError:
            return {}

    def entries(self, sha256: Mapping[str, str]) -> Entries:
        """The index entry of every package that has a digest.

        Raises:
            PublishError: an entry before the last that counts has no digest.
        """
        text = self._text()
        found = Entries(counting(text, sha256) if self.digests_file.exists() else text)
        if lacking := sorted(found.names.keys() - sha256.keys()):
            raise PublishError(
                f"{self.digests_file} lacks {', '.join(lacking)}.",
                remedy="It is damaged: put it back from a backup.",
            )
        return found

    def add(
        self,
        new: Mapping[str, tuple[str, str]],
        known: Mapping[str, str],
        also: Iterable[Path] = (),
    ) -> None:
        """Add packages: name -> entry and digest. `known` are the digests that there are.

        `also` is made durable before the digests are written.
        """
        self._mend_digests(known)
        start = self._start(known)
        append(self.entries_file, start + "".join(f"{entry}\n" for entry, _ in new.values()))
        sync_together([self.entries_file, self.digests_file, *also])
        append(self.digests_file, join_digests({name: each for name, (_, each) in new.items()}))
        sync_together([self.digests_file])

    def drop(self, names: Collection[str]) -> None:
        """Take packages out: entries before digests, so that none is ever without."""
        sha256 = self.digests()
        entries = self.entries(sha256)
        if entries.keys() & names:
            left = (entry for name, entry in entries.items() if name not in names)
            write_atomic(self.entries_file, "".join(f"{entry}\n" for entry in left))
        if sha256.keys() & names:
            left_digests = {name: each for name, each in sha256.items() if name not in names}
            write_atomic(self.digests_file, join_digests(left_digests))

    def _text(self) -> str:
        try:
            return self.entries_file.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _mend_digests(self, known: Mapping[str, str]) -> None:
        """See that there are digests, also of nothing, and that a line can follow them."""
        if not tail_of(self.digests_file, 1).strip("\n"):
            append(self.digests_file, "")  # from here on, one that is not there was lost
        else:
            write_atomic(self.digests_file, join_digests(known))

    def _start(self, known: Mapping[str, str]) -> str:
        """What goes before the next entry. Behind the last that counts there is nothing then."""
        tail = tail_of(self.entries_file, TAIL_BYTES)
        if ends_whole(tail, known):
            return "\n" if tail and not tail.endswith("\n\n") else ""
        write_atomic(self.entries_file, counting(self._text(), known))
        return ""


def ends_whole(tail: str, known: Container[str]) -> bool:
    """Whether what a journal ends with is an entry that counts, or nothing. Pure."""
    if not tail:
        return True
    last = tail.rstrip("\n").rpartition("\n\n")[2]
    return tail.endswith("\n") and field(last, "PATH") in known


def counting(text: str, sha256: Mapping[str, str]) -> str:
    """A journal's entries up to the last that has a digest. Pure."""
    if ends_whole(text[-TAIL_BYTES:], sha256):
        return text
    counted = [name for name in PATH.findall(f"\n{text}") if name in sha256]
    return text[: block_of(text, counted[-1])[1]] if counted else ""


def parse_digests(text: str) -> dict[str, str]:
    """What a file of sha256sum(1) says: name -> hex digest; names have no spaces. Pure.

    A line that is not whole says nothing.
    """
    words = text.split()
    if text.endswith("\n") and set(map(len, words[::2])) == {HEX_DIGITS}:
        return dict(zip(words[1::2], words[::2], strict=True))
    return {name: digest for digest, name in DIGEST_LINE.findall(text)}


def join_digests(sha256: Mapping[str, str]) -> str:
    """A file for `sha256sum --check`. Pure."""
    return "".join(f"{digest}  {name}\n" for name, digest in sha256.items())
