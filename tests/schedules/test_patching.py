"""A patch that did not come to its end leaves the patches as they were."""

from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from binhost import user_patches
from binhost.user_patches import keep, read_patches
from config.model import Cluster
from headnode.errors import BuildError, BusyError, EnvironmentLacksError
from schedules import patching
from schedules.moving import Asked
from schedules.observer import Silent
from schedules.site import Site

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE, NEW = "app-misc/a/old.patch", "app-misc/a/new.patch"
FAILURES = (
    BuildError("It does not compile."),
    BusyError(Path("lock"), "headnode build (process 7)"),
    EnvironmentLacksError("The disk is full.", ["0 MiB free"]),
    KeyboardInterrupt(),
)


@pytest.fixture(params=FAILURES, ids=lambda error: type(error).__name__)
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """Every build fails with this. That patches apply is tried in tests/test_patch.py."""

    def fail(*arguments: object, **options: object) -> None:
        raise request.param

    monkeypatch.setattr(patching, "try_patches", lambda *arguments: None)
    monkeypatch.setattr(patching, "build_once", fail)
    return type(request.param)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with a patch that was kept."""
    made = Site(cluster=Cluster.model_validate({"state": {"path": str(tmp_path)}}))
    keep(made.patches("blade"), {PLACE: "+++ b/file\n"})
    return made


def test_a_new_patch_is_not_kept_where_its_package_was_not_built(
    site: Site, failing: type[BaseException]
) -> None:
    target = patching.Target(
        cpv="app-misc/a-1", package="app-misc/a", folder="app-misc/a", snapshots="s", generation=1
    )
    new = {NEW: "+++ b/new\n", PLACE: "+++ b/another\n"}
    with pytest.raises(failing):
        patching.patch_once(
            site, "blade", target, new, None, now=NOW, asked=Asked(), watch=Silent()
        )
    assert read_patches(site.patches("blade")) == {PLACE: "+++ b/file\n"}


def test_a_dropped_patch_is_back_where_its_package_was_not_built(
    site: Site, failing: type[BaseException]
) -> None:
    with pytest.raises(failing):
        patching.drop_once(
            site, "blade", "app-misc/a", None, now=NOW, asked=Asked(), watch=Silent()
        )
    assert read_patches(site.patches("blade")) == {PLACE: "+++ b/file\n"}


def test_what_was_dropped_is_back_without_a_byte_of_room(
    site: Site, failing: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_patches, "write_atomic", Mock(side_effect=OSError(28, "no room")))
    with pytest.raises(failing):
        patching.drop_once(
            site, "blade", "app-misc/a", None, now=NOW, asked=Asked(), watch=Silent()
        )
    assert read_patches(site.patches("blade")) == {PLACE: "+++ b/file\n"}


def test_what_was_dropped_is_gone_when_its_package_is_built(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, "build_once", Mock())
    monkeypatch.setattr(patching, "publish_once", Mock())
    patching.drop_once(site, "blade", "app-misc/a", None, now=NOW, asked=Asked(), watch=Silent())
    folder = site.patches("blade")
    assert [path for path in folder.rglob("*") if path.is_file()] == []
