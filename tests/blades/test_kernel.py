"""The kernels of a blade, with the real grub-mkconfig, grub-reboot and grub-set-default.

They run in a node of their own, with /boot and /lib/modules made up. Only grub-probe is not the
real one: it would look for a disk, and the node's root is none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from blades.grub import entry_of
from blades.kernel import Kernel, prunable
from headnode.node.running import Node, start
from headnode.node.spec import Bind, NodeSpec, empty_in_upper, write_upper
from headnode.process import Completed

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parent.parent.parent
PROBE = """#!/bin/sh
case "$*" in
	*--target=fs\\ /boot/grub*) cat /etc/lab-fs ;;
	*--target=abstraction*) ;;
	*--target=fs_uuid*|*--target=partuuid*) echo 0123-4567 ;;
	*--target=fs*) echo ext2 ;;
	*--target=device*) echo /dev/sda1 ;;
	*--target=compatibility_hint*|*--target=drive*|*--target=hints_string*) echo hd0,msdos1 ;;
	*--target=partmap*) echo msdos ;;
	*) echo "unexpected: grub-probe $*" >&2; exit 99 ;;
esac
"""
# The module, with what the kernel says of itself taken from files.
DRIVER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from blades import kernel
kernel.RELEASE = Path("/etc/lab-release")
kernel.BOOT_ID = Path("/etc/lab-boot")
report = {"result": "updated"}
try:
    settings = json.loads(sys.argv[2])
    if sys.argv[3:]:
        report["kernel"] = kernel.settle(settings, again=True)
    else:
        kernel.settle_into(settings, report)
except kernel.KernelError as error:
    report["error"] = str(error)
print(json.dumps(report))
"""


@dataclass
class Blade:
    """A node with a made-up /boot; the old kernel `5.0-old` is not headnode's."""

    node: Node

    def sh(self, line: str) -> str:
        return self.node.run(["sh", "-ec", line], timeout_s=120).output

    def add(self, number: int, initramfs: tuple[str, ...] = (), size: int = 10) -> str:
        """What the package of a revision installs; the one before is uninstalled, as by Portage."""
        release = f"6.1.9-site-r{number}"
        package = f"sys-kernel/headnode-site-6.1.9-r{number}"
        says = {"flavour": "site", "release": release, "package": package, "key": "k"}
        folder = f"/lib/modules/{release}"
        self.sh(
            f"rm -rf /var/db/pkg/sys-kernel; mkdir -p {folder} /var/db/pkg/{package}\n"
            f"head -c {size} /dev/zero > {folder}/vmlinuz\n"
            f"echo map > {folder}/System.map; echo config > {folder}/config\n"
            f"echo '{json.dumps({**says, 'initramfs': initramfs})}' > {folder}/headnode.json\n"
            "sleep 0.02"  # so that the next one is newer
        )
        return release

    def boots(self, release: str, boot: int) -> None:
        """The blade is at its boot number `boot`, with that kernel."""
        self.sh(f"echo {release} > /etc/lab-release; echo {boot} > /etc/lab-boot")

    def boots_as_grub_would(self, boot: int) -> str:
        """A boot as GRUB's script has it: next_entry once, else saved_entry. Gives the release."""
        entry = self.environment().get("next_entry") or self.environment()["saved_entry"]
        self.sh("grub-editenv /boot/grub/grubenv unset next_entry")
        release = entry.split("gnulinux-")[-1].removesuffix("-advanced-0123-4567")
        self.boots(release, boot)
        return release

    def environment(self) -> dict[str, str]:
        said = self.sh("grub-editenv /boot/grub/grubenv list").splitlines()
        return dict(line.split("=", 1) for line in said)

    def settle(self, *again: str, **more: Any) -> dict[str, Any]:
        settings = {"kernel": "site", "keep": 3, "loader": "grub", **more}
        done = self.run(json.dumps(settings), *again)
        assert not done.code, done.tail
        return dict(json.loads(done.output))

    def run(self, *words: str) -> Completed:
        argv = ["python3", "-I", "-c", DRIVER, str(ROOT), *words]
        return self.node.run(argv, timeout_s=300, check=False)

    def boot_has(self) -> list[str]:
        return self.sh("cd /boot; ls -d *-* .*.new 2> /dev/null || true").split()


