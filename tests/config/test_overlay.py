import hashlib
import os
import re
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from config.load import from_values
from config.overlay import OVERLAY, SHIPPED, Dist, Revision, about, ebuild, overlay_files
from config.portage import Rendered

GENTOO_NAMES = {
    "gemato": "app-portage/gemato",
    "portage": "sys-apps/portage",
    "tzdata": "sys-libs/timezone-data",
}
REVISION = Revision(
    flavour="site",
    version="6.1.192",
    number=3,
    release="6.1.192-site-r3",
    local="-site-r3",
    key="k" * 64,
    compiler="gcc-13",
    made=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    archive="linux-6.1.tar.xz",
    patches=("one.patch", "it's.patch"),
    dists=(Dist(file="linux-6.1.tar.xz", size_bytes=7, blake2b="bb", sha512="cc"),),
    make_args=("ARCH=i386", "KCFLAGS=-O2 -g0"),
    modules=("crc7", "nfs"),
    initramfs="dracut --kver {release} {file}",
)


PROGRAMS = Rendered(
    files={"/usr/local/sbin/headnode-pull": "#!/bin/sh\n", "/usr/local/lib/headnode/a.py": "a\n"},
    links={"/etc/systemd/system/a.wants/b": "../b"},
)


def overlay(addresses: dict[str, str] | None = None, tools: Dist | None = None) -> dict[str, bytes]:
    values = {"classes": {"blade": {"kernel": "site"}}, "openmosix": {"addresses": addresses or {}}}
    kernels = {"site": (REVISION, {"6.1.192-r3.config": b"CONFIG_A=y\n"}), "blade": None}
    return overlay_files(from_values(values), kernels, PROGRAMS, tools)


def test_a_kernel_s_ebuild_says_what_it_is_made_of() -> None:
    assert ebuild(REVISION) == (
        "# Rendered by headnode: changes here are lost.\n"
        f"# key {'k' * 64}\n"
        "EAPI=8\n"
        "\n"
        "KERNEL_PART=image\n"
        "KERNEL_RELEASE=6.1.192-site-r3\n"
        "KERNEL_LOCAL=-site-r3\n"
        "KERNEL_ARCHIVE=linux-6.1.tar.xz\n"
        "KERNEL_SOURCES=''\n"
        "KERNEL_CONFIG=6.1.192-r3.config\n"
        "KERNEL_ABOUT=6.1.192-r3.json\n"
        "KERNEL_CC=gcc-13\n"
        "KERNEL_MODULES='crc7 nfs'\n"
        "KERNEL_DATE='Fri Jan  2 03:04:05 UTC 2026'\n"
        "KERNEL_PATCHES=( one.patch 'it'\"'\"'s.patch' )\n"
        "KERNEL_MAKE=( ARCH=i386 'KCFLAGS=-O2 -g0' )\n"
        "inherit headnode-kernel\n"
        "\n"
        'SRC_URI="linux-6.1.tar.xz"\n'
    )
    of_package = REVISION.model_copy(update={"dists": (), "sources_atom": "=a/b-1"})
    assert ebuild(of_package).endswith('SRC_URI=""\nBDEPEND+=" =a/b-1"\n')


def test_a_blade_is_told_what_its_kernel_is() -> None:
    assert about(REVISION) == (
        '{\n "flavour": "site",\n "release": "6.1.192-site-r3",\n'
        ' "package": "sys-kernel/headnode-site-6.1.192-r3",\n'
        f' "key": "{"k" * 64}",\n'
        ' "initramfs": [\n  "dracut",\n  "--kver",\n  "{release}",\n  "{file}"\n ]\n}\n'
    )


def test_the_overlay_has_each_kernel_and_stands_in_for_one_that_was_never_built() -> None:
    files = overlay()
    assert sorted(name for name in files if name.startswith("sys-kernel")) == [
        "sys-kernel/headnode-blade/headnode-blade-0.ebuild",
        "sys-kernel/headnode-site/Manifest",
        "sys-kernel/headnode-site/files/6.1.192-r3.config",
        "sys-kernel/headnode-site/files/6.1.192-r3.json",
        "sys-kernel/headnode-site/headnode-site-6.1.192-r3.ebuild",
    ]
    assert files["sys-kernel/headnode-site/Manifest"] == (
        b"DIST linux-6.1.tar.xz 7 BLAKE2B bb SHA512 cc\n"
    )
    assert (
        b'die "This flavour\'s kernel was never built: headnode kernel build blade"'
        in (files["sys-kernel/headnode-blade/headnode-blade-0.ebuild"])
    )
    assert files["metadata/layout.conf"].startswith(b"masters = gentoo\nrepo-name = headnode\n")


