"""GRUB on this blade: its menu, its environment block, and which entry is which kernel's.

Source: GRUB 2.06, its manual ("Environment block", "grub-reboot") and /etc/grub.d/10_linux.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

BOOT = Path("/boot")
ENDING_LINES = 10
LIMIT_S = 900.0  # for grub-mkconfig and what makes the initramfs
# Where GRUB only reads, so that a boot-once would be one for ever.
READ_ONLY = {"btrfs", "zfs", "lvm", "diskfilter", "mdraid09", "mdraid1x", "cryptodisk", "luks"}


class KernelError(Exception):
    """The kernel cannot be switched; the text says why. What boots now boots as before."""


def run(*argv: str) -> str:
    """Run a program and give what it printed, or a KernelError with the end of it."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except FileNotFoundError as error:
        raise KernelError(f"this blade has no {argv[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{' '.join(argv)} did not end within {LIMIT_S:g} s") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-ENDING_LINES:])
        raise KernelError(f"{' '.join(argv)} failed with exit code {done.returncode}:\n{said}")
    return done.stdout


def put_on_disk(beside: Path, target: Path) -> None:
    """Rename a finished file over another, so that a power cut leaves the one or the other."""
    for path, flags in ((beside, os.O_RDONLY), (target.parent, os.O_RDONLY | os.O_DIRECTORY)):
        if path != beside:
            beside.replace(target)
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Grub(NamedTuple):
    """GRUB as it is installed here: its folder in /boot, and what its tools are called."""

    folder: Path
    prefix: str  # "grub" or "grub2"

    @property
    def menu(self) -> Path:
        """What GRUB reads when it starts."""
        return self.folder / "grub.cfg"

    @property
    def new_menu(self) -> Path:
        """Where the next menu is looked at before GRUB reads it."""
        real = self.menu.resolve()
        return real.with_name(f"{real.name}.headnode")

    def make_menu(self) -> str:
        """Make a menu from what is in /boot, beside the one that GRUB reads, and give it.

        Its first entry is the newest kernel, which nobody has tried: it is not to be read before
        there is a default (`put_menu`). grub-mkconfig checks it.
        """
        run(f"{self.prefix}-mkconfig", "-o", str(self.new_menu))
        text = self.new_menu.read_text()
        if "saved_entry" not in text or 'set default="${saved_entry}"' not in text:
            raise KernelError(
                "GRUB does not boot what it was told to: put GRUB_DEFAULT=saved into "
                "/etc/default/grub"
            )
        return text

    def put_menu(self) -> None:
        """Have GRUB read the menu that `make_menu` made."""
        put_on_disk(self.new_menu, self.menu.resolve())

    def environment(self) -> dict[str, str]:
        """GRUB's environment block, which grub-editenv writes: saved_entry, next_entry."""
        path = self.folder / "grubenv"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")

    def set_default(self, entry: str) -> None:
        """Boot that entry from now on."""
        run(f"{self.prefix}-set-default", f"--boot-directory={BOOT}", entry)

    def boot_once(self, entry: str) -> None:
        """Boot that entry the next time, and only then."""
        run(f"{self.prefix}-reboot", f"--boot-directory={BOOT}", entry)

    def forget_once(self) -> None:
        """Boot nothing but the default the next time."""
        run(f"{self.prefix}-editenv", str(self.folder / "grubenv"), "unset", "next_entry")

    def check_writes(self) -> None:
        """Check that GRUB itself can write where it is: it has to take a boot-once back."""
        for target in ("fs", "abstraction"):
            said = run(f"{self.prefix}-probe", f"--target={target}", str(self.folder)).split()
            if kinds := READ_ONLY & set(said):
                raise KernelError(
                    f"GRUB cannot write to {self.folder} ({', '.join(sorted(kinds))}), so it could "
                    "not take a boot-once back; put /boot on a plain partition"
                )


# Loaders that a blade may have instead, by what they leave in /boot or /etc.
OTHERS = {
    "loader/loader.conf": "systemd-boot",
    "EFI/refind": "rEFInd",
    "syslinux": "SYSLINUX",
    "extlinux": "EXTLINUX",
    "../etc/lilo.conf": "LILO",
    "../etc/elilo.conf": "ELILO",
}


def find_grub() -> Grub:
    """GRUB, where it is what boots this blade.

    Raises:
        KernelError: it is not, and what was found instead.
    """
    for name in ("grub", "grub2"):
        if (BOOT / name).is_dir() and shutil.which(f"{name}-mkconfig"):
            return Grub(BOOT / name, name)
    found = [loader for path, loader in OTHERS.items() if (BOOT / path).exists()]
    what = f"boots with {' or '.join(found)}" if found else f"has no GRUB in {BOOT}"
    raise KernelError(
        f"this blade {what}, and only GRUB can be switched: install it, or set loader = "
        '"none" in [kernel] of cluster.toml and switch by hand'
    )


ENTRY = re.compile(r"^\s*(menuentry|submenu) .*?\$menuentry_id_option '([^']+)'.*\{\s*$")


def entry_of(menu: str, release: str) -> str | None:
    """The identifier of the plain (not recovery) entry of a kernel in grub.cfg. Pure.

    grub-mkconfig gives the newest kernel a short entry and each a full one in a submenu, whose
    identifiers are joined by '>'; with GRUB_DISABLE_SUBMENU there is none.
    """
    within = ""
    for line in menu.splitlines():
        if line.startswith("}"):
            within = ""
        elif match := ENTRY.match(line):
            kind, name = match.groups()
            if kind == "submenu":
                within = f"{name}>"
            elif name.startswith(f"gnulinux-{release}-advanced"):
                return within + name
    return None
