"""A kernel from its flavour to the blades, through the real builder, mirror, publish and pull.

The tests tell one story, in their order, in one lab. Most of it is told with a tree in the shape of
Linux 2.4 that compiles in a second (tests/data/kernel), and the end with a real kernel.
"""

import difflib
import hashlib
import json
import re
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
from mirror.sets import read_set
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
        self.set("kernel", flavour)

    def set(self, option: str, value: object) -> None:
        """Set an option of cluster.toml that is there, and only once."""
        text = self.up.config.read_text()
        line = f"{option} = {json.dumps(value)}"
        pattern = rf"^{option} = (\[[^]]*\]|.*)$"  # an array may be on several lines
        written, count = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert count == 1, option
        self.up.config.write_text(written)

    def ask(self, *words: str) -> Any:
        return json.loads(self.up.headnode(*words, "--json").output)

    def build(self, *words: str) -> Any:
        return self.ask("kernel", "build", *words)

    def refused(self, *words: str) -> tuple[int, str]:
        """The exit code and the error of a command that is to fail, the folders named shortly."""
        done = self.up.headnode(*words, check=False)
        errors = "\n".join(line for line in done.errors.splitlines() if "warning" not in line)
        return done.code, errors.replace(str(self.up.lab.folder), "<lab>")

    def trees(self) -> dict[str, str]:
        """The snapshots that the first ring has, by repository."""
        state = self.up.lab.folder / "state"
        current = state / "binhost/blade/rings/canary/current/deployment.json"
        return read_set(state, json.loads(current.read_text())["snapshots"])

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
    # More jobs than cores, so that make's -l holds nothing back where other things are at work.
    more = {"build": {"jobs": 8}}
    with rehearsal.running(folder, len(BLADES), cache=tarballs, more=more) as up:
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


# As any package of modules is made: against what lies in /usr/src/linux, for whose release it is.
MODULE = """\
EAPI=8
DESCRIPTION="A module of one's own"
HOMEPAGE="https://blades.example/"
S="${WORKDIR}"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64"
RESTRICT="strip"
RDEPEND="virtual/dist-kernel:="
DEPEND="${RDEPEND}"
src_compile() {
	cp "${FILESDIR}"/{own.c,Makefile} . || die
	local tree=/usr/src/linux
	emake -C "${tree}" $(<"${tree}/headnode.make") M="${S}" modules
}
src_install() {
	local tree=$(readlink -f /usr/src/linux) file=own.ko
	[[ -e ${file} ]] || file=own.o # as it is called by Linux 2.4
	insinto "/lib/modules/${tree##*/linux-}/extra"
	doins "${file}"
}
"""
OWN_C = """\
#include <linux/module.h>
static int __init own_init(void) { return 0; }
static void __exit own_exit(void) { }
module_init(own_init);
module_exit(own_exit);
MODULE_LICENSE("GPL");
"""
OWN = "sys-kernel/own-module"
OWN_AT = "/lib/modules/{}/extra/own.{}"


