"""`headnode import`: an old PKGDIR, as Portage left it, becomes the first generation."""

import bz2
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from binhost.gpkg import read_metadata
from binhost.keys import Keys
from binhost.records import BuildResult, Generation
from binhost.repack import GPKG
from binhost.signing import Signer, is_signed
from binhost.takeover import Found, LeftOut, Plan, plan
from config.model import Cluster, Publish, Signing, SigningMode, State
from config.template import render
from headnode.cli import run
from schedules.cycle import build_once
from schedules.moving import publish_once
from schedules.site import Site

pytestmark = pytest.mark.usefixtures("_no_agent_left")
NOW = datetime.now(UTC)
CHOST = "x86_64-pc-linux-gnu"


def found(cpv: str, **more: Any) -> Found:
    values = {"build_id": 1, "build_time": "1700000000", "chost": CHOST, "flags": "-O2"}
    return Found(path=Path(f"{cpv}.gpkg.tar"), cpv=cpv, **{**values, **more})


def planned(*each: Found | LeftOut, highest: dict[str, int] | None = None) -> Plan:
    return plan(each, chost=CHOST, highest=highest or {}, builds=())


def test_a_package_keeps_its_build_id_unless_a_higher_one_was_given() -> None:
    first, second = found("a/b-1", build_id=3), found("a/b-1", build_id=2, build_time="2")
    assert planned(first, second).take == {
        "a/b/b-1-3.gpkg.tar": first,
        "a/b/b-1-4.gpkg.tar": second,
    }
    assert planned(first, highest={"a/b-1": 7}).take == {"a/b/b-1-8.gpkg.tar": first}


def test_a_package_without_a_build_id_gets_one() -> None:
    old = found("a/b-1", build_id=0)
    assert planned(old).take == {"a/b/b-1-1.gpkg.tar": old}


def test_the_same_build_is_taken_once() -> None:
    one = found("a/b-1")
    assert planned(one, one).known == ("a/b-1",)


def test_what_blades_cannot_run_is_left_out() -> None:
    arm = found("a/b-1", chost="aarch64-unknown-linux-gnu")
    native = found("a/c-1", flags="-O2 -march=native")
    assert [each.why for each in planned(arm, native).left_out] == [
        "it was built for aarch64-unknown-linux-gnu, and the class is x86_64-pc-linux-gnu",
        "it was compiled with -march=native, for the CPU that happened to compile it",
    ]


@pytest.fixture
def _no_agent_left(tmp_path: Path) -> Any:
    yield
    for home in tmp_path.glob("*/**/signing"):
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


def package_of(world: Any, package: str) -> Path:
    """A file of the tests' binhost."""
    binhost = world.binhost
    [name] = [name for name in world.packages if Path(name).name.startswith(f"{package}-")]
    places = [binhost.pool.folder / name, binhost.staging / name]
    return next(path for path in places if path.is_file())


def forget_build_id(path: Path, compression: str) -> None:
    """Have a gpkg say no build id, as without binpkg-multi-instance."""
    from portage.gpkg import gpkg

    from binhost.signing import FormatSettings

    metadata = gpkg(FormatSettings(frozenset()), gpkg_file=str(path)).get_metadata()
    del metadata["BUILD_ID"]
    settings = FormatSettings(frozenset(), BINPKG_COMPRESS=compression)
    gpkg(settings, gpkg_file=str(path)).update_metadata(metadata, path.name.removesuffix(GPKG))


def as_xpak(source: Path, target: Path) -> None:
    """Write a gpkg as an xpak, as Portage did until 2024. Source: xpak(5)."""
    from portage.gpkg import gpkg
    from portage.xpak import tbz2, xpak_mem

    from binhost.signing import FormatSettings

    package = gpkg(FormatSettings(frozenset()), gpkg_file=str(source))
    image = target.with_name("image")
    image.mkdir(parents=True)
    package.decompress(str(image))
    tar = ["tar", "-c", "-C", str(image), "."]
    target.write_bytes(bz2.compress(subprocess.run(tar, check=True, capture_output=True).stdout))
    shutil.rmtree(image)
    data = {key.encode(): value for key, value in package.get_metadata().items()}
    tbz2(str(target)).recompose_mem(xpak_mem(data))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pkgdir(world: Any, tmp_path: Path) -> Path:
    """A PKGDIR of all ages: multi-instance, flat, not compressed, xpak, and a cut-off one."""
    folder = tmp_path / "binpkgs"
    for where in ("sys-apps/nodekeys", "app-misc/flagged", "dev-libs"):
        (folder / where).mkdir(parents=True)
    shutil.copy(package_of(world, "nodekeys"), folder / "sys-apps/nodekeys")
    flat, plain = folder / "app-misc/oneway-2.gpkg.tar", folder / "app-misc/oneway-1.gpkg.tar"
    shutil.copy(package_of(world, "oneway-2"), flat)
    shutil.copy(package_of(world, "oneway-1"), plain)
    forget_build_id(flat, "zstd")
    forget_build_id(plain, "")
    signed = folder / "sys-apps/nodekeys" / package_of(world, "nodekeys").name
    stranger = Keys(folder=tmp_path / "stranger", home=tmp_path / "stranger/signing")
    stranger.make("a stranger")
    Signer.of(stranger).sign([signed])
    as_xpak(package_of(world, "libgate-1"), folder / "dev-libs/libgate-1.tbz2")
    cut = folder / "app-misc/flagged/flagged-1-1.gpkg.tar"
    shutil.copy(package_of(world, "flagged-1"), cut)
    os.truncate(cut, 1100)  # in its second member, wherever the package ends
    (folder / "Packages").write_text("an index of its own\n")
    return folder