@pytest.fixture
def blade(tmp_path: Path) -> Iterator[Blade]:
    spec = NodeSpec(
        name="blade",
        store=tmp_path / "node",
        lower=Path("/"),
        binds=(Bind(source=ROOT, target=PurePosixPath(ROOT)),),
        throwaway=True,
    )
    for folder in ("/boot", "/lib/modules", "/var/db/pkg", "/var/lib/headnode"):
        empty_in_upper(spec, str(Path(folder).resolve()))
    write_upper(spec, {"/etc/default/grub": "GRUB_DEFAULT=saved\n", "/etc/lab-fs": "ext2\n"})
    write_upper(spec, {"/etc/fstab": "# none\n\n"})
    write_upper(spec, {"/usr/sbin/grub-probe": PROBE}, mode=0o755)
    node = start(spec)
    try:
        up = Blade(node)
        up.sh(
            "mkdir /boot/grub; for f in vmlinuz System.map config; do echo > /boot/$f-5.0-old; done"
        )
        up.boots("5.0-old", 1)
        yield up
    finally:
        node.stop()


ENTRY = "gnulinux-advanced-0123-4567>gnulinux-{}-advanced-0123-4567"


def test_a_new_kernel_is_booted_once_and_kept_when_it_runs(blade: Blade) -> None:
    release = blade.add(1)
    said = blade.settle()
    assert said == {
        "result": "updated",
        "kernel": {
            "running": "5.0-old",
            "due": release,
            "pending": True,
            "fell_back": False,
            "kept": [release],
            "removed": [],
        },
    }
    assert blade.environment() == {
        "saved_entry": ENTRY.format("5.0-old"),
        "next_entry": ENTRY.format(release),
    }
    blade.sh("grub-script-check /boot/grub/grub.cfg")
    assert blade.settle() == said, "a second pull changes nothing"

    assert blade.boots_as_grub_would(2) == release
    said = blade.settle()
    assert (said["kernel"]["pending"], said["kernel"]["fell_back"]) == (False, False)
    assert blade.environment() == {"saved_entry": ENTRY.format(release)}


def test_a_kernel_that_does_not_come_up_is_not_tried_again_until_somebody_says_so(
    blade: Blade,
) -> None:
    release = blade.add(1)
    blade.settle()
    blade.boots_as_grub_would(2)  # it panics, and the blade comes up once more:
    assert blade.boots_as_grub_would(3) == "5.0-old"
    said = blade.settle()["kernel"]
    assert (said["pending"], said["fell_back"]) == (True, True)
    assert blade.environment() == {"saved_entry": ENTRY.format("5.0-old")}
    assert blade.settle("again")["kernel"]["fell_back"] is False
    assert blade.environment()["next_entry"] == ENTRY.format(release)
    second = blade.add(2)
    said = blade.settle()["kernel"]
    assert (said["due"], said["fell_back"]) == (second, False)
    assert blade.environment()["next_entry"] == ENTRY.format(second)


def test_a_rollback_to_the_running_kernel_takes_the_boot_once_back(blade: Blade) -> None:
    first = blade.add(1)
    blade.settle()
    blade.boots_as_grub_would(2)
    blade.settle()
    blade.add(2)
    assert blade.settle()["kernel"]["pending"] is True
    blade.add(1)
    assert blade.settle()["kernel"]["pending"] is False
    assert blade.environment() == {"saved_entry": ENTRY.format(first)}


def test_the_newest_are_kept_and_never_the_running_one_nor_a_foreign_one_goes(
    blade: Blade,
) -> None:
    first = blade.add(1)
    blade.settle()
    blade.boots_as_grub_would(2)
    blade.settle()
    for number in (2, 3, 4):
        last = blade.add(number)
        said = blade.settle(keep=2)["kernel"]
    assert said["kept"] == [last, first]
    assert said["removed"] == ["6.1.9-site-r3"]
    assert blade.sh("ls /lib/modules").split() == [first, last]
    assert blade.boot_has() == sorted(
        f"{name}-{release}"
        for name in ("System.map", "config", "vmlinuz")
        for release in ("5.0-old", first, last)
    )


