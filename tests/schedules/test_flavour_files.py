"""The files of a flavour and the patches that are added to it: which are refused."""

from pathlib import Path

import pytest

from binhost.revisions import Kept, Shelf
from config.flavour import load_flavour
from config.model import Cluster
from headnode.errors import ConfigError
from schedules.flavour_files import Patches, gather
from schedules.site import Site


def test_two_added_patches_of_one_name_are_refused(tmp_path: Path) -> None:
    site = Site(cluster=Cluster.model_validate({"state": {"path": str(tmp_path)}}))
    (tmp_path / "site.toml").write_text("[source]\npackage = 'sys-kernel/gentoo-sources'\n")
    files = [tmp_path / "a/fix.patch", tmp_path / "b/fix.patch"]
    for path in files:
        path.parent.mkdir()
        path.write_text("+++ b/f.c\n")
    recipe, shelf = load_flavour(tmp_path, "site"), Shelf.of(tmp_path, "site")
    with pytest.raises(ConfigError) as error:
        gather(site, recipe, shelf, Kept(), Patches(add=files))
    assert str(error.value) == "Two patches would be added as fix.patch. Rename one of them."
    assert gather(site, recipe, shelf, Kept(), Patches(add=files[:1])).added == ("fix.patch",)
