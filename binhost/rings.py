"""Rings: which deployment of which generation a node set sees, and how that changes in one rename.

::

    rings/<ring>/current -> deployments/<seq>
    rings/<ring>/deployments/<seq>/Packages(.gz)    the index, its mtime equal to its TIMESTAMP
    rings/<ring>/deployments/<seq>/generation.json
    rings/<ring>/deployments/<seq>/blade.json       what its blades are to be like (config.blade)
    rings/<ring>/deployments/<seq>/keys.asc         the public keys that blades trust from it on
    rings/<ring>/deployments/<seq>/deployment.json(.asc)  `binhost.records.Deployment`, signed
    rings/<ring>/deployments/<seq>/repos/<repo> -> the snapshot of the tree it was built from

Portage takes an index only when its TIMESTAMP is newer than that of the copy it has, and asks with
`If-Modified-Since: TIMESTAMP + 5 s`: a ring's TIMESTAMP grows by more than that with every
deployment, also when the clock was set back (Portage 3.0.83, bintree._populate_remote_repo).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from binhost.entries import Entries
from binhost.index import field, packed, render_content
from binhost.records import Deployment, GateReport, Generation, TreeImage, read, to_json
from binhost.signing import Signer
from headnode.errors import PublishError
from headnode.files import (
    drop_retired,
    fill,
    fill_durably,
    point_symlink,
    remove_tree,
    retire,
    sync_content,
    sync_folder,
)

TIMESTAMP_STEP_S = 6
USER_PATCHES = re.compile(rb"^USER_PATCHES: .*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The ring in `folder`; `name` and `class_name` are written into its deployments."""

    folder: Path
    class_name: str
    name: str

    def current(self) -> Deployment | None:
        """What the ring has, if anything was ever put in front of it."""
        if not (self.folder / "current").exists():
            return None
        return read(self.folder / "current" / "deployment.json", Deployment)

    def pool_url(self) -> str | None:
        """Where the index that the ring has sends blades for packages."""
        with (self.folder / "current" / "Packages").open() as index:
            for line in index:
                if line.startswith("URI: "):
                    return line.removeprefix("URI: ").rstrip("\n")
                if line == "\n":
                    break
        return None

    def sequences(self) -> list[int]:
        """The numbers of its deployments, oldest first, whether or not the ring moved to each."""
        folder = self.folder / "deployments"
        return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())

    def deployment(self, sequence: int) -> Deployment:
        """The deployment of that number."""
        return read(self.folder / "deployments" / str(sequence) / "deployment.json", Deployment)

    def first_of_row(self) -> Deployment | None:
        """The first of the deployments of its generation that follow on each other up to its own.

        A renewal makes one anew; the ring has its generation since this one. An older one that is
        damaged ends the row.
        """
        first = self.current()
        for sequence in reversed(self.sequences() if first else []):
            if first is None or sequence >= first.sequence:
                continue
            try:
                before = self.deployment(sequence)
            except PublishError:
                break
            if before.generation != first.generation:
                break
            first = before
        return first

    def went_back_from(self, number: int) -> bool:
        """Whether it had that generation and has an older one now: somebody took it back."""
        current = self.current()
        if current is None or current.generation >= number:
            return False
        had = (each for each in self.sequences() if each < current.sequence)
        return any(self.deployment(each).generation == number for each in had)

    def newest(self) -> Deployment | None:
        """The last deployment that was made, whether or not the ring moved to it."""
        known = self.sequences()
        return self.deployment(known[-1]) if known else None

    def before(self) -> int:
        """The generation that the ring had before its present one: the newest older that it had.

        Raises:
            PublishError: it never had one.
        """
        current = self.current()
        had = {self.deployment(sequence).generation for sequence in self.sequences()}
        older = {number for number in had if current and number < current.generation}
        if not older:
            raise PublishError(
                f"The ring {self.name} never had an older generation.",
                remedy="headnode generations list shows what there is; name one with --to.",
            )
        return max(older)

    def deploy(
        self,
        generation: Generation,
        entries: Mapping[str, str],
        *,
        repos: Mapping[str, Path],
        pool_url: str,
        now: datetime,
        valid: timedelta,
        signer: Signer | None,
        image: TreeImage | None = None,
        gates: tuple[GateReport, ...] = (),
        above: int = 0,
        blade: str | None = None,
    ) -> Deployment:
        """Put `generation` in front of the ring: one rename, after everything is in place.

        `repos` are the snapshots of its trees (name -> folder), `image` is those as one file,
        `gates` what the move passed, `blade` the text of blade.json (None: blades keep their
        configuration). Its sequence is above the ring's last one, and above `above`. Blades refuse
        the deployment when `valid` is over.

        Raises:
            PublishError: none of the keys that sign is one that the ring's blades were told of.
        """
        # Not the current one: a deployment that was made, and then lost its rename with the power,
        # may have been seen by a blade.
        before = self.newest()
        least = before.timestamp + TIMESTAMP_STEP_S if before else 0
        timestamp = max(int(now.timestamp()), least)
        files = {
            "Packages": index_of(
                generation, Entries.of(entries), timestamp=timestamp, pool_url=pool_url
            ),
            "generation.json": to_json(generation).encode(),
        }
        if blade is not None:
            files["blade.json"] = blade.encode()
        if signer:
            _require_told(before, signer)
            files["keys.asc"] = signer.keyring.encode()
        deployment = Deployment(
            class_name=self.class_name,
            ring=self.name,
            sequence=max(before.sequence if before else 0, above) + 1,
            generation=generation.number,
            issued=now,
            expires=now + valid,
            timestamp=timestamp,
            keys=signer.trusted if signer else (),
            snapshots=generation.snapshots,
            repos=tuple(repos),
            image=image,
            atoms=generation.atoms,
            sha256={},
            gates=gates,
        )
        beside = self._beside(deployment.sequence, repos)
        deployment = _fill(beside, deployment, files, signer, before.keys if before else ())
        self._put(beside, deployment.sequence)
        return deployment

    def _beside(self, sequence: int, repos: Mapping[str, Path]) -> Path:
        """A folder for a deployment that is to be, with the links to its trees."""
        folder = self.folder / "deployments"
        for litter in (*folder.glob(".*"), *self.folder.glob(".current.*")):
            remove_tree(litter)  # of a publish that was killed
        beside = folder / f".{sequence}.new"
        (beside / "repos").mkdir(parents=True)
        for name, snapshot in repos.items():
            (beside / "repos" / name).symlink_to(os.path.relpath(snapshot, beside / "repos"))
        sync_folder(beside / "repos")
        return beside

    def _put(self, beside: Path, sequence: int) -> None:
        folder = self.folder / "deployments"
        sync_content(beside)
        beside.rename(folder / str(sequence))
        self._drop_unreached(sequence)
        sync_folder(folder)
        point_symlink(self.folder / "current", f"deployments/{sequence}")

    def _drop_unreached(self, newest: int) -> None:
        """Drop what was made after the present deployment, and that the ring never moved to.

        A publish that was killed just before its rename left it. Below a later one, it would pass
        for a generation that the ring had and somebody took it back from.
        """
        current, folder = self.folder / "current", self.folder / "deployments"
        reached = int(current.readlink().name) if current.is_symlink() else 0
        for number in self.sequences():
            if reached < number < newest:
                retire(folder / str(number))
        drop_retired(folder)