def test_the_initramfs_is_made_by_the_flavour_s_command_and_is_in_the_menu(blade: Blade) -> None:
    release = blade.add(1, ("cp", "/lib/modules/{release}/config", "{file}"))
    blade.settle()
    assert blade.sh(f"cat /boot/initramfs-{release}.img") == "config\n"
    assert f"initrd\t/boot/initramfs-{release}.img" in blade.sh("cat /boot/grub/grub.cfg")


def test_an_initramfs_that_a_power_cut_left_empty_is_made_again_and_any_with_again(
    blade: Blade,
) -> None:
    release = blade.add(1, ("cp", "/etc/lab-initramfs", "{file}"))
    blade.sh("echo first > /etc/lab-initramfs")
    blade.settle()
    blade.sh(f": > /boot/initramfs-{release}.img")
    blade.settle()
    assert blade.sh(f"cat /boot/initramfs-{release}.img") == "first\n"
    blade.sh("echo second > /etc/lab-initramfs")
    blade.settle()
    assert blade.sh(f"cat /boot/initramfs-{release}.img") == "first\n"
    blade.settle("again")
    assert blade.sh(f"cat /boot/initramfs-{release}.img") == "second\n"


SYNCS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from blades import grub, kernel
def seen(name):
    real = getattr(os, name)
    def call(what, *more, **named):
        path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
        print(name, path)
        return real(what, *more, **named)
    setattr(os, name, call)
