"""What a blade's trees are, from one deployment to the next: by image, and by rsync.

The tests tell one story, in their order, in a lab of one blade, with the commands that people type.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headnode import rehearsal
from headnode.node.running import Node, start
from headnode.node.spec import NodeSpec
from headnode.provision import environment_binds
from headnode.rehearsal import Rehearsal
from mirror.upstream import metadata
from mirror.upstream.assemble import read_assembled

pytestmark = pytest.mark.lab

BLADE = "blade01"
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
<title>nodekeys: too old</title><synopsis>It is too old.</synopsis>
<product type="ebuild">nodekeys</product>
<announced>2026-01-01</announced><revised count="01">2026-01-01</revised>
<access>local</access>
<affected><package name="sys-apps/nodekeys" auto="yes" arch="*">
<unaffected range="ge">9</unaffected><vulnerable range="lt">9</vulnerable></package></affected>
<background><p>b</p></background><description><p>d</p></description>
<impact type="low"><p>i</p></impact><workaround><p>w</p></workaround>
<resolution><p>r</p></resolution><references></references>
</glsa>
"""
TEXTS = {
    "metadata/news/2026-01-01-blades/2026-01-01-blades.en.txt": NEWS,
    "metadata/glsa/glsa-202601-01.xml": GLSA,
}
MASK = "/var/db/repos/gentoo/profiles/package.mask"
IMAGES = "/var/lib/headnode/images"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of one blade, whose ring has a generation of the base system alone."""
    with rehearsal.running(tmp_path_factory.mktemp("lab"), 1, cache=tarballs) as up:
        edit(up, r'"cluster-meta/blade"', '"@system"')
        edit(up, r"(?s)\ngates = \[.*?\]", '\ngates = ["integrity"]')
        edit(up, r"# access_log = .*", f'access_log = "{up.lab.folder}/access.log"')
        rehearsal.start_headnode(up)
        night(up, 1)
        yield up


def edit(up: Rehearsal, old: str, new: str) -> None:
    text, found = re.subn(old, new, up.config.read_text())
    assert found == 1
    up.config.write_text(text)


def ask(up: Rehearsal, *words: str) -> Any:
    return json.loads(up.headnode(*words, "--json").output)


def night(up: Rehearsal, number: int) -> None:
    """A new tree upstream, which masks another package, and the generation of that."""
    held = read_assembled(up.upstream)
    for name, text in {**TEXTS, "profiles/package.mask": f"app-misc/masked{number}\n"}.items():
        (held.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (held.tree / name).write_text(text)
    metadata.index(held.tree, held.distfiles)
    metadata.stamp(held.tree, 0)
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        up.headnode(*words)


def on(up: Rehearsal, line: str, *, check: bool = True) -> str:
    return sh(up.lab.node(BLADE), line, check=check)


def sh(node: Node, line: str, *, check: bool = True) -> str:
    done = node.run(["sh", "-c", line], timeout_s=600, check=check)
    return (done.output + ("" if check else done.errors)).strip()


def pull(up: Rehearsal) -> str:
    report = json.loads(on(up, "headnode-pull", check=False).splitlines()[-1])
    assert report["error"] == ""
    return str(report["result"])


def give_files(up: Rehearsal) -> None:
    """headnode blades config blade01 --tar | ssh blade01 tar -x -C /"""
    words = up.argv("blades", "config", BLADE, "--tar")
    tar = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    unpack = up.lab.node(BLADE).argv(["tar", "-x", "-C", "/"])
    subprocess.run(unpack, input=tar, check=True)


def image_due(up: Rehearsal) -> str:
    """The digest of the image that the ring's deployment names."""
    current = up.lab.folder / "state/binhost/blade/rings/canary/current"
    return str(json.loads((current / "deployment.json").read_text())["image"]["sha256"])


def images_sent(up: Rehearsal) -> dict[str, list[str]]:
    """The digests of the images that the headnode sent: whole by HTTP, in part by rsync."""
    whole = (up.lab.folder / "access.log").read_text()
    parts = (up.lab.folder / "state/rsyncd.log").read_text()
    return {
        "http": re.findall(r"GET /images/([0-9a-f]{64})", whole),
        "rsync": re.findall(r" on images/([0-9a-f]{64})\.squashfs ", parts),
    }