def _fill(
    folder: Path,
    deployment: Deployment,
    files: Mapping[str, bytes],
    signer: Signer | None,
    told: tuple[str, ...],
) -> Deployment:
    """Write a deployment and its files, and return it with their digests.

    To write `Packages` takes as long as the rest: to pack it, its digest, and gpg's signature.
    """
    with ThreadPoolExecutor(max_workers=2) as threads:
        written = threads.submit(fill_durably, folder, files, mtime=deployment.timestamp)
        digesting = threads.submit(_digests, files)
        small = {"Packages.gz": packed(files["Packages"], deployment.timestamp)}
        fill(folder, small, mtime=deployment.timestamp)
        sha256 = digesting.result() | _digests(small)
        deployment = deployment.model_copy(update={"sha256": sha256})
        fill(folder, {"deployment.json": to_json(deployment)})
        try:
            if signer:
                signer.seal(folder / "deployment.json", told)
        finally:
            written.result()  # a full disk, which gpg may have met first, is said as such
    return deployment


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _require_told(before: Deployment | None, signer: Signer) -> None:
    if before and before.keys and not signer.by_hand and not signer.is_known(before.keys):
        raise PublishError(
            f"The key {signer.key} is to sign, and the blades of the ring {before.ring} were never "
            f"told to trust it; they trust {', '.join(before.keys)}.",
            remedy=f"Have one of those tell them (its secret in {signer.home}, headnode keys add); "
            f"or run headnode keys use {signer.key} --by-hand, and give every blade its files "
            "again.",
        )


def index_of(generation: Generation, entries: Entries, *, timestamp: int, pool_url: str) -> bytes:
    """`Packages` of a deployment of a generation with these entries. Pure."""
    content, count = without_patches(entries.content), len(generation.packages)
    return render_content(generation.header, content, count, timestamp=timestamp, uri=pool_url)


def without_patches(entries: bytes) -> bytes:
    """Entries that do not say which user patches are in the packages. Pure.

    Portage takes no binary whose patches it does not have in /etc/portage/patches itself; the
    builder's index says them, and there that is right (portage 3.0.83, `USER_PATCHES`).
    """
    return USER_PATCHES.sub(b"", entries) if b"\nUSER_PATCHES: " in entries else entries


def is_stale(
    deployment: Deployment, *, trusted: Collection[str], valid: timedelta, now: datetime
) -> bool:
    """Whether a ring's deployment is to be made anew although its generation is the same.

    That is when half of its time is over, or when other keys are `trusted` now (none: nothing is
    signed, and blades do not look at the time).
    """
    if set(deployment.keys) != set(trusted):
        return True
    return bool(trusted) and deployment.expires - now < valid / 2


def check_files(pool: Path, entries: Mapping[str, str]) -> None:
    """Check that the pool has every file of an index, in the size that the index says.

    Raises:
        PublishError: naming the first that is not.
    """
    for name, entry in entries.items():
        said, path = field(entry, "SIZE"), f"{pool}/{name}"
        try:
            found = str(os.stat(path).st_size)  # noqa: PTH116 (a Path each takes 10 times as long)
        except FileNotFoundError:
            found = ""
        if said != found:
            what = f"has {found} bytes" if found else "is not there"
            raise PublishError(
                f"{path} {what}; its index entry says {said} bytes.",
                remedy="Put it back from a backup, or remove it and run headnode build: the "
                "package is then built anew.",
            )
