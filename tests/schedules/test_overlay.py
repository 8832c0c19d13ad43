"""The overlay on disk: written where something changed, and stamped anew only then."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.load import from_values
from mirror.store import Store
from schedules import overlay
from schedules.overlay import render_overlay
from schedules.site import Site

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def site(state: Path, addresses: dict[str, str], kernel: str = "blade") -> Site:
    values = {
        "state": {"path": state},
        "classes": {"blade": {"kernel": kernel}},
        "openmosix": {"addresses": addresses},
    }
    return Site(cluster=from_values(values))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_nothing_is_written_twice_and_what_changes_gets_a_new_stamp(tmp_path: Path) -> None:
    folder = render_overlay(site(tmp_path, {}), now=NOW)
    assert folder == tmp_path / "overlay"
    before = files(folder)
    assert before["metadata/timestamp.chk"][1] == b"Fri, 02 Jan 2026 03:04:05 +0000\n"
    later = NOW + timedelta(hours=1)
    render_overlay(site(tmp_path, {}), now=later)
    assert files(folder) == before
    render_overlay(site(tmp_path, {"blade[01-58]": "10.0.1.1"}), now=later)
    after = files(folder)
    assert after["metadata/timestamp.chk"][1] == b"Fri, 02 Jan 2026 04:04:05 +0000\n"
    [gone], [came] = before.keys() - after.keys(), after.keys() - before.keys()
    assert gone.startswith("sys-cluster/openmosix-map/") and gone != came


def test_without_a_kernel_there_is_no_overlay(tmp_path: Path) -> None:
    assert render_overlay(site(tmp_path, {}, kernel=""), now=NOW) is None
    assert not (tmp_path / "overlay").exists()


def test_openmosix_s_tools_come_with_their_archive_and_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Store(tmp_path).place(overlay.TOOLS)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"archive")
    folder = render_overlay(site(tmp_path, {}), now=NOW)
    assert folder is not None
    assert not (folder / "sys-cluster/openmosix-user").exists()
    monkeypatch.setattr(overlay, "TOOLS_SHA256", hashlib.sha256(b"archive").hexdigest())
    render_overlay(site(tmp_path, {}), now=NOW)
    [manifest] = (folder / "sys-cluster/openmosix-user").glob("Manifest")
    assert manifest.read_text().startswith(f"DIST {overlay.TOOLS} 7 BLAKE2B ")
