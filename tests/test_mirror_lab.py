"""The distfiles in a lab of one blade: it builds from source with nothing but the headnode.

The tests tell one story, in their order, in one lab.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.model import TreeKind
from headnode import rehearsal
from headnode.files import remove_tree
from headnode.rehearsal import Rehearsal
from mirror.layout import path_of
from mirror.upstream import metadata
from mirror.upstream.assemble import bump, read_assembled
from mirror.upstream.packages import ebuild_path

pytestmark = pytest.mark.lab

BLADE = "blade01"
OLD = "bladecount-1.0.tar.gz"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of one blade whose headnode has published a generation of one package, and serves."""
    folder = tmp_path_factory.mktemp("lab")
    with rehearsal.running(folder, 1, cache=tarballs, tree=TreeKind.RSYNC) as up:
        text = up.config.read_text()
        up.config.write_text(
            text.replace('"cluster-meta/blade"', '"@system", "app-misc/bladecount"')
        )
        rehearsal.start_headnode(up)
        for words in (("mirror", "sync"), ("build",), ("publish",)):
            up.headnode(*words)
        yield up


def ask(running: Rehearsal, *words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(running.headnode(*words, "--json", check=False).output)


def on(running: Rehearsal, *command: str) -> str:
    """What a command prints on the blade."""
    return running.lab.node(BLADE).run(list(command), timeout_s=600).output.strip()


def asked_upstream(running: Rehearsal) -> tuple[str, str]:
    return tuple((running.upstream / name).read_text() for name in ("http.log", "rsyncd.log"))


def place(running: Rehearsal, name: str) -> Path:
    return running.lab.folder / "state/mirror/distfiles" / path_of(name)


def drop_upstream(running: Rehearsal, package: str, version: str) -> None:
    """Take an ebuild out of the upstream's tree."""
    held = read_assembled(running.upstream)
    ebuild_path(held.tree, package, version).unlink()
    (held.tree / "metadata/md5-cache" / f"{package}-{version}").unlink(missing_ok=True)
    metadata.index(held.tree, held.distfiles)
    metadata.stamp(held.tree, 0)


def test_a_blade_syncs_and_builds_from_source_with_only_the_headnode(running: Rehearsal) -> None:
    before = asked_upstream(running)
    on(running, "emerge", "--sync", "--quiet")
    source = ["--ignore-default-opts", "--getbinpkg=n", "--usepkg=n", "--oneshot"]
    features = "FEATURES=-getbinpkg -parallel-fetch"  # else what is fetched goes to another log
    done = on(running, "env", features, "emerge", *source, "app-misc/bladecount")
    assert ">>> Emerging (2 of 2) app-misc/bladecount-1.0::gentoo" in done
    assert "binary" not in done
    assert f"http://headnode:8080/distfiles/{path_of(OLD)}" in done
    assert "bladecount 1.0" in on(running, "bladecount", "--version")
    assert on(running, "ls", "/var/cache/distfiles").split().count(OLD) == 1
    assert asked_upstream(running) == before


def test_what_the_mirror_lacks_is_fetched_when_the_blade_asks_for_it(running: Rehearsal) -> None:
    place(running, OLD).unlink()
    before = asked_upstream(running)[0].count(OLD)
    on(running, "rm", f"/var/cache/distfiles/{OLD}")
    source = ["--ignore-default-opts", "--getbinpkg=n", "--usepkg=n", "--oneshot"]
    features = "FEATURES=-getbinpkg -parallel-fetch"
    done = on(running, "env", features, "emerge", *source, "app-misc/bladecount")
    assert f"http://headnode:8080/distfiles/{path_of(OLD)}" in done
    assert place(running, OLD).exists()
    assert asked_upstream(running)[0].count(OLD) == before + 1


def test_every_file_is_found_good(running: Rehearsal) -> None:
    done = ask(running, "mirror", "verify")
    files = list((running.lab.folder / "state/mirror/distfiles").glob("??/*"))
    assert done == {
        "files": len(files),
        "size_bytes": sum(path.stat().st_size for path in files),
        "damaged": {},
        "older": [],
        "repaired": [],
        "failed": {},
        "unnamed": [],
    }


def test_a_damaged_file_is_repaired_from_upstream(running: Rehearsal) -> None:
    good = place(running, OLD).read_bytes()
    place(running, OLD).write_bytes(bytes(len(good)))
    done = running.headnode("mirror", "verify")
    assert done.output.startswith(f"{OLD}: damaged (wrong content: its BLAKE2B is ")
    assert done.output.endswith("1 wrong, 1 repaired.\n")
    assert place(running, OLD).read_bytes() == good


def test_a_file_dropped_upstream_stays_while_a_generation_s_tree_names_it(
    running: Rehearsal,
) -> None:
    assert bump(running.upstream, "app-misc/bladecount") == "1.1"
    drop_upstream(running, "app-misc/bladecount", "1.0")
    done = ask(running, "mirror", "sync")
    assert (done["changed"], done["fetched"]) == (["gentoo"], ["bladecount-1.1.tar.gz"])
    assert done["recycled"] == []
    assert place(running, OLD).exists()


def test_it_is_recycled_when_no_generation_has_it_and_comes_back_when_one_does(
    running: Rehearsal,
) -> None:
    binhost = running.lab.folder / "state/binhost/blade"
    away = running.lab.folder / "away"
    away.mkdir()
    for name in ("generations", "rings"):
        (binhost / name).rename(away / name)
    done = ask(running, "mirror", "sync")
    assert done["recycled"] == [OLD]
    assert not place(running, OLD).exists()
    for name in ("generations", "rings"):
        remove_tree(binhost / name)
        (away / name).rename(binhost / name)
    before = asked_upstream(running)[0]
    assert ask(running, "mirror", "sync")["recycled"] == []
    assert place(running, OLD).exists()
    assert asked_upstream(running)[0] == before


def test_what_cannot_be_repaired_fails_is_not_served_and_can_be_added_by_hand(
    running: Rehearsal, tmp_path: Path
) -> None:
    good = place(running, OLD).read_bytes()
    upstream = running.servers[0]
    assert upstream.stdin is not None
    upstream.stdin.close()
    upstream.wait()
    place(running, OLD).write_bytes(b"broken")
    done = running.headnode("mirror", "verify", check=False)
    assert done.code == 1
    assert f"{OLD}: damaged (it has 6 bytes and should have {len(good)}), not served until" in (
        done.output
    )
    assert "Not repaired:" in done.output
    assert on(running, "sh", "-c", f"wget -q -O - {url(OLD)} || echo none") == "none"
    own = tmp_path / OLD
    own.write_bytes(good)
    assert running.headnode("mirror", "add", own).output == f"{OLD} is in place.\n"
    own.write_bytes(b"changed later")
    assert place(running, OLD).read_bytes() == good
    assert on(running, "sh", "-c", f"wget -q -O - {url(OLD)} | wc -c") == str(len(good))


def url(name: str) -> str:
    return f"http://headnode:8080/distfiles/{path_of(name)}"
