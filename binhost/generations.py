"""Generations: complete, numbered, immutable states of what blades of a class install.

::

    generations/<n>/generation.json   `binhost.records.Generation`
    generations/<n>/entries           the index entries of its packages, in the order of `packages`

A generation is put together beside its name and renamed to it: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from binhost.entries import Entries
from binhost.index import join_entries
from binhost.pool_index import Stock
from binhost.records import BuildResult, Generation, read, to_json
from binhost.tags import read_tags
from headnode.errors import PublishError
from headnode.files import fill, fill_durably, remove_tree, sync_content, sync_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """The generations in `folder`."""

    folder: Path

    def numbers(self) -> list[int]:
        """The numbers that there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def read(self, number: int) -> Generation:
        """Generation `number`.

        Raises:
            PublishError: there is none (any more).
        """
        numbers = self.numbers()
        if number not in numbers:
            known = ", ".join(map(str, numbers)) or "none"
            if numbers and 0 < number < numbers[-1]:
                raise PublishError(f"Generation {number} was collected; there is {known}.")
            raise PublishError(f"There is no generation {number}; there is {known}.")
        return read(self.folder / str(number) / "generation.json", Generation)

    def find(self, word: str) -> Generation:
        """The generation of that number or tag.

        Raises:
            PublishError: there is none (any more).
        """
        if word.isdecimal():
            return self.read(int(word))
        tags = read_tags(self.folder.parent)
        if word not in tags:
            known = ", ".join(tags) or "none"
            raise PublishError(f"There is no tag {word}; there is {known}.")
        return self.read(tags[word])

    def latest(self) -> Generation | None:
        """The newest generation, if there is any."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def entries(self, generation: Generation) -> Entries:
        """The index entries of a generation.

        Raises:
            PublishError: they are not what was published.
        """
        path = self.folder / str(generation.number) / "entries"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != generation.entries_sha256:
            raise PublishError(f"{path} is not what was published.", remedy="Publish anew.")
        return Entries(content, generation.packages)

    def propose(
        self,
        result: BuildResult,
        sha256: Mapping[str, str],
        entries: Entries,
        *,
        latest: Generation | None,
        why: str,
        now: datetime,
    ) -> Generation:
        """What the generation of a build would be: the newest one, if that says the same.

        `sha256` are the digests of the pool's packages, `entries` those of the build, `latest` is
        the newest generation.
        """
        if latest is not None and same_state(latest, result):
            return latest
        return Generation(
            number=latest.number + 1 if latest else 1,
            class_name=result.class_name,
            parent=latest.number if latest else None,
            made=now,
            why=why,
            snapshots=result.snapshots,
            atoms=result.atoms,
            header=result.header,
            packages={name: sha256[name] for name in result.packages},
            configuration=result.configuration,
            blade=result.blade,
            entries_sha256=hashlib.sha256(entries.content).hexdigest(),
        )

    @contextmanager
    def writing(self, number: int, entries: Entries) -> Iterator[Callable[[Generation], None]]:
        """Write the entries of generation `number` beside, while the block asks whether it may be.

        What it yields puts the generation in place, in one rename. Of one that was not put there,
        nothing stays; if this process is killed meanwhile, what was written stays until the next
        publish or `generations gc`.
        """
        beside = self.folder / f".{number}.new"
        remove_tree(beside)  # of a publish that was killed
        beside.mkdir(parents=True)
        with ThreadPoolExecutor(max_workers=1) as thread:
            written = thread.submit(fill_durably, beside, {"entries": entries.content})
            try:
                yield partial(self._put, beside, written)
            finally:
                wait([written])
                with suppress(OSError):  # why it was not put there says more
                    remove_tree(beside)

    def _put(self, beside: Path, written: Future[None], generation: Generation) -> None:
        fill(beside, {"generation.json": to_json(generation)})
        written.result()
        sync_content(beside)
        beside.rename(self.folder / str(generation.number))
        sync_folder(self.folder)


def entries_of(packages: BuildResult | Generation, stock: Stock) -> Entries:
    """The entries of a build or a generation, in the order of its file `entries`.

    Raises:
        PublishError: the pool lacks a package.
    """
    require_all(packages, stock)
    blocks = (stock.entry(name) for name in packages.packages)
    return Entries(join_entries(blocks).encode(), packages.packages)


def require_all(packages: BuildResult | Generation, stock: Stock) -> None:
    """Check that the pool has every package of a build or a generation.

    Raises:
        PublishError: naming those that it lacks.
    """
    if missing := sorted(set(packages.packages).difference(stock.sha256)):
        raise PublishError(f"The pool lacks {', '.join(missing)}.", remedy="Build again.")


def same_state(generation: Generation, result: BuildResult) -> bool:
    """Whether blades would install the same from both. Pure."""
    return (
        tuple(generation.packages) == result.packages
        and generation.snapshots == result.snapshots
        and generation.atoms == result.atoms
        and generation.header == result.header
        and generation.configuration == result.configuration
        and generation.blade == result.blade
    )