def test_packages_of_modules_have_a_virtual_whose_sub_slot_is_the_kernel_s_revision() -> None:
    cluster = from_values({"classes": {"blade": {"kernel": "site"}}})
    kernels = {"site": (REVISION, {"6.1.192-r3.config": b"CONFIG_A=y\n"})}
    files = overlay_files(cluster, kernels, PROGRAMS)
    virtual = files["virtual/dist-kernel/dist-kernel-6.1.192-r3.ebuild"].decode()
    assert 'SLOT="0/6.1.192-r3"\n' in virtual
    assert 'RDEPEND="=sys-kernel/headnode-site-6.1.192-r3"\n' in virtual
    assert 'BDEPEND="=sys-kernel/tree-site-6.1.192-r3"\n' in virtual
    tree = files["sys-kernel/tree-site/tree-site-6.1.192-r3.ebuild"].decode()
    assert "KERNEL_PART=tree\n" in tree
    assert 'BDEPEND+=" =sys-kernel/headnode-site-6.1.192-r3"\n' in tree
    for name in ("Manifest", "files/6.1.192-r3.config"):
        same = files[f"sys-kernel/headnode-site/{name}"]
        assert files.get(f"sys-kernel/tree-site/{name}") == same
    # With several flavours there is no one kernel that it could stand for.
    assert not [name for name in overlay() if "dist-kernel" in name or "tree-" in name]


def bashrc(image: Path) -> subprocess.CompletedProcess[str]:
    """Run the builder's hook on what a package installs."""
    hook = Path(SHIPPED.parent, "modules.bashrc")
    script = f'die() {{ echo "died: $*" >&2; exit 1; }}; . "{hook}"; post_src_install'
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": path, "ED": f"{image}/"},
        capture_output=True,
        text=True,
    )


def test_whatever_installs_a_module_installs_it_for_the_kernel_in_whose_folder_it_lies(
    tmp_path: Path,
) -> None:
    assert bashrc(tmp_path).stderr == ""
    module(tmp_path / "lib/modules/6.1.192-site-r3/extra/good.ko", "6.1.192-site-r3 SMP ")
    module(tmp_path / "usr/lib/modules/6.1.1/good.ko", "6.1.1 SMP ")
    assert bashrc(tmp_path).stderr == ""
    module(tmp_path / "lib/modules/6.1.192-site-r3/extra/bad.ko", "6.1.192-site-r2 SMP ")
    done = bashrc(tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "died: Modules of another kernel than 6.1.192-site-r3: bad.ko (6.1.192-site-r2)\n",
    )


def test_the_blades_programs_are_a_package_and_the_headnode_is_none() -> None:
    files = {name: text for name, text in overlay().items() if name.startswith("app-admin/")}
    [ebuild_of_it] = [name for name in files if name.endswith(".ebuild")]
    folder = "app-admin/headnode-pull"
    assert sorted(files.keys() - {ebuild_of_it}) == [
        f"{folder}/files/usr/local/lib/headnode/a.py",
        f"{folder}/files/usr/local/sbin/headnode-pull",
    ]
    said = files[ebuild_of_it].decode()
    assert "\tfperms 0755 /usr/local/sbin/headnode-pull\n" in said
    assert "\tdosym ../b /etc/systemd/system/a.wants/b\n" in said


