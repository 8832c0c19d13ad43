"""A kernel boots from where a pull has put it: a blade's /boot."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blades import grub, kernel


@pytest.fixture
def blade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A blade's folders, all in one."""
    for name in ("boot", "modules", "vdb"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(grub, "BOOT", tmp_path / "boot")
    monkeypatch.setattr(kernel, "MODULES", tmp_path / "modules")
    monkeypatch.setattr(kernel, "VDB", tmp_path / "vdb")
    monkeypatch.setattr(kernel, "FSTAB", tmp_path / "fstab")
    monkeypatch.setattr(kernel, "STATE", tmp_path / "kernel.json")
    return tmp_path


def test_a_kernel_that_a_pull_put_into_boot_boots_and_says_its_release(
    blade: Path, ready_made: tuple[str, Path], boot: Callable[[Path], str]
) -> None:
    release, image = ready_made
    package = "sys-kernel/headnode-cloud-6.1-r1"
    folder = blade / "modules" / release
    folder.mkdir()
    (blade / "vdb" / package).mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(image.read_bytes())
    (folder / "System.map").touch()
    (folder / "config").touch()
    says = {"flavour": "cloud", "release": release, "package": package, "initramfs": []}
    (folder / "headnode.json").write_text(json.dumps(says))
    said = kernel.settle({"kernel": "cloud", "keep": 2, "loader": "none"})
    assert (said["due"], said["pending"]) == (release, True)
    console = boot(blade / "boot" / f"vmlinuz-{release}")
    assert f"release: {release}\n" in console.replace("\r\n", "\n")