def test_a_module_of_one_s_own_is_built_for_the_kernel(cluster: Cluster) -> None:
    cluster.set("gates", [])  # the first publish has passed them; what follows is to be short
    tree = cluster.up.upstream / "tree"
    (tree / OWN / "files").mkdir(parents=True)
    (tree / OWN / "own-module-1.ebuild").write_text(MODULE)
    (tree / OWN / "files/own.c").write_text(OWN_C)
    (tree / OWN / "files/Makefile").write_text("obj-m := own.o\n")
    with (tree / "profiles/categories").open("a") as file:
        file.write("sys-kernel\nvirtual\n")
    metadata.index(tree, cluster.up.upstream / "distfiles")
    metadata.stamp(tree, time.time())
    cluster.set("packages", ["sys-apps/nodekeys", OWN])
    cluster.ask("mirror", "sync")
    done = cluster.ask("build")
    assert {f"{OWN}-1", "virtual/dist-kernel-2.4.99-r2"} <= set(done["built"])
    assert not [each for each in done["packages"] if "/tree-old/" in each], "no blade gets the tree"
    cluster.ask("publish")


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
    trees = cluster.trees()
    metadata.stamp(cluster.up.upstream / "tree", time.time() + 1)
    cluster.ask("mirror", "sync")
    words = ("kernel", "build", "old", "--patch", str(fix), "--rollout", "--json")
    done = cluster.up.headnode(*words)
    assert done.errors.splitlines()[:5] == [
        "  1. add fix.patch to the flavour old; patch and configure the source of old",
        "  2. build sys-kernel/headnode-old if that is new, and what else the class lacks",
        "  3. pass the gates, and put the new generation in front of the ring canary",
        "  4. have 1 blade of the ring canary pull it",
        "  5. have 1 blade of the ring fleet pull it",
    ]
    assert done.errors.splitlines()[5].startswith("ETA: not before ")  # no rollout before
    said = json.loads(done.output)
    for each in said["blades"]:
        assert each["result"] == "updated"
        assert each["changes"] == [
            "-sys-kernel/headnode-old-2.4.99-r2",
            "+sys-kernel/headnode-old-2.4.99-r3",
            f"+{OWN}-1",
            "+virtual/dist-kernel-2.4.99-r3",
        ]
        # Built anew for the new kernel, and come with it.
        module = cluster.on(each["blade"], f"strings {OWN_AT.format('2.4.99-old-r3', 'o')}")
        assert "kernel_version=2.4.99-old-r3" in module.splitlines()
    assert cluster.trees()["gentoo"] == trees["gentoo"], "nothing else comes along"
    assert cluster.trees()["headnode"] != trees["headnode"]
    [old] = [each for each in cluster.ask("kernel", "list") if each["name"] == "old"]
    assert old["revision"]["release"] == "2.4.99-old-r3"
    assert old["revision"]["patches"] == ["good.patch", "fix.patch"]
    assert json.loads(cluster.on("blade01", "headnode-kernel"))["kept"] == [
        "2.4.99-old-r3",
        "2.4.99-old-r2",
    ]
    assert "fixed" in cluster.on("blade01", "strings /boot/vmlinuz-2.4.99-old-r3")
    old = cluster.on("blade01", "ls /boot /lib/modules/2.4.99-old-r2/kernel").split()
    assert {"vmlinuz-2.4.99-old-r2", "om.o"} <= set(old), "Portage left it where it was"
    dropped = cluster.build("old", "--drop", "fix.patch")
    assert dropped["revision"]["release"] == "2.4.99-old-r2"
    assert "sys-kernel/headnode-old-2.4.99-r2" not in dropped["build"]["built"]


def test_openmosix_s_map_is_a_package_of_the_overlay(cluster: Cluster) -> None:
    [ebuild] = (cluster.up.lab.folder / "state/overlay").glob("sys-cluster/openmosix-map/*.ebuild")
    cluster.set("packages", ["sys-apps/nodekeys", "sys-cluster/openmosix-map"])
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


def test_nights_go_on_when_the_tree_drops_the_sources_that_the_kernel_was_made_from(
    cluster: Cluster,
) -> None:
    tree = cluster.up.upstream / "tree"
    sources = tree / "sys-kernel/old-sources/old-sources-2.4.99.ebuild"
    sources.rename(sources.with_name("old-sources-2.4.100.ebuild"))
    metadata.index(tree, cluster.up.upstream / "distfiles")
    metadata.stamp(tree, time.time())
    assert cluster.ask("mirror", "sync")["changed"] == ["gentoo"]
    assert cluster.ask("build")["built"] == []


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


@pytest.fixture(scope="module")
def tiny(cluster: Cluster, small_source: Path) -> str:
    """The flavour `tiny`, which the class boots from here on: its text."""
    flavours = cluster.flavours
    shutil.copy(small_source, flavours)
    (flavours / "init.patch").write_text(patch_of(small_source))
    (flavours / "serial.config").write_text(SERIAL)
    text = TINY.format(source=sha256(small_source), patch=sha256(flavours / "init.patch"))
    cluster.boots("tiny")
    cluster.set_up_blades()
    cluster.ask("mirror", "sync")
    (flavours / "tiny.toml").write_text(text)
    return text


def test_a_symbol_of_a_real_kernel_that_did_not_survive_is_refused_by_name(
    cluster: Cluster, tiny: str
) -> None:
    path = cluster.flavours / "tiny.toml"
    path.write_text(f"{tiny}set = {{ BLK_DEV_LOOP = 'm' }}\n")
    code, said = cluster.refused("kernel", "build", "tiny")
    path.write_text(tiny)
    assert code == 1
    assert "CONFIG_BLK_DEV_LOOP=m (tiny.toml) came out as # CONFIG_BLK_DEV_LOOP is not set" in said


