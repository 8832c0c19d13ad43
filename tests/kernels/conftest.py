"""Real kernels for the tests: Debian's packages, unpacked and never installed; and a machine.

The machine is QEMU without KVM: a serial line, no disk, no network.
"""

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from headnode.process import Completed, require, run
from headnode.rehearsal import COMMAND_S

SOURCE = "linux-source-6.1"
SOURCE_AT = Path(f"usr/src/{SOURCE}.tar.xz")
IMAGE = "linux-image-cloud-amd64"
# What a tiny configuration for a PC compiles, and what make and Kconfig read beside it.
FOLDERS = (
    *("arch/x86/", "block/", "certs/", "crypto/", "include/", "init/", "io_uring/", "ipc/"),
    *("kernel/", "lib/", "mm/", "scripts/", "security/", "usr/", "virt/", "tools/arch/x86/"),
    *("tools/build/", "tools/include/", "tools/objtool/", "tools/scripts/"),
    *(f"drivers/{name}/" for name in ("base", "char", "clocksource", "firmware", "irqchip")),
    *(f"drivers/{name}/" for name in ("input", "of", "pci", "rtc", "tty", "video/console")),
    *(f"fs/{name}/" for name in ("devpts", "iomap", "kernfs", "notify", "proc", "ramfs", "sysfs")),
)
READ = ("Kconfig", "Kbuild", "Makefile")


def fetch(package: str, folder: Path) -> Path:
    """Unpack a Debian package below `folder`; apt's lists are private, nothing is installed."""
    require("apt-get", "dpkg-deb")
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    options = ["-qq", "-o", f"Dir::State::lists={folder}/lists", "-o", "APT::Sandbox::User=root"]
    run(["apt-get", *options, "update"], timeout_s=COMMAND_S, check=False)
    run(["apt-get", *options, "download", package], timeout_s=COMMAND_S, cwd=folder)
    [archive] = folder.glob(f"{package}_*.deb")
    run(["dpkg-deb", "-x", archive, folder / "unpacked"], timeout_s=COMMAND_S)
    return folder / "unpacked"


def kernel_source(folder: Path) -> Path:
    """The archive of Linux that Debian compiles its own kernel from."""
    there = Path("/") / SOURCE_AT
    return there if there.exists() else fetch(SOURCE, folder) / SOURCE_AT


def kernel_image(folder: Path) -> tuple[str, Path]:
    """Debian's kernel for virtual machines, as it is: its release and its image."""
    depends = ["apt-cache", "depends", "--recurse", "--no-recommends", IMAGE]
    options = ["-o", f"Dir::State::lists={folder}/lists"]
    fetch(IMAGE, folder)
    said = run([*depends, *options], timeout_s=COMMAND_S).output
    package = next(word for word in said.split() if word.startswith("linux-image-6"))
    [image] = (fetch(package, folder) / "boot").glob("vmlinuz-*")
    return image.name.removeprefix("vmlinuz-"), image


def trimmed(source: Path, target: Path) -> Path:
    """The source without the folders that a tiny configuration never compiles.

    Unpacking all of it and packing it again takes longer than compiling what is needed of it.
    """
    with tarfile.open(source) as whole, tarfile.open(target, "w") as part:
        for member in whole:
            name = member.name.partition("/")[2]
            file = name.rpartition("/")[2]
            if name.startswith(FOLDERS) or file.startswith(READ) or name.count("/") < 2:
                part.addfile(member, whole.extractfile(member) if member.isfile() else None)
    return target


INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "release: $(/bin/busybox uname -r)"
/bin/busybox reboot -f
"""
BOOT_S = 900.0


# The same for a kernel of 32 bits that has next to nothing: uname, write and reboot, called as
# linux/arch/x86/entry/syscalls/syscall_32.tbl numbers them.
SMALL_INIT = """
static int call(int number, long one, long two, long three)
{
    int result;
    __asm__ volatile("int $0x80"
        : "=a"(result) : "a"(number), "b"(one), "c"(two), "d"(three) : "memory");
    return result;
}

static void say(const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    call(4, 1, (long)text, length);
}

void _start(void)
{
    static char names[6][65];
    call(122, (long)names, 0, 0);
    say("release: ");
    say(names[2]);
    say("\\n");
    call(88, 0xfee1dead, 672274793, 0x1234567);
    for (;;)
        ;
}
"""


def initramfs(folder: Path) -> Path:
    """An initramfs whose shell says which kernel runs, and reboots, which ends QEMU."""
    root = folder / "initramfs"
    for name in ("bin", "proc"):
        (root / name).mkdir(parents=True)
    run(["cp", "/bin/busybox", root / "bin/busybox"], timeout_s=60)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    return packed(root)


def small_initramfs(folder: Path) -> Path:
    """The same without a shell, for 32 bits."""
    root = folder / "initramfs"
    root.mkdir()
    (folder / "init.c").write_text(SMALL_INIT)
    flags = ["-m32", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector"]
    argv = ["gcc", *flags, "-static", "-nostdlib", "-o", root / "init", folder / "init.c"]
    run(argv, timeout_s=60)
    return packed(root)


def packed(root: Path) -> Path:
    """A folder as an initramfs, with a console."""
    (root / "dev").mkdir()
    run(["mknod", root / "dev/console", "c", "5", "1"], timeout_s=60)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    done = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        input=names.encode(),
        cwd=root,
        check=True,
        capture_output=True,
    )
    target = root.with_suffix(".img")
    target.write_bytes(done.stdout)
    return target


def start_machine(image: Path, initrd: Path) -> Completed:
    """Start a machine with that kernel, and give what came over its serial line."""
    return run(
        [
            *("qemu-system-x86_64", "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256"),
            *("-display", "none", "-no-reboot", "-nic", "none", "-serial", "stdio"),
            *("-kernel", image, "-initrd", initrd),
            *("-append", "console=ttyS0 panic=-1"),
        ],
        timeout_s=BOOT_S,
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Linux, as Debian compiles it: the whole archive."""
    return kernel_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def small_source(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Linux, as much of it as a tiny configuration takes."""
    return trimmed(source, tmp_path_factory.mktemp("small") / "linux-small.tar")


@pytest.fixture(scope="session")
def ready_made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kernel that nobody has to compile: its release and its image."""
    return kernel_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def boot(tmp_path: Path) -> Callable[[Path], str]:
    """Boots an image in a machine, with an initramfs that says which kernel runs."""
    initrd = initramfs(tmp_path)
    return lambda image: start_machine(image, initrd).output


@pytest.fixture
def small_machine(tmp_path: Path) -> Callable[[Path], str]:
    """The same for a small kernel of 32 bits."""
    initrd = small_initramfs(tmp_path)
    return lambda image: start_machine(image, initrd).output
