"""Many index entries as one content, which is taken apart only when one of them is asked for.

A publish of one package among ten thousand copies the bytes of the others as they stand: each copy
of so many megabytes takes longer than all that is looked for in them, and decoding them is one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property

from binhost.index import DAMAGED, field, join_entries, parse_entries
from headnode.errors import PublishError

# To find one among 10,000 entries takes up to 1.5 ms, to take them all apart 32 ms: so many are
# looked for, and so many put in or taken out, before that is done.
FEW, MANY = 8, 20

PATH, SIZE = re.compile(rb"\nPATH: ([^\n]*)"), re.compile(rb"\nSIZE: ([0-9]+)\n")


class Entries(Mapping[str, str]):
    """Index entries by pool name (their PATH), in the order of `content`.

    `names` are those of the entries in `content`, if they are known.
    """

    def __init__(self, content: bytes, names: Iterable[str] | None = None) -> None:
        self.content = content
        self._asked = 0
        if names is not None:
            self.names = dict.fromkeys(names)

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> Entries:
        """These entries, in their order."""
        if isinstance(entries, Entries):
            return entries
        return cls(join_entries(entries.values()).encode())

    @property
    def text(self) -> str:
        """All entries as text."""
        return self.content.decode()

    @cached_property
    def names(self) -> dict[str, None]:
        """The names, in order."""
        found = [name.decode() for name in PATH.findall(b"\n" + self.content)]
        names = dict.fromkeys(found)
        return names if len(names) == len(found) else dict.fromkeys(self._apart)

    @cached_property
    def _apart(self) -> dict[str, str]:
        return parse_entries(self.text)

    def __getitem__(self, name: str) -> str:
        self._asked += 1
        if self._asked > FEW or name not in self.names:
            return self._apart[name]
        start, end = block_of(self.content, name)
        return self.content[start:end].decode().strip("\n") + "\n"

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def sizes(self) -> Iterable[tuple[str, int | None]]:
        """The size in bytes that each entry gives its file; None if it gives none."""
        found = SIZE.findall(self.content)
        if len(found) == len(self.names):  # all have one, as they should
            return zip(self.names, map(int, found), strict=True)
        said = ((name, field(entry, "SIZE")) for name, entry in self.items())
        return ((name, None if size is None else int(size)) for name, size in said)

    def __len__(self) -> int:
        return len(self.names)

    def values(self) -> ValuesView[str]:
        """All entries, in order."""
        return self._apart.values()

    def items(self) -> ItemsView[str, str]:
        """All names and entries, in order."""
        return self._apart.items()


def changed(entries: Entries, after: Sequence[str], entry_of: Callable[[str], str]) -> Entries:
    """The entries of the names `after`, in that order; `entry_of` gives that of a new one. Pure.

    Where few of them change and all are sorted, what stays is copied as it stands.
    """
    before, wanted = list(entries.names), dict.fromkeys(after)
    gone, come = entries.names.keys() - wanted.keys(), wanted.keys() - entries.names.keys()
    if not before or len(gone) + len(come) > MANY or not _sorted(before) or not _sorted(after):
        blocks = (entry_of(name) if name in come else entries[name] for name in after)
        return Entries(join_entries(blocks).encode(), after)
    content, parts, at = memoryview(entries.content), list[bytes | memoryview](), 0
    behind = len(content) + 1  # where an entry would start, after the empty line that is to come
    for name in sorted(gone | come):
        place = bisect_left(before, name)
        start, end = (
            block_of(entries.content, before[place]) if place < len(before) else (behind, behind)
        )
        if at < start:
            parts.append(content[at : start - 1])
        if name in come:
            parts.append(entry_of(name).encode())
        at = end if name in gone else start
    if at < behind:
        parts.append(content[at:])
    return Entries(b"\n".join(parts), after)


def _sorted(names: Sequence[str]) -> bool:
    return list(names) == sorted(names)


def block_of(content: bytes, name: str) -> tuple[int, int]:
    """Where the entry of that name starts, and where the next one does.

    Raises:
        PublishError: there is none.
    """
    line = f"PATH: {name}\n".encode()
    inside = 0 if content.startswith(line) else content.find(b"\n" + line)
    if inside < 0:
        raise PublishError(f"The index has no entry for {name}.", remedy=DAMAGED)
    start, end = content.rfind(b"\n\n", 0, inside), content.find(b"\n\n", inside)
    return start + 2 if start >= 0 else 0, end + 2 if end >= 0 else len(content) + 1
