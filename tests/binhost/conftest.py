"""Package files in the real format, and one real builder for all tests of the binhost."""

import bz2
import hashlib
import io
import itertools
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from portage.xpak import xpak_mem

from binhost.build import build
from binhost.builder import Workshop
from binhost.pool import Pool
from binhost.records import BuildResult, Configuration, save
from config.model import Class, Cluster
from config.portage import builder_files
from mirror.upstream.assemble import assemble

NOW = datetime(2026, 1, 1, tzinfo=UTC)

MakePackage = Callable[..., str]


def archive(files: dict[str, bytes]) -> bytes:
    """A tar of `files`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def gpkg(
    metadata: dict[str, str], folder: str, image: bytes = b"", unpacked: bytes | None = None
) -> bytes:
    """A gpkg (GLEP 78) with that metadata; `unpacked` takes the place of the metadata's tar."""
    inner = {f"metadata/{key}": f"{text}\n".encode() for key, text in metadata.items()}
    members = {
        "gpkg-1": b"",
        "metadata.tar.zst": zstandard.compress(archive(inner) if unpacked is None else unpacked),
        "image.tar.zst": zstandard.compress(archive({"image/usr/share/x": image})),
    }
    lines = [
        f"DATA {name} {len(data)} BLAKE2B {hashlib.blake2b(data).hexdigest()} "
        f"SHA512 {hashlib.sha512(data).hexdigest()}"
        for name, data in members.items()
    ]
    members["Manifest"] = "\n".join([*lines, ""]).encode()
    return archive({f"{folder}/{name}": data for name, data in members.items()})


def xpak(metadata: dict[str, str], image: bytes = b"") -> bytes:
    """A package of the older format (xpak(5)) with that metadata."""
    packed = bytes(xpak_mem({key: f"{text}\n".encode() for key, text in metadata.items()}))
    return bz2.compress(image) + packed + len(packed).to_bytes(4, "big") + b"STOP"


@pytest.fixture
def gpkg_bytes() -> Callable[..., bytes]:
    """The bytes of a package; see `gpkg`."""
    return gpkg


@pytest.fixture
def make_package() -> MakePackage:
    """Write a package into a folder as emerge would, and return its name in the pool."""

    def make(
        staging: Path,
        pf: str,
        *,
        build_id: int = 1,
        image: bytes = b"",
        suffix: str = ".gpkg.tar",
        **more: str,
    ) -> str:
        metadata = {
            "CATEGORY": "app-misc",
            "PF": pf,
            "BUILD_ID": str(build_id),
            "BUILD_TIME": "1700000000",
            "SLOT": "0",
            "EAPI": "8",
            "repository": "gentoo",
            "CHOST": "x86_64-pc-linux-gnu",
            "KEYWORDS": "amd64",
            **more,
        }
        file = f"{pf}-{build_id}"
        name = f"app-misc/{pf.rpartition('-')[0]}/{file}{suffix}"
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = xpak(metadata, image) if suffix == ".xpak" else gpkg(metadata, file, image)
        path.write_bytes(packed)
        return name

    return make


