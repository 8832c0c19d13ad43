"""The kernels of this blade: which one it is to boot, and the way back to the one that runs.

The package of a flavour lays everything into /lib/modules/<release>, where Portage leaves it when
the package goes. From there this copies into /boot, writes GRUB's menu, and switches in two steps:

1. The due kernel is booted once (grub-reboot), and the running one stays the default. A kernel that
   panics, or a blade that is switched off and on, comes back with the old one.
2. When the due kernel is found running, it becomes the default (grub-set-default).

A kernel that was to be booted and is not the one that runs after it fell back: it is reported, and
not tried again before another is due, or somebody says so (`headnode-kernel --again`).

    /lib/modules/<release>/headnode.json  what a kernel of headnode's says of itself
    /var/lib/headnode/kernel.json         which one was armed, and in which boot that was

Never removed: the running kernel, the due one, GRUB's default, and kernels that are none of
headnode's. Only the standard library, GRUB's tools, and what makes the initramfs.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import blades.grub as grub
from blades.grub import Grub, KernelError, entry_of, run

SETTINGS = Path("/etc/headnode/pull.json")
STATE = Path("/var/lib/headnode/kernel.json")
MODULES = Path("/lib/modules")
VDB = Path("/var/db/pkg")
FSTAB = Path("/etc/fstab")
RELEASE = Path("/proc/sys/kernel/osrelease")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# In /boot by these names, which grub-mkconfig looks for (/etc/loader.d/10_linux).
FILES = ("vmlinuz", "System.map", "config")
INITRAMFS = "initramfs-{}.img"
SPARE = 4 << 20  # of /boot, in bytes: GRUB's menu, and what a file system rounds up


class Kernel(NamedTuple):
    """A kernel of headnode's on this blade, from its headnode.json."""

    release: str
    flavour: str
    package: str
    initramfs: tuple[str, ...]
    made: float  # when it came here, seconds since the epoch

    @property
    def folder(self) -> Path:
        """Its modules, image and configuration."""
        return MODULES / self.release


