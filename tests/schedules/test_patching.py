"""A patch that did not come to its end leaves the patches as they were."""

from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from binhost import user_patches
from binhost.user_patches import drop, keep, read_patches
from config.model import Cluster
from headnode.errors import BuildError, BusyError, EnvironmentLacksError
from schedules import patching
from schedules.moving import Asked
from schedules.observer import Silent
from schedules.site import Site

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE, NEW = "app-misc/a/old.patch", "app-misc/a/new.patch"
TARGET = patching.Target(
    cpv="app-misc/a-1", package="app-misc/a", folder="app-misc/a", snapshots="s", generation=1
)
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
    new = {NEW: "+++ b/new\n", PLACE: "+++ b/another\n"}
    with pytest.raises(failing):
        patching.patch_once(
            site, "blade", TARGET, new, None, now=NOW, asked=Asked(), watch=Silent()
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


def test_a_drop_that_was_killed_goes_on_with_the_same_command(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site.patches("blade")
    drop(folder, [PLACE])  # as far as it came
    assert read_patches(folder) == {}
    monkeypatch.setattr(patching, "build_once", Mock())
    monkeypatch.setattr(patching, "publish_once", Mock())
    gone, _ = patching.drop_once(
        site, "blade", "app-misc/a", None, now=NOW, asked=Asked(), watch=Silent()
    )
    assert gone == [PLACE]
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_drop_that_was_killed_and_then_fails_brings_its_patch_back(
    site: Site, failing: type[BaseException]
) -> None:
    drop(site.patches("blade"), [PLACE])
    with pytest.raises(failing):
        patching.drop_once(
            site, "blade", "app-misc/a", None, now=NOW, asked=Asked(), watch=Silent()
        )
    assert read_patches(site.patches("blade")) == {PLACE: "+++ b/file\n"}


@pytest.mark.parametrize("drops", [False, True])
def test_what_somebody_else_did_to_the_patches_meanwhile_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    folder = site.patches("blade")
    keep(folder, {"app-misc/b/gone.patch": "+++ b/gone\n", "app-misc/b/same.patch": "+++ b/1\n"})

    def meanwhile(*arguments: object, **options: object) -> None:
        (folder / "app-misc/b/gone.patch").unlink()
        keep(folder, {"app-misc/b/same.patch": "+++ b/2\n", "app-misc/b/new.patch": "+++ b/3\n"})
        raise BuildError("It does not compile.")

    monkeypatch.setattr(patching, "try_patches", lambda *arguments: None)
    monkeypatch.setattr(patching, "build_once", meanwhile)
    with pytest.raises(BuildError):
        if drops:
            patching.drop_once(site, "blade", PLACE, None, now=NOW, asked=Asked(), watch=Silent())
        else:
            new = {NEW: "+++ b/new\n"}
            patching.patch_once(
                site, "blade", TARGET, new, None, now=NOW, asked=Asked(), watch=Silent()
            )
    assert read_patches(folder) == {
        PLACE: "+++ b/file\n",
        "app-misc/b/new.patch": "+++ b/3\n",
        "app-misc/b/same.patch": "+++ b/2\n",
    }
