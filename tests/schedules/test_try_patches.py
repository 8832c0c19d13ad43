"""A patch is tried by the real Portage, in a node, on a package with one line of source."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from binhost.builder import Workshop
from binhost.pool import Pool
from config.model import Cluster
from config.portage import builder_files
from headnode.errors import BuildError, ConfigError
from schedules.patching import Target, try_patches
from schedules.site import Site

pytestmark = pytest.mark.lab

EBUILD = """EAPI={}
DESCRIPTION="x"
HOMEPAGE="https://x.example/"
S="${{WORKDIR}}"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64"
src_unpack() {{ printf 'one\\r\\n' > f.c; }}
"""
TREE = {
    "profiles/repo_name": "gentoo\n",
    "profiles/arch.list": "amd64\n",
    "profiles/categories": "app-misc\n",
    "profiles/p/eapi": "8\n",
    "profiles/p/make.defaults": 'ARCH="amd64"\nACCEPT_KEYWORDS="amd64"\n'
    'CHOST="x86_64-pc-linux-gnu"\n',
    "metadata/layout.conf": "masters =\nthin-manifests = true\nsign-manifests = false\n",
    "licenses/GPL-2": "x\n",
    "app-misc/new/new-1.ebuild": EBUILD.format(8),
    "app-misc/old/old-1.ebuild": EBUILD.format(5),
}
FITS = "--- a/f.c\n+++ b/f.c\n@@ -1 +1 @@\n-one\r\n+two\r\n"
DOES_NOT = FITS.replace("one", "none")


@dataclass
class Tried:
    """A class with patches that are kept, and a tree with two packages."""

    site: Site
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def tries(self, package: str, new: dict[str, str], kept: dict[str, str] | None = None) -> None:
        shop = Workshop(
            folder=self.folder / "build",
            state=self.site.state,
            root=Path("/"),
            repos={"gentoo": self.folder / "tree"},
            distfiles=self.folder / "distfiles",
            pool=Pool(folder=self.folder / "pool"),
            configuration=builder_files(self.site.cluster, "blade", (), 1, None, kept or {}),
        )
        self.monkeypatch.setattr(Site, "workshop", lambda *arguments: shop)
        target = Target(
            cpv=f"{package}-1", package=package, folder=package, snapshots="s", generation=1
        )
        try_patches(self.site, "blade", target, new)


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    for name, text in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "state").mkdir()
    values = {
        "state": {"path": str(tmp_path / "state")},
        "signing": {"mode": "off"},
        "classes": {"blade": {"accept_license": "*", "profile": "p", "rings": {"r": "b1"}}},
    }
    site = Site(cluster=Cluster.model_validate(values))
    return Tried(site=site, folder=tmp_path, monkeypatch=monkeypatch)


def test_a_patch_for_crlf_lines_fits_and_one_that_does_not_is_told_with_its_hunk(
    tried: Tried,
) -> None:
    tried.tries("app-misc/new", {"app-misc/new/fix.patch": FITS})
    with pytest.raises(BuildError) as error:
        tried.tries("app-misc/new", {"app-misc/new/fix.patch": DOES_NOT})
    assert str(error.value) == (
        "fix.patch does not apply to app-misc/new-1:\nf.c: hunk 1, at line 1, does not fit\n"
        "Make it against that version. Nothing was changed."
    )


def test_a_package_whose_ebuild_takes_no_patches_is_refused(tried: Tried) -> None:
    with pytest.raises(BuildError) as error:
        tried.tries("app-misc/old", {"app-misc/old/fix.patch": FITS})
    assert str(error.value) == (
        "Portage did not apply fix.patch to app-misc/old-1: an ebuild of EAPI 5 or older takes no "
        "user patches. Have an overlay of yours with an ebuild that applies it. Nothing was "
        "changed."
    )


@pytest.mark.parametrize("folder", ["app-misc/new-1", "app-misc/new-1-r0:0"])
def test_a_name_that_another_folder_s_patch_has_is_refused(tried: Tried, folder: str) -> None:
    new = {"app-misc/new/fix.patch": DOES_NOT}
    with pytest.raises(ConfigError) as error:
        tried.tries("app-misc/new", new, {f"{folder}/fix.patch": FITS})
    assert str(error.value) == (
        f"There is {folder}/fix.patch, and of patches of one name Portage applies only one. "
        "Rename yours, or drop the other first."
    )


def test_a_name_that_another_version_s_patch_has_is_free(tried: Tried) -> None:
    kept = {"app-misc/new-2/fix.patch": DOES_NOT, "app-misc/new/fix.patch": DOES_NOT}
    tried.tries("app-misc/new", {"app-misc/new/fix.patch": FITS}, kept)