def kernels() -> list[Kernel]:
    """Headnode's kernels on this blade, the newest first."""
    found = []
    for path in MODULES.glob("*/headnode.json"):
        try:
            says = json.loads(path.read_text())
            initramfs = tuple(str(word) for word in says["initramfs"])
            kernel = Kernel(
                path.parent.name, says["flavour"], says["package"], initramfs, path.stat().st_ctime
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half removed, or of somebody else: left alone
        if says["release"] == kernel.release:
            found.append(kernel)
    return sorted(found, key=lambda kernel: kernel.made, reverse=True)


def due_of(known: Iterable[Kernel], flavour: str) -> Kernel:
    """The kernel whose package is installed: what the generation has.

    Raises:
        KernelError: none is, or it lacks its image.
    """
    for kernel in known:
        if kernel.flavour == flavour and (VDB / kernel.package).is_dir():
            if not (kernel.folder / "vmlinuz").is_file():
                raise KernelError(f"{kernel.folder}/vmlinuz is gone: emerge ={kernel.package}")
            return kernel
    raise KernelError(f"no kernel of the flavour {flavour} is installed")


def running() -> str:
    """The release of the running kernel."""
    return RELEASE.read_text().strip()


def require_boot() -> None:
    """Check that /boot is there, and mounted where it is a file system of its own."""
    lines = FSTAB.read_text().splitlines() if FSTAB.exists() else []
    listed = any(line.split()[1:2] == [str(grub.BOOT)] for line in lines if line[:1] != "#")
    if listed and not grub.BOOT.is_mount():
        raise KernelError(f"{grub.BOOT} is not mounted")
    if not grub.BOOT.is_dir():
        raise KernelError(f"there is no {grub.BOOT}")


def in_boot(release: str) -> list[Path]:
    """Where a kernel's files are in /boot."""
    return [
        *(grub.BOOT / f"{name}-{release}" for name in FILES),
        grub.BOOT / INITRAMFS.format(release),
    ]


def to_copy(kernel: Kernel) -> list[tuple[Path, Path]]:
    """What of a kernel is not in /boot yet, or is another there by size or time: from and to."""
    pairs = [(kernel.folder / name, grub.BOOT / f"{name}-{kernel.release}") for name in FILES]
    return [
        (source, target)
        for source, target in pairs
        if not (target.is_file() and filecmp.cmp(source, target))
    ]


def require_space(kernel: Kernel, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Check that /boot has room for a kernel. An initramfs will be as large as the largest there.

    Raises:
        KernelError: it has not.
    """
    need = sum(source.stat().st_size for source, _ in pairs)
    if kernel.initramfs and not has_content(grub.BOOT / INITRAMFS.format(kernel.release)):
        need += max((path.stat().st_size for path in grub.BOOT.glob("init*")), default=0)
    free = shutil.disk_usage(grub.BOOT).free
    if need and free < need + SPARE:
        raise KernelError(
            f"{grub.BOOT} has {free >> 20} MiB free, and {kernel.release} takes "
            f"{(need + SPARE + (1 << 20) - 1) >> 20}: make room there, or keep fewer kernels"
        )


def put_in_place(source: Path, target: Path) -> None:
    """Copy a file into /boot in one rename, on disk."""
    beside = target.with_name(f".{target.name}.new")
    try:
        with source.open("rb") as file, beside.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        shutil.copystat(source, beside)
        grub.put_on_disk(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def has_content(path: Path) -> bool:
    """Whether a file is there, and not empty, as a power cut may leave it."""
    return path.is_file() and path.stat().st_size > 0


def make_initramfs(kernel: Kernel, *, anew: bool = False) -> bool:
    """Make a kernel's initramfs, if it wants one and has none, or `anew`; whether it did."""
    target = grub.BOOT / INITRAMFS.format(kernel.release)
    if not kernel.initramfs or (has_content(target) and not anew):
        return False
    beside = grub.BOOT / f".{target.name}.new"
    try:
        run(*(word.format(release=kernel.release, file=beside) for word in kernel.initramfs))
        if not has_content(beside):
            raise KernelError(f"{kernel.initramfs[0]} wrote no initramfs to {beside}")
        grub.put_on_disk(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return True


def prunable(
    known: Sequence[Kernel], keep: int, needed: Collection[str], default: str
) -> list[Kernel]:
    """The kernels that may go: not among the `keep` newest, not `needed`, not GRUB's default. Pure.

    `needed` releases count among those that are kept.
    """
    must = [each for each in known if each.release in needed or f"-{each.release}-" in default]
    others = [each for each in known if each not in must]
    return others[max(0, keep - len(must)) :]


def remove(kernel: Kernel) -> None:
    """Remove a kernel: the entry's files first, so that GRUB never offers one without modules."""
    for path in in_boot(kernel.release):
        path.unlink(missing_ok=True)
    shutil.rmtree(kernel.folder)


def read_state() -> dict[str, Any]:
    """Which kernel was armed, and in which boot; empty if none was."""
    try:
        return dict(json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def fell_back(due: Kernel) -> bool:
    """Whether the due kernel was armed in an earlier boot, and yet is not the one that runs."""
    armed = read_state()
    return (
        armed.get("armed") == due.release
        and armed.get("boot") != BOOT_ID.read_text().strip()
        and running() != due.release
    )


def status(flavour: str) -> dict[str, Any]:
    """What runs and what is due: `pending` is a reboot that is due. Changes nothing."""
    due = due_of(kernels(), flavour)
    now = running()
    return {
        "running": now,
        "due": due.release,
        "pending": now != due.release,
        "fell_back": fell_back(due),
        "kept": [each.release for each in kernels()],
        "removed": [],
    }


def settle(settings: Mapping[str, Any], *, again: bool = False) -> dict[str, Any]:
    """Put the due kernel in /boot and have it booted, once; the report of it, empty if none is.

    `settings` are pull.json's: `kernel` (the flavour; empty: kernels are left alone), `keep`, and
    `loader`. `again` tries a kernel that fell back once more, with an initramfs made anew.

    Raises:
        KernelError: it cannot be; what boots now boots as before.
    """
    flavour = settings.get("kernel", "")
    if not flavour:
        return {}
    require_boot()
    known = kernels()
    due = due_of(known, flavour)
    loader = grub.find_grub() if settings.get("loader", "grub") == "grub" else None
    default = loader.environment().get("saved_entry", "") if loader else ""
    going = prunable(known, int(settings.get("keep", 3)), {due.release, running()}, default)
    for kernel in going:
        remove(kernel)
    pairs = to_copy(due)
    require_space(due, pairs)
    for source, target in pairs:
        put_in_place(source, target)
    made = make_initramfs(due, anew=again)
    if loader:
        switch(loader, due, changed=bool(going or pairs or made), again=again)
    return status(flavour) | {"removed": [kernel.release for kernel in going]}


def settle_into(settings: Mapping[str, Any], report: dict[str, Any]) -> None:
    """What a pull does about the kernel, at its end: `settle`, and its report as `kernel`.

    Raises:
        KernelError: the pull failed with it, though the packages are in place.
    """
    if not settings.get("kernel"):
        return
    result, report["result"] = report["result"], "failed"
    report["kernel"] = settle(settings)
    report["result"] = result


def switch(loader: Grub, due: Kernel, *, changed: bool, again: bool) -> None:
    """Have GRUB boot the due kernel: once while another runs, for good when it is the one.

    GRUB gets a new menu after everything was looked at and the running kernel is its default: a
    menu alone would have it boot the newest kernel, for good.
    """
    now = running()
    if now != due.release:
        loader.check_writes()
    menu = loader.menu.read_text() if loader.menu.exists() else ""
    anew = changed or entry_of(menu, due.release) is None or "saved_entry" not in menu
    try:
        if anew:
            menu = loader.make_menu()
        entry, back = entries(loader, menu, due, now)
        said = loader.environment()
        if said.get("saved_entry") != back:
            loader.set_default(back)
        if anew:
            loader.put_menu()
    finally:
        loader.new_menu.unlink(missing_ok=True)
    if now == due.release:
        if said.get("next_entry"):
            loader.forget_once()
        STATE.unlink(missing_ok=True)
    elif again or not fell_back(due):
        if said.get("next_entry") != entry:
            loader.boot_once(entry)
        arm(due)


def entries(loader: Grub, menu: str, due: Kernel, now: str) -> tuple[str, str]:
    """The entries of a menu for the due kernel and for the one that runs.

    Raises:
        KernelError: it has not both.
    """
    entry, back = entry_of(menu, due.release), entry_of(menu, now)
    if entry is None:
        raise KernelError(f"{loader.menu} has no entry for {due.release}, which is in {grub.BOOT}")
    if back is None:
        raise KernelError(
            f"{loader.menu} has no entry for {now}, which runs, so there would be no way back"
        )
    return entry, back


def arm(due: Kernel) -> None:
    """Note that the due kernel is to be booted next, and in which boot that was said."""
    text = json.dumps({"armed": due.release, "boot": BOOT_ID.read_text().strip()}) + "\n"
    if STATE.exists() and STATE.read_text() == text:
        return
    STATE.parent.mkdir(parents=True, exist_ok=True)
    beside = STATE.with_name(f".{STATE.name}.new")
    beside.write_text(text)
    beside.replace(STATE)


def main() -> int:
    """Say which kernel runs and which is due; with --settle, have the due one booted."""
    import argparse  # not in every pull, which is to cost nothing when there is nothing to do

    parser = argparse.ArgumentParser(prog="headnode-kernel", description=main.__doc__)
    parser.add_argument("--settle", action="store_true", help="have the due kernel booted once")
    parser.add_argument("--again", action="store_true", help="--settle, also one that fell back")
    options = parser.parse_args()
    try:
        settings = json.loads(SETTINGS.read_text())
        if options.settle or options.again:
            said = settle(settings, again=options.again)
        else:
            said = status(settings["kernel"]) if settings.get("kernel") else {}
    except (KernelError, OSError, ValueError) as error:
        print(f"headnode-kernel: {error}", file=sys.stderr)
        return 1
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
