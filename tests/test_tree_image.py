"""Trees by image on real blades: the headnode's own server, real mounts, real emerge."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blades.boot import TREE_PATH
from headnode.node.running import Node, start
from headnode.node.spec import NodeSpec
from headnode.provision import environment_binds
from headnode.rehearsal import Rehearsal
from mirror.contents import Kind
from mirror.image import Image, ensure_image
from mirror.sets import write_set
from mirror.tree import Folder

pytestmark = [pytest.mark.lab, pytest.mark.slow]  # the short story: tests/test_trees.py

BLADE = "blade01"
MOUNTED = {"result": "mounted", "error": ""}
UNCHANGED = {"result": "unchanged", "error": ""}


def sh(node: Node, line: str, *, check: bool = True) -> str:
    done = node.run(["sh", "-c", line], timeout_s=600, check=check)
    return (done.output + ("" if check else done.errors)).strip()


def put(node: Node, *words: str, code: int = 0) -> dict[str, Any]:
    done = node.run([TREE_PATH, *words], timeout_s=300, check=False)
    assert done.code == code, done.output + done.errors
    report: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return report


def use(node: Node, image: Image, *, code: int = 0, **other: str) -> dict[str, Any]:
    url = f"http://headnode:8080/images/{image.sha256}.squashfs"
    words = [other.get("url", url), other.get("sha256", image.sha256), str(image.size_bytes)]
    return put(node, "use", *words, "gentoo", code=code)


def mask(node: Node) -> str:
    return sh(node, "cat /var/db/repos/gentoo/profiles/package.mask")


@pytest.fixture(scope="module")
def images(running: Rehearsal) -> list[Image]:
    """Three images of a tree: each masks another package, and has news and a GLSA."""
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        running.headnode(*words)
    state = running.lab.folder / "state"
    folder = Folder.of(state, "gentoo")
    made = []
    for number in (1, 2, 3):
        stamp = f"2099010{number}T000000Z"
        copy = folder.snapshots / stamp
        shutil.copytree(folder.current.resolve(), copy, symlinks=True)
        (copy / "profiles/package.mask").write_text(f"app-misc/nonesuch{number}\n")
        updates = copy / "profiles/updates"
        updates.mkdir()
        (updates / "1Q-2026").write_text("move app-misc/older app-misc/newer\n")
        news = copy / "metadata/news/2026-01-01-blades"
        news.mkdir(parents=True)
        (news / "2026-01-01-blades.en.txt").write_text(NEWS)
        (copy / "metadata/glsa").mkdir()
        (copy / "metadata/glsa/glsa-202601-01.xml").write_text(GLSA)
        made.append(ensure_image(state, write_set(state, {"gentoo": stamp}), Kind.PROFILES))
    return made


NEWS = """Title: Blades have news
Author: The headnode <root@headnode>
Posted: 2026-01-01
Revision: 1
News-Item-Format: 2.0

Read it.
"""
GLSA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE glsa SYSTEM "http://www.gentoo.org/dtd/glsa.dtd">
<glsa id="202601-01">
<title>bladeinfo: too old</title><synopsis>It is too old.</synopsis>
<product type="ebuild">bladeinfo</product>
<announced>2026-01-01</announced><revised count="01">2026-01-01</revised>
<access>local</access>
<affected><package name="sys-apps/bladeinfo" auto="yes" arch="*">
<unaffected range="ge">9</unaffected><vulnerable range="lt">9</vulnerable></package></affected>
<background><p>b</p></background><description><p>d</p></description>
<impact type="low"><p>i</p></impact><workaround><p>w</p></workaround>
<resolution><p>r</p></resolution><references></references>
</glsa>
"""


