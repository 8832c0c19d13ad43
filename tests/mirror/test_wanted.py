"""What is wanted: Manifests, SRC_URI and RESTRICT of real ebuilds and of tricky ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headnode import gentoo
from headnode.errors import MirrorError
from headnode.gentoo import Source
from mirror.layout import LAYOUT_CONF, path_of
from mirror.upstream.assemble import Assembled, assemble
from mirror.wanted import Package, Wanted, plan

MIRRORS = {"gnu": ("https://one.example/gnu/", "https://two.example/gnu")}


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Assembled:
    return assemble(tmp_path_factory.mktemp("lab"), tarballs=None)


def add(
    repo: Path, cpv: str, src_uri: str = "", *, files: dict[str, bytes] | None = None, **said: str
) -> Path:
    """Write an ebuild, its Manifest and its metadata cache below `repo`."""
    cp, _ = gentoo.split_cpv(cpv)
    package, cache = repo / cp, repo / "metadata/md5-cache" / cpv
    package.mkdir(parents=True, exist_ok=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    ebuild = package / f"{cpv.partition('/')[2]}.ebuild"
    ebuild.write_text("EAPI=8\n")
    variables = {
        "EAPI": "8",
        "SRC_URI": src_uri,
        **said,
        "_md5_": hashlib.md5(b"EAPI=8\n", usedforsecurity=False).hexdigest(),
    }
    cache.write_text("".join(f"{name}={value}\n" for name, value in variables.items() if value))
    with (package / "Manifest").open("a") as manifest:
        for name, content in (files or {}).items():
            digests = hashlib.blake2b(content).hexdigest(), hashlib.sha512(content).hexdigest()
            manifest.write(f"DIST {name} {len(content)} BLAKE2B {digests[0]} SHA512 {digests[1]}\n")
    return repo


def test_our_layout_is_portages() -> None:
    for name in ("hello-2.10.tar.gz", "Ünïcode-1.zip", "a"):
        assert gentoo.mirror_path(LAYOUT_CONF, name, {}) == str(path_of(name))


@pytest.mark.parametrize("text", ["", "nonsense", "[structure]\n0=\n", "[structure]\n0=flat\n"])
def test_a_mirror_without_a_good_layout_is_flat(text: str) -> None:
    assert gentoo.mirror_path(text, "hello.tar.gz", {}) == "hello.tar.gz"


def test_a_content_hash_layout_is_followed() -> None:
    text = "[structure]\n0=content-hash SHA512 8:8\n"
    assert gentoo.mirror_path(text, "hello", {"SHA512": "abcdef"}) == "ab/cd/abcdef"


def test_every_branch_and_rename_of_src_uri_is_wanted(tmp_path: Path) -> None:
    add(
        tmp_path,
        "app-misc/hello-1",
        "https://a.example/hello-1.tgz -> hello-1.tar.gz "
        "doc? ( !minimal? ( mirror://gnu/hello/doc.pdf ) https://a.example/doc.pdf ) "
        "test? ( bare.zip mirror://nowhere/data.bin )",
    )
    found = gentoo.source_uris(tmp_path, "app-misc/hello-1", MIRRORS)
    assert {name: source.uris for name, source in found.items()} == {
        "hello-1.tar.gz": ("https://a.example/hello-1.tgz",),
        "doc.pdf": (
            "https://one.example/gnu/hello/doc.pdf",
            "https://two.example/gnu/hello/doc.pdf",
            "https://a.example/doc.pdf",
        ),
        "bare.zip": (),
        "data.bin": (),
    }
    assert all(source.mirrored and not source.by_hand for source in found.values())


@pytest.mark.parametrize(
    ("restrict", "prefix", "mirrored", "by_hand"),
    [
        ("", "", True, False),
        ("test? ( fetch )", "", True, False),
        ("mirror", "", False, False),
        ("mirror", "fetch+", False, False),
        ("", "fetch+", True, False),
        ("", "mirror+", True, False),
        ("fetch", "", False, True),
        ("fetch", "fetch+", False, False),
        ("fetch", "mirror+", True, False),
        ("mirror", "mirror+", True, False),
    ],
)
def test_restrict_is_honoured(
    tmp_path: Path, restrict: str, prefix: str, mirrored: bool, by_hand: bool
) -> None:
    add(tmp_path, "app-misc/hello-1", f"{prefix}https://a.example/hello.tgz", RESTRICT=restrict)
    assert gentoo.source_uris(tmp_path, "app-misc/hello-1", {}) == {
        "hello.tgz": Source(
            filename="hello.tgz",
            uris=() if by_hand else ("https://a.example/hello.tgz",),
            mirrored=mirrored,
            by_hand=by_hand,
        )
    }


def test_the_plan_has_size_and_digests_of_every_file(assembled: Assembled) -> None:
    packages = [
        Package(cpv=f"{cp}-{version}", repo="gentoo") for cp, version in assembled.packages.items()
    ]
    wanted = plan({"gentoo": assembled.tree}, packages)
    assert wanted
    for each in wanted:
        content = (assembled.distfiles / path_of(each.filename)).read_bytes()
        assert each.size_bytes == len(content)
        assert each.digests == {
            "BLAKE2B": hashlib.blake2b(content).hexdigest(),
            "SHA512": hashlib.sha512(content).hexdigest(),
        }
    assert {path.name for path in assembled.distfiles.glob("??/*")} == {
        each.filename for each in wanted
    }


def test_thirdpartymirrors_of_all_repositories_count(tmp_path: Path) -> None:
    for name, base in (("main", "https://one.example"), ("over", "https://two.example")):
        (tmp_path / name / "profiles").mkdir(parents=True)
        (tmp_path / name / "profiles/thirdpartymirrors").write_text(f"gnu {base}\n")
    add(tmp_path / "over", "app-misc/hello-1", "mirror://gnu/x.tgz", files={"x.tgz": b"x"})
    repos = {"main": tmp_path / "main", "over": tmp_path / "over"}
    [wanted] = plan(repos, [Package(cpv="app-misc/hello-1", repo="over")])
    assert wanted.uris == ("https://one.example/x.tgz", "https://two.example/x.tgz")


def test_one_file_of_two_packages_is_wanted_once_from_all_addresses(tmp_path: Path) -> None:
    for number in (1, 2):
        add(
            tmp_path,
            f"app-misc/hello-{number}",
            f"https://{number}.example/x.tgz",
            files={"x.tgz": b"x"},
        )
    packages = [Package(cpv=f"app-misc/hello-{number}", repo="r") for number in (1, 2)]
    assert plan({"r": tmp_path}, packages) == [
        Wanted(
            filename="x.tgz",
            size_bytes=1,
            digests={
                "BLAKE2B": hashlib.blake2b(b"x").hexdigest(),
                "SHA512": hashlib.sha512(b"x").hexdigest(),
            },
            uris=("https://1.example/x.tgz", "https://2.example/x.tgz"),
            by=("app-misc/hello-1", "app-misc/hello-2"),
        )
    ]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        add(tmp_path, f"app-misc/{name}-1", "https://x/x.tgz", files={"x.tgz": name.encode()})
    packages = [Package(cpv=f"app-misc/{name}-1", repo="r") for name in ("one", "two")]
    with pytest.raises(MirrorError) as caught:
        plan({"r": tmp_path}, packages)
    assert str(caught.value) == (
        "app-misc/one-1 and app-misc/two-1 want different files of the name x.tgz. "
        "Take one of them out of the sets: a mirror has room for one."
    )


def test_a_file_that_the_manifest_does_not_have_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "app-misc/hello-1", "https://x/x.tgz")
    with pytest.raises(MirrorError) as caught:
        plan({"r": tmp_path}, [Package(cpv="app-misc/hello-1", repo="r")])
    assert str(caught.value) == (
        f"{tmp_path}/app-misc/hello/Manifest has no size and BLAKE2B or SHA512 of x.tgz, "
        "which app-misc/hello-1 needs. Sync again; if it stays, it has to be put right upstream."
    )


def test_a_metadata_cache_that_is_absent_or_of_another_ebuild_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "app-misc/hello-1")
    ebuild = tmp_path / "app-misc/hello/hello-1.ebuild"
    cache = tmp_path / "metadata/md5-cache/app-misc/hello-1"
    ebuild.write_text("EAPI=8\n# another\n")
    with pytest.raises(MirrorError, match=f"{cache} is not of {ebuild}: its _md5_ differs"):
        gentoo.source_uris(tmp_path, "app-misc/hello-1", {})
    cache.unlink()
    with pytest.raises(MirrorError, match=f"{cache} is not there"):
        gentoo.source_uris(tmp_path, "app-misc/hello-1", {})


@pytest.mark.parametrize("cpv", ["hello", "app-misc/hello", "hello-1", ""])
def test_what_is_no_cpv_is_refused(cpv: str) -> None:
    with pytest.raises(MirrorError, match=r"is not category/name-version"):
        gentoo.split_cpv(cpv)