@pytest.fixture
def finished() -> Callable[..., BuildResult]:
    """Write the record of a build of these packages, as `headnode build` does."""

    def finish(folder: Path, *packages: str, **more: Any) -> BuildResult:
        values: dict[str, Any] = {
            "class_name": "blade",
            "snapshots": "s1",
            "atoms": ("app-misc/a",),
            "header": {"ARCH": "amd64"},
            "packages": tuple(sorted(packages)),
            "built": (),
            "configuration": Configuration(files={}, links={}),
            "finished": NOW,
            "seconds": 1.0,
        }
        result = BuildResult(**{**values, **more})
        save(folder / "result.json", result)
        return result

    return finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """A builder with an upstream of its own. `first` is what its first build left in staging."""

    folder: Path
    result: BuildResult
    reports: tuple[str, ...]
    machine_before: dict[str, tuple[int, int]]

    @property
    def upstream(self) -> Path:
        """Where its tree and distfiles are."""
        return self.folder / "upstream"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    @property
    def first(self) -> Path:
        """A copy of staging after the first build."""
        return self.folder / "first"

    def machine_now(self) -> dict[str, tuple[int, int]]:
        """What the machine itself has where packages are installed."""
        return machine()

    def shop(self, *extra: str, **options: Any) -> Workshop:
        """The workshop for the whole set and `extra` atoms; `options` are the class's."""
        return workshop(self.folder, *extra, **options)

    def build(self, snapshots: str, *extra: str, **options: Any) -> BuildResult:
        """Build @blade from the tree as it is now; `snapshots` names that state of it."""
        reports = options.pop("reports", [])
        fresh = options.pop("fresh", False)
        shop = self.shop(*extra, **options)
        return run_build(shop, snapshots, *extra, fresh=fresh, reports=reports)


MACHINE = ("/etc/portage", "/var/db/pkg", "/var/lib/portage", "/var/cache/binpkgs")
FLAT = ("/etc", "/usr/bin", "/usr/lib", "/usr/include", "/usr/share", "/usr/local/bin", "/share")


def machine() -> dict[str, tuple[int, int]]:
    """Size and time of what an installation would change on the machine itself."""
    paths = [path for name in MACHINE for path in [Path(name), *Path(name).rglob("*")]]
    paths += [path for name in FLAT for path in Path(name).glob("*")]
    stats = {str(path): path.lstat() for path in paths if path.exists()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def workshop(folder: Path, *extra: str, **options: Any) -> Workshop:
    """The workshop over `folder`, with the machine's own root below."""
    atoms = ("cluster-meta/blade", *extra)
    rings = {"canary": "blade01"}
    blade = Class(packages=atoms, profile="lab/amd64", rings=rings, **options)
    cluster = Cluster(classes={"blade": blade})
    state, upstream = folder / "state", folder / "upstream"
    return Workshop(
        folder=state / "build/blade",
        state=state,
        root=Path("/"),
        repos={"gentoo": upstream / "tree"},
        distfiles=upstream / "distfiles",
        pool=Pool(folder=state / "binhost/blade/pool"),
        configuration=builder_files(cluster, "blade", atoms, 2, None),
    )


def run_build(
    shop: Workshop, snapshots: str, *extra: str, fresh: bool = False, reports: list[str]
) -> BuildResult:
    """One build, its progress lines appended to `reports`."""
    return build(
        shop,
        class_name="blade",
        snapshots=snapshots,
        atoms=("cluster-meta/blade", *extra),
        jobs=2,
        timeout_s=600,
        fresh=fresh,
        report=reports.append,
    )


@pytest.fixture(scope="session")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    """A builder that has built the whole set once. Its tests move it on, each from where it is."""
    folder = tmp_path_factory.mktemp("works")
    assemble(folder / "upstream", tarballs=None)
    before = machine()
    reports: list[str] = []
    result = run_build(workshop(folder), "first", reports=reports)
    shutil.copytree(folder / "state/build/blade/staging", folder / "first")
    yield Works(folder=folder, result=result, reports=tuple(reports), machine_before=before)
    shutil.rmtree(folder, ignore_errors=True)


EFFECTS = ("fsync", "link", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir", "utime")

KilledAt = Callable[[int, Callable[[], object]], bool]


@contextmanager
def _dying(step: int) -> Iterator[None]:
    """Kill this process instead of letting it take its `step`-th effect on the disk."""
    taken = itertools.count(1)

    def watched(effect: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(taken) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return effect(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in EFFECTS:
            patch.setattr(os, name, watched(getattr(os, name)))
        yield


@pytest.fixture
def killed_at() -> KilledAt:
    """Do something in a process that is killed at its `step`-th effect; whether it came to that."""

    def do(step: int, act: Callable[[], object]) -> bool:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with _dying(step):
                    act()
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status != 0

    return do
