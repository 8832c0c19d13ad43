"""A kernel from its flavour to the blades, through the real builder, mirror, publish and pull.

The tests tell one story, in their order, in one lab. Most of it is told with a tree in the shape of
Linux 2.4 that compiles in a second (tests/data/kernel), and the end with a real kernel.
"""

import difflib
import hashlib
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blades.inventory import all_blades
from blades.setup import setup_files, to_tar
from config.load import atoms_of, load
from config.model import Loader
from headnode import rehearsal
from headnode.rehearsal import Rehearsal
from mirror.upstream import metadata
from schedules.site import Site

pytestmark = pytest.mark.lab

DATA = Path(__file__).parent.parent / "data/kernel"
GOOD = """\
--- a/kernel/sys.c
+++ b/kernel/sys.c
@@ -1,3 +1,4 @@
+patched
 1
 2
 3
"""
BAD = GOOD.replace(" 1\n 2\n 3\n", " one\n two\n three\n")
BLADES = ("blade01", "blade02")
OLD = """\
about = "In the shape of openMosix's"
{more}make_args = ["ARCH=i386"{broken}]
[source]
file = "linux-old.tar"
sha256 = "{source}"
[[patches]]
file = "good.patch"
sha256 = "{patch}"
[config]
base = "oldconfig"
set = {{ MODULES = "y", EXPERIMENTAL = "{experimental}", MOSIX = "y" }}
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Cluster:
    """The lab with its flavours, and the class's blades booting one of them."""

    def __init__(self, up: Rehearsal) -> None:
        self.up = up
        self.flavours = up.lab.folder / "flavours"
        self.flavours.mkdir(exist_ok=True)

    def old(
        self, more: str = "", broken: str = "", experimental: str = "y", **digests: str
    ) -> None:
        """Write the flavour `old`."""
        known = {
            "source": sha256(self.flavours / "linux-old.tar"),
            "patch": sha256(self.flavours / "good.patch"),
        }
        text = OLD.format(
            more=more, broken=broken, experimental=experimental, **{**known, **digests}
        )
        (self.flavours / "old.toml").write_text(text)

    def boots(self, flavour: str) -> None:
        """Set the class's kernel."""
        lines = self.up.config.read_text().splitlines()
        lines = [
            f'kernel = "{flavour}"' if each.startswith("kernel = ") else each for each in lines
        ]
        self.up.config.write_text("\n".join(lines) + "\n")

    def ask(self, *words: str) -> Any:
        return json.loads(self.up.headnode(*words, "--json").output)

    def build(self, *words: str) -> Any:
        return self.ask("kernel", "build", *words)

    def refused(self, *words: str) -> tuple[int, str]:
        """The exit code and the error of a command that is to fail, the folders named shortly."""
        done = self.up.headnode(*words, check=False)
        errors = "\n".join(line for line in done.errors.splitlines() if "warning" not in line)
        return done.code, errors.replace(str(self.up.lab.folder), "<lab>")

    def on(self, blade: str, line: str) -> str:
        return self.up.lab.node(blade).run(["sh", "-c", line], timeout_s=600).output.strip()

    def pull(self, blade: str) -> dict[str, Any]:
        done = self.up.lab.node(blade).run(["headnode-pull"], timeout_s=1200, check=False)
        report: dict[str, Any] = json.loads(done.output.splitlines()[-1])
        assert not report["error"], report["error"]
        return report

    def set_up_blades(self) -> None:
        """Give the blades what they are given once, but no loader: a lab blade has no disk."""
        cluster = load(self.up.config)
        kernel = cluster.kernel.model_copy(update={"loader": Loader.NONE})
        site = Site(cluster=cluster.model_copy(update={"kernel": kernel}))
        for blade in all_blades(site.cluster):
            atoms = atoms_of(site.klass(blade.class_name))
            files = setup_files(site.cluster, blade, atoms, site.keyring())
            argv = self.up.lab.node(blade.name).argv(["tar", "-xC", "/", "-f", "-"])
            subprocess.run(argv, input=to_tar(files), check=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("kernels")
    with rehearsal.running(folder, len(BLADES), cache=tarballs) as up:
        text = up.config.read_text()
        for before, after in (
            ('packages = ["cluster-meta/blade"]', 'packages = ["sys-apps/nodekeys"]'),
            # Three packages, of which another flavour's kernel takes the place of one.
            ("max_gone_percent = 20", "max_gone_percent = 100"),
            (
                "[openmosix.addresses]",
                '[openmosix.addresses]\n"blade[01-02]" = "10.77.0.3"',
            ),
        ):
            assert before in text
            text = text.replace(before, after)
        up.config.write_text(text)
        made = Cluster(up)
        tree = folder / "linux-old"
        shutil.copytree(DATA / "linux-old", tree)
        with tarfile.open(made.flavours / "linux-old.tar", "w") as archive:
            archive.add(tree, "linux-old")
        (made.flavours / "good.patch").write_text(GOOD)
        made.old()
        made.boots("old")
        rehearsal.start_headnode(up)
        made.set_up_blades()
        yield made


def test_a_sync_goes_through_before_the_kernel_was_ever_built(cluster: Cluster) -> None:
    assert "headnode" in cluster.ask("mirror", "sync")["changed"]
    code, said = cluster.refused("build")
    assert code == 1
    assert "This flavour's kernel was never built: headnode kernel build old" in said


def test_an_unknown_flavour_is_refused(cluster: Cluster) -> None:
    assert cluster.refused("kernel", "build", "odl") == (
        2,
        "headnode: There is no flavour 'odl'. There is blade, old, openmosix; a new one would be "
        "<lab>/flavours/odl.toml.",
    )


def test_a_flavour_that_the_class_does_not_boot_is_refused(cluster: Cluster) -> None:
    assert cluster.refused("kernel", "build", "blade") == (
        2,
        "headnode: The class blade boots the flavour 'old', so nobody would get a kernel of "
        "'blade'. Set kernel = \"blade\" in [classes.blade] of cluster.toml.",
    )


def test_a_source_with_the_wrong_digest_is_refused(cluster: Cluster) -> None:
    found = sha256(cluster.flavours / "linux-old.tar")
    cluster.old(source="0" * 64)
    code, said = cluster.refused("kernel", "build", "old")
    cluster.old()
    assert (code, said) == (
        2,
        "headnode: <lab>/flavours/old.toml: <lab>/flavours/linux-old.tar is not the file that this "
        f"flavour names: its SHA-256 is {found}, and should be {'0' * 64}. Fetch it again, or "
        "correct the digest if the file is right.",
    )


def test_a_source_that_is_nowhere_is_named(cluster: Cluster) -> None:
    archive = cluster.flavours / "linux-old.tar"
    archive.rename(archive.with_suffix(".away"))
    try:
        # The flavour was not built yet, so the mirror does not have it either.
        code, said = cluster.refused("kernel", "build", "old")
    finally:
        archive.with_suffix(".away").rename(archive)
    assert (code, said) == (
        2,
        "headnode: <lab>/flavours/old.toml: there is no linux-old.tar. Put it into <lab>/flavours.",
    )


def test_a_patch_that_does_not_apply_is_refused_with_file_and_hunk(cluster: Cluster) -> None:
    patch = cluster.flavours / "good.patch"
    patch.write_text(BAD)
    cluster.old()
    code, said = cluster.refused("kernel", "build", "old")
    patch.write_text(GOOD)
    cluster.old()
    assert (code, said) == (
        1,
        "Patching and configuring the source of old\n"
        "headnode: good.patch does not apply to the source of the flavour old:\n"
        "kernel/sys.c: hunk 1, at line 1, does not fit\n"
        "Correct the patch, or the order of the flavour's patches.",
    )


def test_a_symbol_that_did_not_survive_is_refused_by_name(cluster: Cluster) -> None:
    cluster.old(experimental="n")
    code, said = cluster.refused("kernel", "build", "old")
    cluster.old()
    assert (code, said) == (
        1,
        "Patching and configuring the source of old\n"
        "headnode: The configuration of the flavour old did not come out as it was asked for:\n"
        "CONFIG_MOSIX=y (old.toml) came out as # CONFIG_MOSIX is not set\n"
        "Set what these symbols depend on too, or leave them out; `make menuconfig` in the source "
        "shows it ('/', then the symbol).",
    )


def test_a_compiler_that_the_builder_lacks_is_refused(cluster: Cluster) -> None:
    cluster.old(more='compiler = "gcc-3.4.6"\n')
    code, said = cluster.refused("kernel", "build", "old")
    cluster.old()
    assert code == 1
    assert said.startswith("headnode: The builder has no compiler 'gcc-3.4.6': ")
    assert said.endswith(
        "Name another one in the flavour (`compiler`), or install it in the root that is built "
        "over ([build] root)."
    )


def test_a_module_of_another_kernel_is_refused_by_name(cluster: Cluster) -> None:
    cluster.old(broken=', "MODULE_RELEASE=2.4.0"')
    code, said = cluster.refused("kernel", "build", "old")
    cluster.old()
    assert code == 1
    assert "sys-kernel/headnode-old-2.4.99-r1 did not build: its install phase failed." in said
    assert "Modules of another kernel than 2.4.99-old-r1: om.o (2.4.0)" in said


def test_a_kernel_is_built_and_what_is_unchanged_is_not_built_again(cluster: Cluster) -> None:
    done = cluster.build("old")
    assert done["new"] is True
    assert done["revision"]["release"] == "2.4.99-old-r2"
    assert done["build"]["built"] == ["sys-kernel/headnode-old-2.4.99-r2"]
    again = cluster.build("old")
    assert (again["new"], again["build"]["built"]) == (False, [])
    [old] = [each for each in cluster.ask("kernel", "list") if each["name"] == "old"]
    assert (old["classes"], old["revision"]["release"]) == (["blade"], "2.4.99-old-r2")


def test_it_is_published_and_pulled_into_every_blade_s_boot_and_a_reboot_is_due(
    cluster: Cluster,
) -> None:
    cluster.ask("publish")
    cluster.ask("promote", "--ring", "fleet")
    for blade in BLADES:
        report = cluster.pull(blade)
        assert report["result"] == "updated"
        assert report["kernels"] == {
            "running": cluster.on(blade, "uname -r"),
            "due": "2.4.99-old-r2",
            "pending": True,
            "fell_back": False,
            "kept": ["2.4.99-old-r2"],
            "removed": [],
        }
        assert "2.4.99-old-r2 (x@y)" in cluster.on(
            blade, "tr -d '\\0' < /boot/vmlinuz-2.4.99-old-r2"
        )
        found = cluster.on(blade, "strings /lib/modules/2.4.99-old-r2/kernel/om.o")
        assert "kernel_version=2.4.99-old-r2" in found
        assert json.loads(cluster.on(blade, "headnode-kernel")) == report["kernels"]


def test_an_added_patch_is_a_new_revision_beside_the_old_and_dropped_it_is_the_old_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    fix = tmp_path / "fix.patch"
    fix.write_text(GOOD)  # the file has "patched" at its top by now
    assert cluster.refused("kernel", "build", "old", "--patch", str(fix)) == (
        1,
        "Patching and configuring the source of old\n"
        "headnode: fix.patch does not apply to the source of the flavour old:\n"
        "kernel/sys.c: hunk 1, at line 1, does not fit\n"
        "Correct the patch, or the order of the flavour's patches.",
    )
    assert cluster.build("old")["new"] is False, "what does not apply is not kept"
    fix.write_text("--- a/kernel/sys.c\n+++ b/kernel/sys.c\n@@ -8,3 +8,4 @@\n 7\n 8\n 9\n+fixed\n")
    done = cluster.build("old", "--patch", str(fix))
    assert (done["new"], done["revision"]["release"]) == (True, "2.4.99-old-r3")
    assert done["revision"]["patches"] == ["good.patch", "fix.patch"]
    cluster.ask("publish")
    report = cluster.pull("blade01")
    assert report["changes"] == [
        "-sys-kernel/headnode-old-2.4.99-r2",
        "+sys-kernel/headnode-old-2.4.99-r3",
    ]
    assert report["kernels"]["kept"] == ["2.4.99-old-r3", "2.4.99-old-r2"]
    assert "fixed" in cluster.on("blade01", "strings /boot/vmlinuz-2.4.99-old-r3")
    old = cluster.on("blade01", "ls /boot /lib/modules/2.4.99-old-r2/kernel").split()
    assert {"vmlinuz-2.4.99-old-r2", "om.o"} <= set(old), "Portage left it where it was"
    dropped = cluster.build("old", "--drop", "fix.patch")
    assert dropped["revision"]["release"] == "2.4.99-old-r2"
    assert dropped["build"]["built"] == []


def test_openmosix_s_map_is_a_package_of_the_overlay(cluster: Cluster) -> None:
    [ebuild] = (cluster.up.lab.folder / "state/overlay").glob("sys-cluster/openmosix-map/*.ebuild")
    text = cluster.up.config.read_text()
    cluster.up.config.write_text(
        text.replace('["sys-apps/nodekeys"]', '["sys-apps/nodekeys", "sys-cluster/openmosix-map"]')
    )
    cluster.ask("build")
    cluster.ask("publish")
    assert f"+sys-cluster/{ebuild.stem}" in cluster.pull("blade01")["changes"]
    assert cluster.on("blade01", "cat /etc/openmosix.map") == "1\t10.77.0.3\t2"


SOURCES = """\
EAPI=8
DESCRIPTION="Sources of the tests' kernel"
HOMEPAGE="https://blades.example/"
S="${WORKDIR}"
LICENSE="GPL-2"
SLOT="${PV}"
KEYWORDS="amd64"
src_install() {
	insinto /usr/src
	doins -r "${FILESDIR}/linux-2.4.99"
}
"""


def test_the_source_may_be_a_package_of_the_tree(cluster: Cluster) -> None:
    tree = cluster.up.upstream / "tree"
    package = tree / "sys-kernel/old-sources"
    shutil.copytree(DATA / "linux-old", package / "files/linux-2.4.99")
    (package / "old-sources-2.4.99.ebuild").write_text(SOURCES)
    with (tree / "profiles/categories").open("a") as file:
        file.write("sys-kernel\n")
    metadata.index(tree, cluster.up.upstream / "distfiles")
    metadata.stamp(tree, time.time())
    (cluster.flavours / "packaged.toml").write_text(
        'make_args = ["ARCH=i386"]\nmodules = []\n[source]\npackage = "sys-kernel/old-sources"\n'
        '[config]\nbase = "oldconfig"\nset = { MODULES = "y" }\n'
    )
    cluster.boots("packaged")
    cluster.ask("mirror", "sync")
    done = cluster.build("packaged")
    assert done["revision"]["sources_atom"] == "=sys-kernel/old-sources-2.4.99"
    assert done["build"]["built"] == ["sys-kernel/headnode-packaged-2.4.99-r1"]
    assert cluster.build("packaged")["new"] is False
    names = [Path(each).parts[1] for each in done["build"]["packages"]]
    assert "old-sources" not in names, "no blade gets the sources"


# As little as boots on a PC with a serial line and an initramfs.
TINY = """\
about = "As little as boots"
make_args = ["ARCH=i386"]
modules = ["crc7"]
[source]
file = "linux-small.tar"
sha256 = "{source}"
[[patches]]
file = "init.patch"
sha256 = "{patch}"
[config]
base = "tinyconfig"
fragments = ["serial.config"]
"""
SERIAL = """\
CONFIG_MODULES=y
CONFIG_CRC7=m
CONFIG_CRC8=m
CONFIG_PRINTK=y
CONFIG_TTY=y
# CONFIG_VT is not set
# CONFIG_UNIX98_PTYS is not set
# CONFIG_LEGACY_PTYS is not set
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_BLK_DEV_INITRD=y
# CONFIG_RD_GZIP is not set
# CONFIG_RD_BZIP2 is not set
# CONFIG_RD_LZMA is not set
# CONFIG_RD_XZ is not set
# CONFIG_RD_LZO is not set
# CONFIG_RD_LZ4 is not set
# CONFIG_RD_ZSTD is not set
CONFIG_BINFMT_ELF=y
"""
MAIN = "init/main.c"
BEFORE, AFTER = "Run %s as init process", "Run %s as patched init process"


def patch_of(source: Path) -> str:
    """A patch of the kernel's last words before init."""
    with tarfile.open(source) as archive:
        member = next(each for each in archive if each.name.endswith(f"/{MAIN}"))
        file = archive.extractfile(member)
        assert file is not None
        text = file.read().decode()
    assert BEFORE in text
    lines = difflib.unified_diff(
        text.splitlines(keepends=True),
        text.replace(BEFORE, AFTER).splitlines(keepends=True),
        f"a/{MAIN}",
        f"b/{MAIN}",
    )
    return "".join(lines)


def test_a_real_kernel_goes_the_whole_way_and_boots_from_a_blade_s_boot_with_its_patch(
    cluster: Cluster, small_source: Path, small_machine: Callable[[Path], str]
) -> None:
    flavours = cluster.flavours
    shutil.copy(small_source, flavours)
    (flavours / "init.patch").write_text(patch_of(small_source))
    (flavours / "serial.config").write_text(SERIAL)
    text = TINY.format(source=sha256(small_source), patch=sha256(flavours / "init.patch"))
    cluster.boots("tiny")
    cluster.set_up_blades()
    cluster.ask("mirror", "sync")
    (flavours / "tiny.toml").write_text(f"{text}set = {{ BLK_DEV_LOOP = 'm' }}\n")
    code, said = cluster.refused("kernel", "build", "tiny")
    assert code == 1
    assert "CONFIG_BLK_DEV_LOOP=m (tiny.toml) came out as # CONFIG_BLK_DEV_LOOP is not set" in said
    (flavours / "tiny.toml").write_text(text)
    done = cluster.build("tiny")
    release = done["revision"]["release"]
    assert release.endswith("-tiny-r1")
    assert [each for each in done["build"]["built"] if "headnode-tiny" in each]
    cluster.ask("publish")
    report = cluster.pull("blade01")
    assert (report["kernels"]["due"], report["kernels"]["pending"]) == (release, True)
    modules = cluster.on("blade01", f"cd /lib/modules/{release}; find . -name '*.ko'")
    assert modules == "./kernel/lib/crc7.ko"
    magic = cluster.on("blade01", f"modinfo -k {release} -F vermagic crc7")
    assert magic.split()[0] == release
    image = cluster.up.lab.node("blade01").store / f"upper/boot/vmlinuz-{release}"
    console = small_machine(image).replace("\r\n", "\n")
    assert f"Linux version {release} (headnode@headnode)" in console
    assert AFTER.replace("%s", "/init") in console
    assert f"release: {release}\n" in console