def test_a_blade_with_the_profiles_alone_installs_updates_and_cleans_up(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node(BLADE)
    assert use(blade, images[0]) == MOUNTED
    assert sh(blade, "find -L /var/db/repos/gentoo -name '*.ebuild'") == ""
    sh(blade, "emerge --quiet --getbinpkgonly @blade")
    assert "bladeinfo 1.0" in sh(blade, "bladeinfo --version")
    plan = sh(blade, "emerge -puDN @world")
    assert "[ebuild" not in plan
    assert "[binary" not in plan
    sh(blade, "emerge --quiet --getbinpkgonly --oneshot app-misc/colours")
    sh(blade, "emerge --quiet --unmerge app-misc/colours")
    sh(blade, "emerge --quiet --getbinpkgonly -uDN @world")
    assert "No packages selected for removal" in sh(
        blade, "emerge --depclean --pretend", check=False
    )


def test_glsas_and_news_are_read_from_the_image(running: Rehearsal, images: list[Image]) -> None:
    blade = running.lab.node(BLADE)
    portage = "PORTAGE_OVERRIDE_EPREFIX= PORTAGE_USERNAME=root PORTAGE_GRPNAME=root"
    glsa_check = f"{portage} {sys.prefix}/bin/glsa-check"  # a lab has no other
    assert "bladeinfo: too old" in sh(blade, f"{glsa_check} --list all", check=False)
    assert "1 news items need reading" in sh(blade, "emerge --check-news", check=False)


def test_the_next_version_and_the_one_before_are_one_rename_apart(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node(BLADE)
    assert use(blade, images[0]) == UNCHANGED
    assert use(blade, images[1]) == MOUNTED
    assert mask(blade) == "app-misc/nonesuch2"
    assert use(blade, images[0], url="http://headnode:1/is-not-asked") == MOUNTED
    assert mask(blade) == "app-misc/nonesuch1"
    assert use(blade, images[2]) == MOUNTED
    assert sh(blade, "ls /var/lib/headnode/images").split() == sorted(
        f"{images[number].sha256}.squashfs" for number in (0, 2)
    )
    assert sh(blade, "grep -c squashfs /proc/mounts") == "2"


def test_package_moves_are_noted_for_two_places_however_many_images_there_were(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node(BLADE)
    for image in (*images, *images):
        use(blade, image)
        sh(blade, "emerge --quiet --getbinpkgonly --oneshot app-misc/colours")
    noted = json.loads(sh(blade, "cat /var/cache/edb/mtimedb"))["updates"]
    assert sorted(noted) == [
        f"/var/lib/headnode/trees/{place}/gentoo/profiles/updates/1Q-2026" for place in ("a", "b")
    ]


def test_a_wrong_digest_is_refused_and_the_old_tree_stays(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node(BLADE)
    assert use(blade, images[2])["result"] in ("mounted", "unchanged")
    url = f"http://headnode:8080/images/{images[2].sha256}.squashfs"
    report = use(blade, images[2], url=url, sha256="0" * 64, code=1)
    assert report == {
        "result": "failed",
        "error": f"{url} is not what it must be: its SHA-256 is {images[2].sha256}",
    }
    assert mask(blade) == "app-misc/nonesuch3"
    assert "part" not in sh(blade, "ls /var/lib/headnode/images")


def test_a_full_disk_is_said_and_the_old_tree_stays(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node(BLADE)
    sh(blade, "mount -t tmpfs -o size=4k tmpfs /var/lib/headnode/images")
    sh(blade, "echo x > /var/lib/headnode/images/rest")
    try:
        report = use(blade, images[1], code=1, sha256="1" * 64)
    finally:
        sh(blade, "umount /var/lib/headnode/images")
    assert "the disk of /var/lib/headnode/images is" in report["error"]
    assert mask(blade) == "app-misc/nonesuch3"


def test_without_loop_devices_the_image_is_unpacked(
    running: Rehearsal, images: list[Image]
) -> None:
    blade = running.lab.node("blade02")
    sh(blade, ": > /dev/loop-control")
    assert use(blade, images[0]) == {"result": "unpacked", "error": ""}
    assert use(blade, images[0]) == UNCHANGED
    assert use(blade, images[1])["result"] == "unpacked"
    assert mask(blade) == "app-misc/nonesuch2"
    assert sh(blade, "cat /proc/mounts | grep -c squashfs", check=False) == "0"


def test_a_folder_that_rsync_left_gives_way(running: Rehearsal, images: list[Image]) -> None:
    blade = running.lab.node("blade03")
    sh(blade, "mkdir -p /var/db/repos/gentoo/profiles; echo x > /var/db/repos/gentoo/old")
    assert use(blade, images[0]) == MOUNTED
    assert sh(blade, "ls -A /var/db/repos") == "gentoo"
    assert mask(blade) == "app-misc/nonesuch1"


@pytest.fixture
def rebooted(running: Rehearsal) -> Iterator[Node]:
    """The blade after a reboot, without a network: its files are all that is left of it."""
    running.lab.node(BLADE).stop()
    spec = NodeSpec(
        name=BLADE,
        store=running.lab.folder / "nodes" / BLADE,
        lower=Path("/"),
        binds=environment_binds(),
        hidden=(running.lab.folder,),
        throwaway=True,
    )
    node = start(spec)
    yield node
    node.stop()


def test_after_a_reboot_the_tree_is_back_without_the_headnode(
    rebooted: Node, images: list[Image]
) -> None:
    assert sh(rebooted, "ls /var/db/repos/gentoo/", check=False).startswith("ls: cannot access")
    assert put(rebooted, "restore") == MOUNTED
    assert put(rebooted, "restore") == UNCHANGED
    assert mask(rebooted) == "app-misc/nonesuch3"
    assert "bladeinfo" in sh(rebooted, "emerge --pretend --unmerge sys-apps/bladeinfo")
    sh(rebooted, "umount /var/lib/headnode/trees/a /var/lib/headnode/trees/b", check=False)
    sh(rebooted, "for f in /var/lib/headnode/images/*; do echo x >> $f; done")
    assert "missing or damaged" in put(rebooted, "restore", code=1)["error"]
