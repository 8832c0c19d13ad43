"""Every byte that blades may be given, read again and compared with what was published.

For each generation: its entries against `entries_sha256`, its packages against their SHA-256 and
the entry's SIZE, MD5 and SHA1, and what the pool says of them. For each ring's deployment of it:
the files against the digests in deployment.json, `Packages.gz` against `Packages`, the links to the
trees, and the signature, by the keys that blades trust now. Several threads read at once: hashlib
lets go of the interpreter while it works. No lock is held, so that a publish need not wait.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from binhost.entries import Entries
from binhost.index import field
from binhost.keys import Keys
from binhost.pool import Pool
from binhost.publish import Binhost
from binhost.records import Deployment, Generation
from binhost.rings import Ring
from binhost.signing import SEAL_SUFFIX, is_sealed
from headnode.errors import PublishError
from headnode.files import digests

THREADS = 4
OnProgress = Callable[[int, int], None]
"""Is told the bytes that were read and those that there are to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A file that is not what it must be. `name` is the pool name if it is a package, else ""."""

    path: Path
    what: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a package in the pool must be."""

    sha256: str
    entry: str

    @property
    def size_bytes(self) -> int:
        """What its entry says; 0 where it says nothing."""
        return int(field(self.entry, "SIZE") or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was read, and what was found."""

    generations: tuple[int, ...]
    packages: int
    size_bytes: int
    findings: tuple[Finding, ...]


def in_rings(binhost: Binhost) -> list[int]:
    """The generations that rings have now."""
    return sorted({current.generation for ring in binhost.rings() if (current := ring.current())})


def verify(
    binhost: Binhost,
    numbers: Iterable[int],
    on_progress: OnProgress = lambda done, total: None,
) -> Verified:
    """Read everything that the generations `numbers` and their deployments are made of.

    Raises:
        PublishError: there is no such generation, or its record cannot be read.
    """
    generations = [binhost.generations.read(number) for number in sorted(set(numbers))]
    findings: list[Finding] = []
    wanted: dict[str, Wanted] = {}
    for generation in generations:
        entries, found = _entries(binhost, generation)
        findings += found
        wanted |= {
            name: Wanted(sha256=sha256, entry=entries.get(name, ""))
            for name, sha256 in generation.packages.items()
        }
    findings += _pool_index(binhost.pool, wanted)
    findings += _packages(binhost.pool.folder, wanted, on_progress)
    for ring in binhost.rings():
        findings += _ring(ring, {each.number for each in generations}, binhost.keys)
    return Verified(
        generations=tuple(each.number for each in generations),
        packages=len(wanted),
        size_bytes=sum(each.size_bytes for each in wanted.values()),
        findings=tuple(findings),
    )


def _entries(binhost: Binhost, generation: Generation) -> tuple[Mapping[str, str], list[Finding]]:
    path = binhost.generations.folder / str(generation.number) / "entries"
    try:
        # Their names as the text has them, not as the generation says; it may be no text.
        entries = Entries(binhost.generations.entries(generation).text.encode())
    except FileNotFoundError:
        return {}, [Finding(path=path, what="it is not there")]
    except (PublishError, UnicodeDecodeError):
        return {}, [Finding(path=path, what="its content is not what was published")]
    if list(entries) != list(generation.packages):
        return entries, [Finding(path=path, what="it does not name the generation's packages")]
    return entries, []


def _pool_index(pool: Pool, wanted: Mapping[str, Wanted]) -> Iterable[Finding]:
    """What the pool says otherwise of these packages than their generations: publishes go by it."""
    try:
        stock = pool.stock()
        entries = stock.entries
    except (PublishError, UnicodeDecodeError) as error:
        yield Finding(path=pool.folder, what=f"its index cannot be read: {error}")
        return
    for name, each in wanted.items():
        recent = pool.index.recent_file if name in stock.recent else None
        if stock.sha256.get(name) != each.sha256:  # without it, its entry does not count
            what = f"it has not the published digest of {name}"
            yield Finding(path=recent or pool.index.digests_file, what=what)
        elif each.entry and entries.get(name) != each.entry:
            what = f"it has not the published entry of {name}"
            yield Finding(path=recent or pool.index.entries_file, what=what)


def _packages(
    pool: Path, wanted: Mapping[str, Wanted], on_progress: OnProgress
) -> Iterable[Finding]:
    total, done = sum(each.size_bytes for each in wanted.values()), 0
    with ThreadPoolExecutor(THREADS) as threads:
        whats = threads.map(lambda item: judge(pool / item[0], item[1]), wanted.items())
        for (name, each), what in zip(wanted.items(), whats, strict=True):
            done += each.size_bytes
            on_progress(done, total)
            if what:
                yield Finding(path=pool / name, what=what, name=name)


def judge(path: Path, wanted: Wanted) -> str:
    """What is wrong with the package at `path`; "" if it is what was published."""
    try:
        size = path.lstat().st_size
        if path.is_symlink() or not path.is_file():
            return "it is no regular file"
        # Of a generation without its entries only the SHA-256 is known.
        said = field(wanted.entry, "SIZE")
        if said is not None and said != str(size):
            return f"it has {size} bytes; {said} were published"
        found = digests(path, "sha256", "md5", "sha1")
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if found["sha256"] != wanted.sha256:
        return "its content is not what was published"
    for key in ("MD5", "SHA1"):
        said = field(wanted.entry, key)
        if said is not None and said != found[key.lower()]:
            return f"its index entry says another {key}"
    return ""


def _ring(ring: Ring, numbers: set[int], keys: Keys | None) -> Iterable[Finding]:
    """The deployments of a ring that are of these generations, and its link to the present one."""
    current = ring.folder / "current"
    if current.is_symlink() and not current.exists():
        yield Finding(path=current, what=f"{current.readlink()} is not there")
    for sequence in ring.sequences():
        folder = ring.folder / "deployments" / str(sequence)
        try:
            deployment = ring.deployment(sequence)
        except PublishError as error:
            yield Finding(path=folder / "deployment.json", what=error.what)
            continue
        if deployment.generation in numbers:
            yield from deployment_findings(folder, deployment)
            yield from _seal(folder / "deployment.json", deployment, keys)


def deployment_findings(folder: Path, deployment: Deployment) -> Iterable[Finding]:
    """What is wrong with a deployment's files."""
    good = set()
    for name, sha256 in deployment.sha256.items():
        path = folder / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            yield Finding(path=path, what="it is not there")
        except OSError as error:
            yield Finding(path=path, what=f"it cannot be read: {error.strerror}")
        else:
            if found == sha256:
                good.add(name)
            else:
                yield Finding(path=path, what="its content is not what was deployed")
    packed = folder / "Packages.gz"
    if {"Packages", "Packages.gz"} <= good and not _unpacks_to(packed, folder / "Packages"):
        yield Finding(path=packed, what="it does not unpack to Packages")
    for name in deployment.repos:
        link = folder / "repos" / name
        if not link.is_symlink():
            yield Finding(path=link, what="it is no link to a tree")
        elif not link.exists():
            yield Finding(path=link, what=f"the tree {link.readlink()} is not there")


def _seal(path: Path, deployment: Deployment, keys: Keys | None) -> Iterable[Finding]:
    """What is wrong with a deployment's signature.

    One by keys that were dropped since can no longer be checked: no blade takes that deployment.
    """
    if keys is None or not set(deployment.keys) & keys.trusted().keys():
        return
    seal = path.with_name(f"{path.name}{SEAL_SUFFIX}")
    if not seal.is_file():
        yield Finding(path=seal, what="it is not there")
    elif not is_sealed(path, keys.verify_home()):
        yield Finding(path=seal, what="no key that blades trust signed that deployment.json")


def _unpacks_to(packed: Path, plain: Path) -> bool:
    try:
        return gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    except (OSError, EOFError, zlib.error):
        return False