def test_a_set_brings_the_overlay_when_it_has_a_kernel_or_the_pull(tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.write_text("app-admin/headnode-pull\n")
    for cls, has in (
        ({"packages": ["app-misc/hello"]}, False),
        ({"packages": ["app-admin/headnode-pull"]}, True),
        ({"packages": ["app-misc/hello"], "world": world}, True),
        ({"kernel": "blade"}, True),
    ):
        assert (OVERLAY in from_values({"classes": {"blade": cls}}).mirror.repos) is has


def test_the_headnode_s_ebuild_needs_what_its_wheel_needs() -> None:
    """Names as the Gentoo tree has them; the version is the one of pyproject.toml."""
    project = tomllib.loads((SHIPPED.parents[1] / "pyproject.toml").read_text())["project"]
    path = SHIPPED / f"app-admin/headnode/headnode-{project['version']}.ebuild"
    needs = path.read_text().partition('RDEPEND="')[2].partition('"')[0].split()
    lacking = []
    for words in project["dependencies"]:
        name, first, *others = re.split(r"(?=[<>])|,", words)
        atom = GENTOO_NAMES.get(name, f"dev-python/{name.lower().replace('_', '-')}")
        if name == "tzdata":
            lacking += [atom] if atom not in needs else []
            continue
        for limit in (first, *filter(None, others)):
            sign, version = re.fullmatch(r"([<>=]+)(.+)", limit).groups()  # type: ignore[union-attr]
            wanted = f"{sign}{atom}-{version}"
            lacking += [wanted] if wanted not in needs else []
    assert lacking == []


def test_the_map_is_a_package_whose_version_is_its_content() -> None:
    def ebuilds(files: dict[str, bytes]) -> list[str]:
        return [name for name in files if "openmosix-map" in name]

    one, same = overlay({"blade[01-58]": "10.0.1.1"}), overlay({"blade[01-58]": "10.0.1.1"})
    other = overlay({"blade[01-57]": "10.0.1.1"})
    assert ebuilds(one) == ebuilds(same) != ebuilds(other)
    [name] = ebuilds(one)
    digest = hashlib.sha256(b"1\t10.0.1.1\t58\n").hexdigest()[:8]
    assert name == f"sys-cluster/openmosix-map/openmosix-map-0_p{int(digest, 16)}.ebuild"
    assert b"<<-'MAP' || die\n\t1\t10.0.1.1\t58\n\tMAP\n" in one[name]


def test_openmosix_s_tools_are_there_where_their_archive_is() -> None:
    def tools(files: dict[str, bytes]) -> list[str]:
        return sorted(name for name in files if "openmosix-user" in name)

    archive = Dist(file="t.tar.gz", size_bytes=5, blake2b="b", sha512="c")
    assert tools(overlay()) == []
    assert tools(overlay(tools=archive)) == [
        "sys-cluster/openmosix-user/Manifest",
        "sys-cluster/openmosix-user/files/openmosix.initd",
        "sys-cluster/openmosix-user/openmosix-user-0.3.6_p2.ebuild",
    ]


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.e*")), ids=lambda path: path.name)
def test_what_is_shipped_is_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


def eclass(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line with the eclass's functions; `die` says why and ends it."""
    script = (
        'die() { echo "died: $*" >&2; exit 1; }; EXPORT_FUNCTIONS() { :; }; EAPI=8; '
        f'. "{SHIPPED}/eclass/headnode-kernel.eclass"; {line}'
    )
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def module(path: Path, vermagic: str) -> None:
    """A module's `.modinfo`, which is all that modinfo reads, made by the assembler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f'.section .modinfo,"a"\n.asciz "vermagic={vermagic}"\n'
    subprocess.run(["as", "-o", path, "-"], input=text, text=True, check=True)


def test_a_module_of_another_kernel_is_refused_by_name(tmp_path: Path) -> None:
    module(tmp_path / "kernel/good.ko", "6.1.192-site-r3 SMP mod_unload ")
    check = "headnode-kernel_check_modules . 6.1.192-site-r3"
    assert eclass(check, tmp_path).returncode == 0
    module(tmp_path / "extra/bad.ko", "6.1.192-site-r2 SMP mod_unload ")
    done = eclass(check, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "died: Modules of another kernel than 6.1.192-site-r3: bad.ko (6.1.192-site-r2)\n"
    )


def test_a_module_of_linux_2_4_is_known_by_its_kernel_version(tmp_path: Path) -> None:
    (tmp_path / "om.o").write_bytes(b"\x7fELF\0kernel_version=2.4.32-om-r1\0author=x\0")
    assert eclass("headnode-kernel_check_modules . 2.4.32-om-r1", tmp_path).stderr == ""
    done = eclass("headnode-kernel_check_modules . 2.4.32-om-r2", tmp_path)
    assert done.stderr == (
        "died: Modules of another kernel than 2.4.32-om-r2: om.o (2.4.32-om-r1)\n"
    )


def test_an_image_of_another_release_is_refused(tmp_path: Path) -> None:
    image = bytearray(4096)
    image[526:528] = (0x400).to_bytes(2, "little")
    image[0x600:0x620] = b"6.1.192-site-r3 (x@y) #1 SMP 202"
    (tmp_path / "bzImage").write_bytes(image)
    assert eclass("headnode-kernel_check_image bzImage 6.1.192-site-r3", tmp_path).stderr == ""
    done = eclass("headnode-kernel_check_image bzImage 6.1.192-site-r4", tmp_path)
    assert done.stderr == (
        "died: The image is of release '6.1.192-site-r3', and should be of '6.1.192-site-r4'\n"
    )


def test_named_modules_stay_with_those_that_they_need_and_the_others_go(tmp_path: Path) -> None:
    for name in ("lib/crc7", "fs/nfs", "net/sunrpc", "net/other"):
        path = tmp_path / f"kernel/{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "modules.dep").write_text(
        "kernel/lib/crc7.ko:\nkernel/fs/nfs.ko: kernel/net/sunrpc.ko\nkernel/net/sunrpc.ko:\n"
        "kernel/net/other.ko:\n"
    )
    assert eclass("headnode-kernel_keep_modules . nfs", tmp_path).stderr == ""
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ko"))
    assert left == ["kernel/fs/nfs.ko", "kernel/net/sunrpc.ko"]
    done = eclass("headnode-kernel_keep_modules . ext4", tmp_path)
    assert done.stderr == (
        "died: There is no module ext4: is it built in, or not configured as m?\n"
    )


def test_only_what_makes_an_object_goes_through_distcc(tmp_path: Path) -> None:
    for name in ("distcc", "bin", "T"):
        (tmp_path / name).mkdir()
    for name in ("distcc", "bin"):
        path = tmp_path / name / "gcc-13"
        path.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        path.chmod(0o755)
    both = f'T={tmp_path}/T KERNEL_CC=gcc-13 PATH="{tmp_path}/distcc:{tmp_path}/bin:$PATH"'
    line = f"{both}; cc=$(headnode-kernel_cc); $cc --version; $cc -O2 -c a.c"
    assert eclass(line, tmp_path).stdout == "bin --version\ndistcc -O2 -c a.c\n"
    alone = f'KERNEL_CC=gcc-13 PATH="{tmp_path}/bin:$PATH"; headnode-kernel_cc'
    assert eclass(alone, tmp_path).stdout == "gcc-13\n"
