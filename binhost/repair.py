"""Damaged files put back, by digest only: nothing is ever guessed.

A package is looked for in staging, in the pools of the other classes, and below a folder that
somebody names (a blade's package cache, say); a deployment's file is made again from its
generation, and `entries` from the pool's, and taken only if that gives the very bytes. What was
there instead is moved to `quarantine/` for somebody to look at.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from binhost.index import field, join_entries, packed
from binhost.publish import Binhost
from binhost.records import Deployment, Generation, to_json
from binhost.rings import index_of
from binhost.verify import Finding
from headnode.errors import PublishError
from headnode.files import digests, locked, sync_folder, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What came of a finding: where its content was had from, or "" if nowhere."""

    finding: Finding
    source: str


def repair(
    binhost: Binhost, findings: Iterable[Finding], folders: Iterable[Path]
) -> list[Repaired]:
    """Put back what can be; `folders` are searched after staging and the other classes' pools.

    Raises:
        BusyError: a publish is at work.
    """
    findings, folders = list(findings), list(folders)
    with locked(binhost.lock, "headnode generations verify"):
        mender = _Mender(binhost=binhost, folders=tuple(folders))
        # What a deployment's files are made from first.
        findings.sort(key=lambda each: each.path.name != "entries")
        return [Repaired(finding=each, source=mender.mend(each)) for each in findings]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mender:
    binhost: Binhost
    folders: tuple[Path, ...]

    def mend(self, finding: Finding) -> str:
        if finding.name:
            return self._package(finding)
        if finding.path.parent.parent.name == "generations" and finding.path.name == "entries":
            return self._entries(finding.path)
        if finding.path.parent.parent.name == "deployments":
            return self._deployed(finding.path)
        return ""

    def _package(self, finding: Finding) -> str:
        sha256 = self._sha256(finding.name)
        entry = self.binhost.pool.entries().get(finding.name, "")
        size, mtime = (int(field(entry, key) or 0) for key in ("SIZE", "MTIME"))
        for candidate in self._candidates(finding.name):
            if candidate == finding.path or not _has(candidate, sha256, size):
                continue
            if _copy(candidate, finding.path, sha256, mtime, self._put_aside):
                return str(candidate)
        return ""

    def _sha256(self, name: str) -> str:
        """The digest that generations know the package by."""
        known = self.binhost.generations
        for number in reversed(known.numbers()):
            if sha256 := known.read(number).packages.get(name):
                return sha256
        raise PublishError(f"No generation names {name}.")

    def _candidates(self, name: str) -> Iterable[Path]:
        yield self.binhost.staging / name
        yield from sorted(self.binhost.folder.parent.glob(f"*/pool/{name}"))
        for folder in self.folders:
            yield folder / name
            # Any file there may be it: only its digest counts.
            yield from sorted(folder.rglob("*.*"))

    def _entries(self, path: Path) -> str:
        generation = self.binhost.generations.read(int(path.parent.name))
        pool = self.binhost.pool.entries()
        if not generation.packages.keys() <= pool.keys():
            return ""
        text = join_entries(pool[name] for name in generation.packages)
        return self._write(path, text.encode(), generation.entries_sha256, "the pool's entries")

    def _deployed(self, path: Path) -> str:
        deployment = self._deployment(path)
        if deployment is None or path.name not in deployment.sha256:
            return ""
        try:
            generation = self.binhost.generations.read(deployment.generation)
            made = self._render(path.parent, deployment, generation)
        except (PublishError, FileNotFoundError):
            return ""
        for content in made.get(path.name, ()):
            source = f"generation {generation.number}"
            if said := self._write(
                path, content, deployment.sha256[path.name], source, mtime=deployment.timestamp
            ):
                return said
        return ""

    def _deployment(self, path: Path) -> Deployment | None:
        ring = self.binhost.ring(path.parent.parent.parent.name)
        try:
            return ring.deployment(int(path.parent.name))
        except PublishError:
            return None

    def _render(
        self, folder: Path, deployment: Deployment, generation: Generation
    ) -> Mapping[str, list[bytes]]:
        """What the files must have been, for each address that the index may send blades to."""
        entries = self.binhost.generations.entries(generation)
        made: dict[str, list[bytes]] = {"generation.json": [to_json(generation).encode()]}
        for uri in dict.fromkeys((self.binhost.pool_url, *_uris(folder))):
            plain = index_of(generation, entries, timestamp=deployment.timestamp, pool_url=uri)
            made.setdefault("Packages", []).append(plain)
            made.setdefault("Packages.gz", []).append(packed(plain, deployment.timestamp))
        return made

    def _write(
        self, path: Path, content: bytes, sha256: str, source: str, mtime: int | None = None
    ) -> str:
        if hashlib.sha256(content).hexdigest() != sha256:
            return ""
        self._put_aside(path)
        write_atomic(path, content, mtime=mtime)
        return source

    def _put_aside(self, path: Path) -> None:
        """Keep a second name of what is there for somebody to look at, where there is anything."""
        if not path.is_file() or path.is_symlink():
            return
        folder = self.binhost.folder / "quarantine"
        folder.mkdir(exist_ok=True)
        digest = digests(path, "sha256")["sha256"][:12]
        aside = folder / f"{path.parent.name}-{path.name}.{digest}"
        if not aside.exists():
            os.link(path, aside)
        sync_folder(folder)


def _uris(folder: Path) -> list[str]:
    """The address in what is left of an index, if that can be read."""
    try:
        head = (folder / "Packages").read_bytes().partition(b"\n\n")[0].decode()
    except (OSError, UnicodeDecodeError):
        return []
    return [line[5:] for line in head.splitlines() if line.startswith("URI: ")]


def _has(path: Path, sha256: str, size_bytes: int = 0) -> bool:
    """Whether a file has that content; one of another size (0: not known) is not read for it."""
    try:
        if not path.is_file() or (size_bytes and path.stat().st_size != size_bytes):
            return False
        return digests(path, "sha256")["sha256"] == sha256
    except OSError:
        return False


def _copy(
    source: Path, target: Path, sha256: str, mtime: int, put_aside: Callable[[Path], None]
) -> bool:
    """Put a copy of `source` at `target`, in one rename; False if it is not that content by then.

    A copy, not a link: a source that is written to later shall not reach into the pool.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file, source.open("rb") as origin:
            shutil.copyfileobj(origin, file)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if mtime:
                os.utime(file.fileno(), (mtime, mtime))
            os.fsync(file.fileno())
        if not _has(Path(beside), sha256):
            Path(beside).unlink()
            return False
        put_aside(target)
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return True