@pytest.fixture
def site(world: Any, tmp_path: Path) -> Site:
    """A new headnode beside that PKGDIR, with the same trees; it signs."""
    theirs = world.site().cluster
    blade = theirs.classes["blade"].model_copy(update={"packages": world.second.atoms})
    state = tmp_path / "state"
    shutil.copytree(world.state / "mirror", state / "mirror", symlinks=True)
    made = Site(
        cluster=Cluster(
            state=State(path=state, reserve_mib=0),
            classes={"blade": blade},
            publish=Publish(gates=()),
            signing=Signing(mode=SigningMode.ON),
        )
    )
    made.keys.make("tests")
    return made


def test_an_old_binhost_becomes_the_first_generation(
    site: Site,
    pkgdir: Path,
    world: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text(render(site.cluster.model_dump(mode="json", exclude_unset=True)))
    before = contents(pkgdir)
    cut = pkgdir / "app-misc/flagged/flagged-1-1.gpkg.tar"

    assert run(["--config", str(config), "import", str(pkgdir)]) == 3
    said = capsys.readouterr()
    assert said.out == "Took over 4 packages, 1 left out. Next: headnode build.\n"
    assert said.err == (
        f"Looking at the packages in {pkgdir}\n"
        f"WARNING: {cut.relative_to(pkgdir)} was left out: {cut} is not a whole gpkg: "
        "unexpected end of data.\n"
    )
    staging = site.binhost("blade").staging
    names = ["app-misc/oneway/oneway-2-1", "dev-libs/libgate/libgate-1-1"]
    plain = staging / f"app-misc/oneway/oneway-1-1{GPKG}"
    names.append("sys-apps/nodekeys/" + package_of(world, "nodekeys").name.removesuffix(GPKG))
    files = [staging / f"{name}{GPKG}" for name in names]
    assert sorted(staging.rglob("*.tar")) == sorted([*files, plain])
    assert not any(map(is_signed, [*files, plain]))
    assert read_metadata(files[1])["BUILD_ID"] == "1\n"

    reserved = staging / f"app-misc/oneway/oneway-7-1{GPKG}"  # a name that the builder keeps free
    reserved.touch()
    assert run(["--config", str(config), "import", "--json", str(pkgdir)]) == 3
    again = json.loads(capsys.readouterr().out)
    assert (again["taken"], len(again["known"])) == ([], 4)
    assert contents(pkgdir) == before

    built: BuildResult = build_once(site, "blade", watch=world.notes())
    # What links to the library was linked to the one that was packed anew.
    assert sorted(built.built) == ["app-misc/flagged-1", "app-misc/tool-2"]
    generation: Generation = publish_once(
        site, "blade", None, now=NOW, watch=world.notes()
    ).generation
    assert generation.number == 1
    assert {f"{name}{GPKG}" for name in names} < generation.packages.keys()
    binhost = site.binhost("blade")
    assert binhost.signer is not None
    assert not binhost.signer.verify(binhost.pool.folder / name for name in generation.packages)


def test_a_folder_without_packages_is_refused(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, empty = tmp_path / "cluster.toml", tmp_path / "empty"
    config.write_text(render(site.cluster.model_dump(mode="json", exclude_unset=True)))
    empty.mkdir()
    assert run(["--config", str(config), "import", str(empty)]) == 1
    assert capsys.readouterr().err == (
        f"Looking at the packages in {empty}\n"
        f"headnode: There is no package in {empty}. "
        "Name the folder that holds the *.gpkg.tar, *.xpak or *.tbz2 files (PKGDIR).\n"
    )