seen("fsync")
seen("replace")
kernel.make_initramfs(kernel.kernels()[0])
"""


def test_an_initramfs_is_on_disk_before_it_has_its_name(blade: Blade) -> None:
    release = blade.add(1, ("cp", "/lib/modules/{release}/config", "{file}"))
    done = blade.node.run(["python3", "-I", "-c", SYNCS, str(ROOT)], timeout_s=60)
    beside = f"/boot/.initramfs-{release}.img.new"
    assert done.output.splitlines() == [f"fsync {beside}", f"replace {beside}", "fsync /boot"]


def test_a_full_boot_is_refused_before_anything_is_written(blade: Blade) -> None:
    blade.sh(
        "mount -t tmpfs -o size=8m tmpfs /boot; mkdir /boot/grub; echo > /boot/vmlinuz-5.0-old"
    )
    release = blade.add(1, size=5 << 20)
    before = blade.boot_has()
    assert blade.settle() == {
        "result": "failed",
        "error": f"/boot has 7 MiB free, and {release} takes 10: make room there, or keep fewer "
        "kernels",
    }
    assert blade.boot_has() == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "rm -r /boot/grub; mkdir /boot/loader; echo > /boot/loader/loader.conf",
            "this blade boots with systemd-boot, and only GRUB can be switched: install it, or set "
            'loader = "none" in [kernel] of cluster.toml and switch by hand',
        ),
        (
            "rm -r /boot/grub",
            "this blade has no GRUB in /boot, and only GRUB can be switched: install it, or set "
            'loader = "none" in [kernel] of cluster.toml and switch by hand',
        ),
        (
            "echo > /etc/default/grub",
            "GRUB does not boot what it was told to: put GRUB_DEFAULT=saved into /etc/default/grub",
        ),
        (
            "echo btrfs > /etc/lab-fs",
            "GRUB cannot write to /boot/grub (btrfs), so it could not take a boot-once back; put "
            "/boot on a plain partition",
        ),
        ("echo '/dev/sda1 /boot ext4 noauto 0 0' > /etc/fstab", "/boot is not mounted"),
        (
            "rm /boot/*5.0-old",
            "/boot/grub/grub.cfg has no entry for 5.0-old, which runs, so there would be no way "
            "back",
        ),
        (
            "rm -r /var/db/pkg/sys-kernel",
            "no kernel of the flavour site is installed",
        ),
        (
            "rm /lib/modules/6.1.9-site-r1/vmlinuz",
            "/lib/modules/6.1.9-site-r1/vmlinuz is gone: emerge =sys-kernel/headnode-site-6.1.9-r1",
        ),
    ],
    ids=[
        "systemd-boot",
        "no loader",
        "not saved",
        "read only",
        "boot",
        "no way back",
        "none",
        "gone",
    ],
)
def test_what_cannot_be_switched_is_refused_and_nothing_is_armed(
    blade: Blade, line: str, said: str
) -> None:
    blade.add(1)
    blade.sh(f"echo '# of the administrator' > /boot/grub/grub.cfg\n{line}")
    assert blade.settle() == {"result": "failed", "error": said}
    assert "next_entry" not in blade.sh("cat /boot/grub/grubenv 2> /dev/null || true")
    menu = blade.sh("cd /boot; cat grub/grub.cfg* 2> /dev/null || ls loader 2> /dev/null || true")
    assert menu in ("# of the administrator\n", "loader.conf\n", "")


def test_grub_gets_no_new_menu_before_the_running_kernel_is_its_default(blade: Blade) -> None:
    blade.add(1)
    blade.sh(
        "echo '# of the administrator' > /boot/grub/grub.cfg\n"
        "printf '#!/bin/sh\necho no room\nexit 1\n' > /usr/sbin/grub-set-default"
    )
    assert blade.settle() == {
        "result": "failed",
        "error": f"grub-set-default --boot-directory=/boot {ENTRY.format('5.0-old')} failed with "
        "exit code 1:\nno room",
    }
    assert blade.sh("cat /boot/grub/grub.cfg*") == "# of the administrator\n"


def test_without_a_loader_kernels_come_into_boot_and_nothing_is_switched(blade: Blade) -> None:
    release = blade.add(1)
    blade.sh("rm -r /boot/grub")
    assert blade.settle(loader="none")["kernel"]["pending"] is True
    assert f"vmlinuz-{release}" in blade.boot_has()
    assert blade.sh("ls -d /boot/grub 2> /dev/null || true") == ""


def test_a_blade_without_a_flavour_reports_nothing(blade: Blade) -> None:
    assert blade.settle(kernel="") == {"result": "updated"}


def test_what_is_needed_counts_among_those_that_are_kept() -> None:
    known = [Kernel(f"r{n}", "site", "p", (), float(n)) for n in (5, 4, 3, 2, 1)]

    def gone(keep: int, needed: set[str], default: str = "") -> list[str]:
        return [kernel.release for kernel in prunable(known, keep, needed, default)]

    assert gone(3, {"r5", "r1"}) == ["r3", "r2"]
    assert gone(2, {"r5", "r1"}) == ["r4", "r3", "r2"]
    assert gone(2, {"r5", "r1"}, ENTRY.format("r2")) == ["r4", "r3"]
    assert gone(9, {"r5"}) == []


def test_an_entry_is_found_by_its_whole_release() -> None:
    def line(kind: str, name: str) -> str:
        return f"{kind} 'x' --class os $menuentry_id_option '{name}' {{"

    menu = "\n".join(
        [
            line("menuentry", "gnulinux-simple-U"),
            "}",
            line("submenu", "gnulinux-advanced-U"),
            "\t" + line("menuentry", "gnulinux-6.1-r11-advanced-U"),
            "\t}",
            "\t" + line("menuentry", "gnulinux-6.1-r1-recovery-U"),
            "\t}",
            "\t" + line("menuentry", "gnulinux-6.1-r1-advanced-U"),
            "\t}",
            "}",
        ]
    )
    assert entry_of(menu, "6.1-r1") == "gnulinux-advanced-U>gnulinux-6.1-r1-advanced-U"
    assert entry_of(menu, "6.1-r2") is None
    flat = line("menuentry", "gnulinux-6.1-r1-advanced-U")
    assert entry_of(flat, "6.1-r1") == "gnulinux-6.1-r1-advanced-U", "GRUB_DISABLE_SUBMENU"
