"""The lab's upstream, with Portage's own tools, a real rsync client and real HTTP."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from headnode.errors import MirrorError
from mirror.upstream import metadata
from mirror.upstream.assemble import Assembled, assemble, bump, read_assembled
from mirror.upstream.packages import SOURCES, Step, next_version, packages, versions
from mirror.upstream.serve import rsyncd_conf
from mirror.upstream.tarballs import REAL, debian_sources, fetch_tarballs, in_house
from tests.ports import free_port

NOON = 1_750_000_000
IN_HOUSE = {
    "app-admin/motd-blade": "1.0",
    "app-misc/bladecount": "1.0",
    "app-misc/colours": "1.0",
    "cluster-meta/blade": "1.0",
    "dev-libs/libblade": "1.0",
    "sys-apps/bladeinfo": "1.0",
    "sys-apps/nodekeys": "1.0",
}
STAND_INS = {"app-admin/pwgen": "0", "app-misc/hello": "0", "app-text/tree": "0"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Assembled:
    """An upstream without real tarballs, for tests that only read."""
    target = tmp_path_factory.mktemp("upstream")
    return assemble(target, tarballs=None, clock=lambda: NOON)


@pytest.fixture
def upstream(pristine: Assembled, tmp_path: Path) -> Path:
    """A copy of it, for tests that change it."""
    return Path(shutil.copytree(pristine.root, tmp_path / "upstream", symlinks=True))


@pytest.fixture
def served(pristine: Assembled) -> Iterator[tuple[int, int]]:
    """Its rsync and HTTP ports while it is served."""
    ports = free_port(), free_port()
    with serving(pristine.root, *ports) as process:
        yield ports
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def serving(root: Path, rsync_port: int, http_port: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mirror.upstream.serve", "--root", str(root)),
            *("--rsync-port", str(rsync_port), "--http-port", str(http_port)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def manifest_of(tree: Path, package: str) -> dict[tuple[str, str], dict[str, str]]:
    """(type, name) -> digests, `size` among them."""
    entries = {}
    for line in (tree / package / "Manifest").read_text().splitlines():
        kind, name, size, *digests = line.split()
        entries[kind, name] = {"size": size, **dict(zip(digests[::2], digests[1::2], strict=True))}
    return entries


def manifest_path(held: Assembled, package: str, kind: str, name: str) -> Path:
    if kind == "DIST":
        return held.distfiles / hashlib.blake2b(name.encode()).hexdigest()[:2] / name
    folder = held.tree / package
    return folder / "files" / name if kind == "AUX" else folder / name


def assert_manifests_verify(held: Assembled) -> None:
    for package in packages(held.tree):
        for (kind, name), digests in manifest_of(held.tree, package).items():
            content = manifest_path(held, package, kind, name).read_bytes()
            assert digests == {
                "size": str(len(content)),
                "BLAKE2B": hashlib.blake2b(content).hexdigest(),
                "SHA512": hashlib.sha512(content).hexdigest(),
            }, f"{package}: {name}"


def test_without_a_real_tarball_every_package_is_there_from_sources_of_the_project(
    pristine: Assembled,
) -> None:
    assert pristine.packages == IN_HOUSE | STAND_INS
    assert pristine.real == ()
    assert sorted(pristine.stand_ins) == sorted(STAND_INS)
    assert read_assembled(pristine.root) == pristine


def test_the_meta_package_names_only_packages_that_are_there(pristine: Assembled) -> None:
    cached = (pristine.tree / "metadata/md5-cache/cluster-meta/blade-1.0").read_text()
    [depends] = re.findall(r"^RDEPEND=(.*)$", cached, re.MULTILINE)
    assert set(depends.split()) == set(pristine.packages) - {
        "cluster-meta/blade",
        "dev-libs/libblade",
    }


def test_manifests_list_every_file_and_verify(pristine: Assembled) -> None:
    assert_manifests_verify(pristine)
    for package in packages(pristine.tree):
        folder = pristine.tree / package
        on_disk = {path.name for path in folder.rglob("*") if path.is_file()} - {"Manifest"}
        listed = {name for kind, name in manifest_of(pristine.tree, package) if kind != "DIST"}
        assert listed == on_disk, package


def test_every_ebuild_parses_and_has_a_cache_entry_of_its_own_digest(pristine: Assembled) -> None:
    for ebuild in pristine.tree.glob("*/*/*.ebuild"):
        cached = pristine.tree / "metadata/md5-cache" / ebuild.parts[-3] / ebuild.stem
        digest = hashlib.md5(ebuild.read_bytes()).hexdigest()  # noqa: S324 (the format's own)
        lines = cached.read_text().splitlines()
        assert {"EAPI=8", "KEYWORDS=amd64", f"_md5_={digest}"} <= set(lines), ebuild.name


def test_an_ebuild_that_does_not_parse_is_named(upstream: Path) -> None:
    broken = upstream / "tree/app-misc/colours/colours-1.0.ebuild"
    broken.write_text('EAPI=8\nDESCRIPTION="broken\n')
    with pytest.raises(MirrorError, match=r"could not index app-misc/colours in .*tree:"):
        bump(upstream, "sys-apps/nodekeys")


def test_a_distfile_that_is_missing_is_an_error(upstream: Path) -> None:
    shutil.rmtree(upstream / "distfiles")
    manifest = upstream / "tree/dev-libs/libblade/Manifest"
    manifest.unlink()
    with pytest.raises(MirrorError, match="could not index dev-libs/libblade in"):
        metadata.index(upstream / "tree", upstream / "distfiles")


def test_distfiles_lie_where_glep_75_wants_them(pristine: Assembled) -> None:
    found = {str(path.relative_to(pristine.distfiles)) for path in pristine.distfiles.rglob("*.gz")}
    names = ["bladecount-1.0.tar.gz", "bladeinfo-1.0.tar.gz", "libblade-1.0.tar.gz"]
    assert found == {f"{hashlib.blake2b(n.encode()).hexdigest()[:2]}/{n}" for n in names}
    layout = (pristine.distfiles / "layout.conf").read_text()
    assert layout == "[structure]\n0=filename-hash BLAKE2B 8\n1=flat\n"


def test_in_house_tarballs_are_the_same_bytes_whatever_the_files_times_are(tmp_path: Path) -> None:
    copy = tmp_path / "libblade"
    shutil.copytree(SOURCES / "libblade", copy, copy_function=shutil.copyfile)
    first = in_house(SOURCES / "libblade", "libblade", "1.0")
    assert in_house(copy, "libblade", "1.0") == first
    assert in_house(copy, "libblade", "1.1") != first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [
        f"libblade-1.0/{name}"
        for name in ("Makefile", "README", "VERSION", "blade.h.in", "libblade.c")
    ]
    assert {(m.mtime, m.uid, m.gid, m.mode) for m in members} == {(0, 0, 0, 0o644)}


def test_a_tarball_with_another_digest_than_the_pinned_one_is_not_used(tmp_path: Path) -> None:
    tarballs = tmp_path / "tarballs"
    tarballs.mkdir()
    for tarball in REAL:
        (tarballs / tarball.name).write_bytes(b"not what was pinned")
    held = assemble(tmp_path / "upstream", tarballs=tarballs, clock=lambda: NOON)
    assert held.packages == IN_HOUSE | STAND_INS


def test_the_real_tarballs_come_from_debian_and_nothing_of_the_machines_apt_changes(
    tmp_path: Path,
) -> None:
    before = [apt_state(Path(folder)) for folder in ("/etc/apt", "/var/lib/apt", "/var/cache/apt")]
    tarballs = fetch_tarballs(tmp_path / "cache")
    after = [apt_state(Path(folder)) for folder in ("/etc/apt", "/var/lib/apt", "/var/cache/apt")]
    assert after == before
    assert tarballs is not None
    assert len(list(tarballs.iterdir())) == len(REAL)
    held = assemble(tmp_path / "upstream", tarballs=tarballs, clock=lambda: NOON)
    assert held.packages == IN_HOUSE | {each.package: each.version for each in REAL}
    assert held.stand_ins == ()
    assert_manifests_verify(held)
    with pytest.raises(MirrorError, match=r"built from the real tarball of 2\.10,"):
        bump(held.root, "app-misc/hello")
    assert bump(held.root, "app-misc/hello", Step.REVISION) == "2.10-r1"


def apt_state(folder: Path) -> list[tuple[str, int, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def test_where_apt_has_no_sources_there_are_no_tarballs_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fetch_tarballs(tmp_path / "cache", apt_sources=tmp_path / "no-apt") is None
    said = [record.getMessage().splitlines()[0] for record in caplog.records]
    assert [line.partition(",")[0] for line in said] == [f"no real {each.name}" for each in REAL]


def test_only_debians_own_sources_are_asked_for_source_packages() -> None:
    stanzas = (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: stable\nComponents: main\n\n"
        "Types: deb\nURIs: http://vendor.example/apt\nSuites: stable\nComponents: main\n"
    )
    assert debian_sources(stanzas, deb822=True) == (
        "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: stable\nComponents: main\n"
    )
    lines = (
        "# deb http://old.example/debian stable main\n"
        "deb [arch=amd64] http://mirror.example/debian stable main\n"
        "deb http://vendor.example/apt stable main\n"
    )
    assert debian_sources(lines, deb822=False) == (
        "deb-src [arch=amd64] http://mirror.example/debian stable main\n"
    )


def test_a_bump_adds_a_version_with_its_tarball_manifest_and_cache(upstream: Path) -> None:
    assert bump(upstream, "app-misc/bladecount", clock=lambda: NOON + 60) == "1.1"
    held = read_assembled(upstream)
    assert held.packages == IN_HOUSE | STAND_INS | {"app-misc/bladecount": "1.1"}
    assert versions(held.tree, "app-misc/bladecount") == ["1.0", "1.1"]
    assert ("DIST", "bladecount-1.1.tar.gz") in manifest_of(held.tree, "app-misc/bladecount")
    assert (held.tree / "metadata/md5-cache/app-misc/bladecount-1.1").is_file()
    assert held.epoch == NOON + 60
    assert_manifests_verify(held)


def test_a_major_bump_of_the_library_moves_its_sub_slot(upstream: Path) -> None:
    assert bump(upstream, "dev-libs/libblade") == "1.1"
    assert bump(upstream, "dev-libs/libblade", Step.MAJOR) == "2.0"
    cache = upstream / "tree/metadata/md5-cache/dev-libs"
    slots = {
        path.name: re.findall(r"^SLOT=(.*)$", path.read_text(), re.M) for path in cache.iterdir()
    }
    assert slots == {"libblade-1.0": ["0/1"], "libblade-1.1": ["0/1"], "libblade-2.0": ["0/2"]}


def test_the_trees_timestamp_moves_on_even_where_the_clock_does_not(upstream: Path) -> None:
    stamp = upstream / "tree/metadata/timestamp.chk"
    assert stamp.read_text() == "Sun, 15 Jun 2025 15:06:40 +0000\n"
    bump(upstream, "sys-apps/nodekeys", clock=lambda: NOON - 3600)
    assert stamp.read_text() == "Sun, 15 Jun 2025 15:06:41 +0000\n"
    written = (upstream / "tree/metadata/timestamp.x").read_text()
    assert written == "1750000001 Sun 15 Jun 2025 03:06:41 PM UTC\n"


def test_a_bump_of_an_unknown_package_says_which_there_are(upstream: Path) -> None:
    with pytest.raises(MirrorError) as caught:
        bump(upstream, "app-misc/nothing")
    assert str(caught.value) == (
        f"The upstream in {upstream}/tree has no package 'app-misc/nothing'. "
        f"It has {', '.join(sorted(IN_HOUSE | STAND_INS))}."
    )


@pytest.mark.parametrize(
    ("version", "step", "expected"),
    [
        ("1.0", Step.MINOR, "1.1"),
        ("1.9", Step.MINOR, "1.10"),
        ("0", Step.MINOR, "0.1"),
        ("1.3", Step.MAJOR, "2.0"),
        ("2.1.0", Step.REVISION, "2.1.0-r1"),
        ("2.10-r1", Step.REVISION, "2.10-r2"),
        ("1.0-r2", Step.MINOR, "1.1"),
    ],
)
def test_the_next_version(version: str, step: Step, expected: str) -> None:
    assert next_version(version, step) == expected


def test_the_rsyncd_serves_the_tree_as_it_is(
    pristine: Assembled, served: tuple[int, int], tmp_path: Path
) -> None:
    url = f"rsync://127.0.0.1:{served[0]}/gentoo-portage/"
    subprocess.run(["rsync", "-a", url, tmp_path / "copy/"], check=True)
    assert contents(tmp_path / "copy") == contents(pristine.tree)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_rsyncd_takes_nothing(served: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "stranger").write_text("hello")
    url = f"rsync://127.0.0.1:{served[0]}/gentoo-portage/"
    done = subprocess.run(["rsync", tmp_path / "stranger", url], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"module is read only" in done.stderr


def test_the_distfiles_and_nothing_else_are_served_over_http(
    pristine: Assembled, served: tuple[int, int]
) -> None:
    base = f"http://127.0.0.1:{served[1]}"
    for path in (path for path in pristine.distfiles.rglob("*") if path.is_file()):
        url = f"{base}/distfiles/{path.relative_to(pristine.distfiles)}"
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == path.read_bytes()
    for outside in (
        "/",
        "/distfiles/",
        "/assembled.json",
        "/distfiles/../assembled.json",
        "/tree/",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(base + outside)


def test_both_servers_end_when_the_one_who_started_them_is_gone(pristine: Assembled) -> None:
    ports = free_port(), free_port()
    process = serving(pristine.root, *ports)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
    assert [refuses(port) for port in ports] == [True, True]


def test_serving_a_folder_without_an_upstream_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mirror.upstream.serve", "--root", str(tmp_path)]
    done = subprocess.run(
        [*argv, "--rsync-port", "1", "--http-port", "1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"There is no upstream in {tmp_path}. Assemble one there first.\n"


def test_rsyncd_drops_behind_a_chroot_only_as_root() -> None:
    as_root = rsyncd_conf(Path("/u"), port=1, listen="::", as_root=True)
    as_user = rsyncd_conf(Path("/u"), port=1, listen="::", as_root=False)
    assert "use chroot = yes" in as_root
    assert "use chroot = no" in as_user
