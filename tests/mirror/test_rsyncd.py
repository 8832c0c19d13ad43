"""The rsync server in front of the trees: what it is told, and what a real client gets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.model import Cluster
from headnode.errors import MirrorError
from headnode.files import point_symlink
from mirror.rsyncd import Module, argv, modules, render

Start = Callable[..., Any]


def client(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["rsync", *words], capture_output=True, text=True, timeout=30)


def test_modules_are_the_newest_tree_the_images_and_one_for_each_ring_and_repository() -> None:
    cluster = Cluster.model_validate(
        {
            "mirror": {
                "repos": {
                    "gentoo": {"upstreams": ["rsync://a/gentoo"]},
                    "local": {"upstreams": ["rsync://a/local"]},
                }
            },
            "classes": {"blade": {"rings": {"canary": "b1", "fleet": "b2"}}},
        }
    )
    rings = Path("/s/binhost/blade/rings")
    assert [(each.name, each.path) for each in modules(Path("/s"), cluster)] == [
        ("gentoo-portage", Path("/s/mirror/repos/gentoo/current")),
        ("images", Path("/s/mirror/images")),
        ("blade-canary-gentoo", rings / "canary/current/repos/gentoo"),
        ("blade-canary-local", rings / "canary/current/repos/local"),
        ("blade-fleet-gentoo", rings / "fleet/current/repos/gentoo"),
        ("blade-fleet-local", rings / "fleet/current/repos/local"),
    ]


def test_two_trees_of_one_module_name_are_refused() -> None:
    cluster = Cluster.model_validate(
        {
            "classes": {
                "a": {"rings": {"b-c": "n1"}},
                "a-b": {"rings": {"c": "n2"}},
            }
        }
    )
    with pytest.raises(MirrorError) as caught:
        modules(Path("/s"), cluster)
    assert str(caught.value) == (
        "Two trees would be served as a-b-c-gentoo: gentoo as the ring b-c of a was built from it, "
        "gentoo as the ring c of a-b was built from it. "
        "Rename the class, the ring or the repository in cluster.toml."
    )


def test_the_configuration_is_read_only_chrooted_and_as_nobody() -> None:
    text = render(
        [Module(name="gentoo-portage", path=Path("/s/current"), comment="newest tree")],
        listen="10.0.0.1",
        port=8730,
        max_connections=64,
        log_file=Path("/s/log"),
        pid_file=Path("/s/pid"),
        lock_file=Path("/s/lock"),
        chroot=True,
    )
    assert text == (
        "address = 10.0.0.1\nport = 8730\nuse chroot = yes\nuid = 65534\ngid = 65534\n"
        "pid file = /s/pid\nlock file = /s/lock\nlog file = /s/log\n"
        "read only = yes\nlist = yes\nnumeric ids = yes\nmunge symlinks = no\n"
        "max connections = 64\ntimeout = 300\nrefuse options = checksum\ndont compress = *\n"
        "socket options = TCP_NODELAY\n"
        "\n[gentoo-portage]\npath = /s/current/\ncomment = newest tree\n"
    )
    assert argv(Path("/s/conf")) == [
        *("setpriv", "--pdeathsig", "TERM", "--"),
        *("rsync", "--daemon", "--no-detach", "--config=/s/conf"),
    ]


def test_a_flipped_module_is_seen_by_the_next_transfer_without_a_restart(
    start_rsyncd: Start, tmp_path: Path
) -> None:
    for stamp in ("one", "three"):
        (tmp_path / "snapshots" / stamp).mkdir(parents=True)
        (tmp_path / "snapshots" / stamp / "stamp").write_text(stamp)
    daemon = start_rsyncd(tree=tmp_path / "current")

    early = client("-a", f"{daemon.url('tree')}/", tmp_path / "copy")
    assert early.returncode == 5  # listed, but not there yet

    for stamp in ("one", "three", "one"):
        point_symlink(tmp_path / "current", f"snapshots/{stamp}")
        done = client("-a", "--delete", f"{daemon.url('tree')}/", f"{tmp_path}/copy/")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "copy/stamp").read_text() == stamp


def test_nobody_writes_and_nobody_has_checksums_read(start_rsyncd: Start, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("as it was")
    (tmp_path / "file").write_text("evil")
    daemon = start_rsyncd(tree=tmp_path / "tree")
    write = client("-a", tmp_path / "file", f"{daemon.url('tree')}/")
    assert "module is read only" in write.stderr
    check = client("-ac", f"{daemon.url('tree')}/", tmp_path / "copy")
    assert check.returncode != 0
    assert not (tmp_path / "copy/file").exists()
    assert (tmp_path / "tree/file").read_text() == "as it was"


def test_modules_are_listed_and_no_path_leads_out(start_rsyncd: Start, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "tree/link").symlink_to(tmp_path / "secret")
    daemon = start_rsyncd(tree=tmp_path / "tree", missing=tmp_path / "missing")
    assert client(daemon.url("")).stdout.split() == ["tree", "tree", "missing", "missing"]
    for path in ("../secret", "tree/../../secret"):
        assert client(f"{daemon.url('tree')}/{path}", tmp_path / "got").returncode != 0
    if os.geteuid() == 0:  # without a chroot the server follows links as its user may
        client("--copy-links", f"{daemon.url('tree')}/link", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_one_connection_too_many_is_told_to_come_back(start_rsyncd: Start, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(4 << 20))
    daemon = start_rsyncd("--bwlimit=500", tree=tmp_path / "tree", max_connections=1)
    with subprocess.Popen(
        ["rsync", "-a", "--progress", f"{daemon.url('tree')}/", tmp_path / "copy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as first:
        assert first.stdout is not None
        first.stdout.read(40)
        second = client("-a", f"{daemon.url('tree')}/", tmp_path / "second")
        first.kill()
    assert second.returncode == 5
    assert "max connections (1) reached" in second.stderr