HELPED = {
    '# helpers = "blade[01-58]"': 'helpers = "blade[01-02]"',
    "networks = []": 'networks = ["10.77.0.0/16"]',
    'user = "distcc"': 'user = "distccd"',  # Debian's
    "probe_timeout_s = 10": "probe_timeout_s = 60",
}


@pytest.mark.slow
def test_a_real_kernel_is_compiled_by_helpers_and_is_the_image_that_the_headnode_makes_alone(
    cluster: Cluster, tiny: str, start_distccd: Callable[[Rehearsal, str], None]
) -> None:
    alone = text = cluster.up.config.read_text()
    for before, after in HELPED.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    cluster.up.config.write_text(text)
    cluster.set_up_blades()
    for blade in BLADES:
        start_distccd(cluster.up, blade)
    done = cluster.build("tiny")
    helped, said = image_of(cluster, done), done["build"]["distributed"]
    [name] = [each for each in done["build"]["packages"] if "/headnode-tiny/" in each]
    (cluster.up.lab.folder / "state/build/blade/staging" / name).unlink()
    assert sorted(said["jobs"]) == list(BLADES)
    assert min(said["jobs"].values()) > 0
    assert sum(said["jobs"].values()) > said["local"] + said["fallbacks"]
    cluster.up.config.write_text(alone)
    done = cluster.build("tiny")
    assert done["build"]["distributed"] is None
    assert image_of(cluster, done) == helped


def image_of(cluster: Cluster, done: Any) -> bytes:
    """The image that was built just now, as it is installed in the builder."""
    assert [each for each in done["build"]["built"] if "/headnode-tiny-" in each]
    upper = cluster.up.lab.folder / "state/build/blade/upper"
    at = f"lib/modules/{done['revision']['release']}/vmlinuz"
    return next(path for path in (upper / at, upper / "usr" / at) if path.exists()).read_bytes()


def test_a_real_kernel_goes_the_whole_way_into_a_blade_s_boot(cluster: Cluster, tiny: str) -> None:
    done = cluster.build("tiny")
    release = done["revision"]["release"]
    assert release.endswith("-tiny-r1")
    assert [each for each in done["build"]["packages"] if "headnode-tiny" in each]
    cluster.ask("publish")
    report = cluster.pull("blade01")
    assert (report["kernels"]["due"], report["kernels"]["pending"]) == (release, True)
    modules = cluster.on("blade01", f"cd /lib/modules/{release}; find . -name '*.ko'")
    assert modules == "./kernel/lib/crc7.ko"
    magic = cluster.on("blade01", f"modinfo -k {release} -F vermagic crc7")
    assert magic.split()[0] == release


@pytest.mark.slow  # a ready-made kernel boots in every run: test_boot.py
def test_it_boots_from_there_with_its_patch(
    cluster: Cluster, small_machine: Callable[[Path], str]
) -> None:
    due = json.loads(cluster.on("blade01", "headnode-kernel"))["due"]
    assert due.endswith("-tiny-r1")
    image = cluster.up.lab.node("blade01").store / f"upper/boot/vmlinuz-{due}"
    console = small_machine(image).replace("\r\n", "\n")
    assert f"Linux version {due} (headnode@headnode)" in console
    assert AFTER.replace("%s", "/init") in console
    assert f"release: {due}\n" in console


@pytest.mark.slow
def test_a_module_of_one_s_own_is_built_for_a_real_kernel_and_found_by_it(
    cluster: Cluster,
) -> None:
    cluster.set("packages", ["sys-apps/nodekeys", OWN])
    cluster.ask("mirror", "sync")
    built = cluster.ask("build")["built"]
    assert f"{OWN}-1" in built
    assert not [each for each in built if "headnode-tiny" in each], "the kernel is not built again"
    cluster.ask("publish")
    report = cluster.pull("blade01")
    assert f"+{OWN}-1" in report["changes"]
    release = report["kernels"]["due"]
    at = OWN_AT.format(release, "ko")
    magic = cluster.on("blade01", f"modinfo -F vermagic {at}").split()
    of_the_kernel_s = cluster.on("blade01", f"modinfo -k {release} -F vermagic crc7").split()
    assert magic == of_the_kernel_s
    assert magic[0] == release