def test_a_pull_mounts_the_image_that_the_deployment_names(running: Rehearsal) -> None:
    assert pull(running) == "updated"
    digest = image_due(running)
    assert on(running, f"cat {MASK}") == "app-misc/masked1"
    assert on(running, f"sha256sum {IMAGES}/*").split() == [digest, f"{IMAGES}/{digest}.squashfs"]
    assert on(running, "grep -c ' squashfs ro,' /proc/mounts") == "1"
    assert on(running, "ls /var/db/repos/gentoo/").split() == ["licenses", "metadata", "profiles"]
    assert images_sent(running) == {"http": [digest], "rsync": []}
    assert pull(running) == "unchanged"


def test_glsas_and_news_are_read_from_the_image(running: Rehearsal) -> None:
    portage = "PORTAGE_OVERRIDE_EPREFIX= PORTAGE_USERNAME=root PORTAGE_GRPNAME=root"
    glsa_check = f"{portage} {sys.prefix}/bin/glsa-check"  # a lab has no other
    assert "nodekeys: too old" in on(running, f"{glsa_check} --list all", check=False)
    assert "1 news items need reading" in on(running, "emerge --check-news", check=False)


def test_of_the_next_image_only_what_differs_is_sent(running: Rehearsal) -> None:
    first = image_due(running)
    night(running, 2)
    assert pull(running) == "updated"
    assert on(running, f"cat {MASK}") == "app-misc/masked2"
    assert images_sent(running) == {"http": [first], "rsync": [image_due(running)]}


def test_a_tree_that_moved_back_is_there_without_a_download(running: Rehearsal) -> None:
    before = images_sent(running)
    running.headnode("rollback", "--ring", "canary")
    assert pull(running) == "updated"
    assert on(running, f"cat {MASK}") == "app-misc/masked1"
    assert images_sent(running) == before
    plan = on(running, "emerge --pretend --update --deep --newuse @world")
    assert "[ebuild" not in plan
    assert "[binary" not in plan


def test_a_class_that_turns_to_rsync_has_the_whole_tree_as_files(running: Rehearsal) -> None:
    edit(running, 'tree = "profiles"', 'tree = "rsync"')
    running.headnode("promote", "--ring", "canary")
    give_files(running)
    assert pull(running) == "updated"
    assert on(running, f"cat {MASK}") == "app-misc/masked2"
    assert "sys-apps" in on(running, "ls /var/db/repos/gentoo").split()
    assert on(running, "grep squashfs /proc/mounts", check=False) == ""
    assert on(running, f"ls {IMAGES}", check=False).startswith("ls: cannot access")


def test_a_tree_that_moved_back_comes_by_rsync_too(running: Rehearsal) -> None:
    running.headnode("rollback", "--ring", "canary")
    assert pull(running) == "updated"
    assert on(running, f"cat {MASK}") == "app-misc/masked1"


def test_images_take_the_place_of_what_rsync_left(running: Rehearsal) -> None:
    edit(running, 'tree = "rsync"', 'tree = "profiles"')
    running.headnode("promote", "--ring", "canary")
    give_files(running)
    assert pull(running) == "updated"
    assert on(running, "ls -A /var/db/repos") == "gentoo"
    assert on(running, "ls /var/db/repos/gentoo/").split() == ["licenses", "metadata", "profiles"]
    assert on(running, f"cat {MASK}") == "app-misc/masked2"


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


def test_after_a_reboot_the_tree_is_back_without_the_headnode(rebooted: Node) -> None:
    assert sh(rebooted, f"cat {MASK}", check=False).startswith("cat: ")
    assert sh(rebooted, "sh /etc/local.d/headnode-tree.start") == (
        '{"result": "mounted", "error": ""}'
    )
    assert sh(rebooted, f"cat {MASK}") == "app-misc/masked2"
    assert "nodekeys" in sh(rebooted, "emerge --pretend --unmerge sys-apps/nodekeys")
