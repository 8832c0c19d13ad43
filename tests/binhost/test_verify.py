"""Every kind of damage is named with its file, and what can be put back is, by digest."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost import pool_index
from binhost.keys import Keys
from binhost.publish import Binhost, Order, publish
from binhost.records import save
from binhost.repair import repair
from binhost.verify import in_rings, verify
from headnode.errors import BusyError, PublishError
from headnode.files import locked

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B = "app-misc/a/a-1-1.gpkg.tar", "app-misc/b/b-1-1.gpkg.tar"


@pytest.fixture
def binhost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_package: Any, finished: Any
) -> Binhost:
    """Generation 1 (a, b) and 2 (a) of a class; the ring has 2."""
    monkeypatch.setattr(pool_index, "RECENT", 0)  # all in the large files
    (tmp_path / "tree").mkdir()
    made = Binhost(
        class_name="blade",
        folder=tmp_path / "binhost/blade",
        build_folder=tmp_path / "build/blade",
        pool_url="http://headnode/binhost/blade/pool",
        repos_of=lambda _: {"gentoo": tmp_path / "tree"},
        keys=None,
        valid=timedelta(days=14),
    )
    for packages in (("a-1", "b-1"), ("a-1",)):
        names = [make_package(made.staging, pf) for pf in packages]
        finished(made.build_folder, *names)
        publish(made, Order(ring="canary", now=NOW))
    return made


def found(binhost: Binhost, *numbers: int) -> list[str]:
    """What is found, with paths below the class's folder."""
    report = verify(binhost, numbers or in_rings(binhost))
    return [str(each).replace(f"{binhost.folder}/", "") for each in report.findings]


def test_what_is_whole_is_read_whole(binhost: Binhost) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(binhost, [1, 2], lambda done, total: seen.append((done, total)))
    total = sum((binhost.pool.folder / name).stat().st_size for name in (A, B))
    assert (report.generations, report.packages, report.size_bytes) == ((1, 2), 2, total)
    assert report.findings == ()
    assert seen[-1] == (total, total)


def test_a_class_with_nothing_is_whole(tmp_path: Path, binhost: Binhost) -> None:
    empty = replace(binhost, folder=tmp_path / "none")
    assert verify(empty, in_rings(empty)).generations == ()


def test_what_no_ring_has_is_read_when_it_is_named(binhost: Binhost) -> None:
    (binhost.pool.folder / B).unlink()
    assert in_rings(binhost) == [2]
    assert found(binhost) == []
    assert found(binhost, 1) == [f"pool/{B}: it is not there"]
    with pytest.raises(PublishError) as error:
        found(binhost, 3)
    assert str(error.value) == "There is no generation 3; there is 1, 2."


def flip(path: Path) -> None:
    """Change one byte, and neither the size nor the time."""
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def link_away(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to("away")


def drop(path: Path) -> None:
    path.write_text("")


def garble(path: Path) -> None:
    path.write_text(path.read_text().replace("  ", "0  "))


D2 = "rings/canary/deployments/2"


@pytest.mark.parametrize(
    ("damage", "file", "what"),
    [
        (flip, f"pool/{A}", "its content is not what was published"),
        (cut, f"pool/{A}", "it has 100 bytes; 10240 were published"),
        (link_away, f"pool/{A}", "it is no regular file"),
        (Path.unlink, f"pool/{A}", "it is not there"),
        (drop, "pool/entries", f"it has not the published entry of {A}"),
        (
            drop,
            "pool/sha256",
            "its index cannot be read: {folder}/pool/sha256 lacks "
            + f"{A}, {B}. It is damaged: put it "
            "back from a backup.",
        ),
        (garble, "pool/sha256", f"it has not the published digest of {A}"),
        (flip, "generations/2/entries", "its content is not what was published"),
        (Path.unlink, "generations/2/entries", "it is not there"),
        (flip, f"{D2}/Packages", "its content is not what was deployed"),
        (cut, f"{D2}/Packages.gz", "its content is not what was deployed"),
        (Path.unlink, f"{D2}/generation.json", "it is not there"),
        (Path.unlink, f"{D2}/deployment.json", "There is no {folder}/" + D2 + "/deployment.json."),
        (Path.unlink, f"{D2}/repos/gentoo", "it is no link to a tree"),
    ],
)
def test_damage_is_named_with_its_file(
    binhost: Binhost, damage: Callable[[Path], None], file: str, what: str
) -> None:
    damage(binhost.folder / file)
    said = [each.replace(f"{binhost.folder}/", "") for each in found(binhost, 2)]
    what = what.replace("{folder}/", "")
    where = "pool" if "index cannot be read" in what else file
    assert said == [f"{where}: {what}"]


def test_entries_of_other_packages_are_named(binhost: Binhost) -> None:
    folder = binhost.folder / "generations/1"
    generation = binhost.generations.read(1)
    entries = (folder / "entries").read_text().partition("\n\n")[0] + "\n"
    digest = hashlib.sha256(entries.encode()).hexdigest()
    (folder / "entries").write_text(entries)
    save(folder / "generation.json", generation.model_copy(update={"entries_sha256": digest}))
    file = "generations/1/entries"
    assert found(binhost, 1)[0] == f"{file}: it does not name the generation's packages"


def test_a_packed_index_of_another_content_is_named(binhost: Binhost) -> None:
    """Both have the digests that the deployment says, but not one content."""
    folder = binhost.folder / D2
    said = json.loads((folder / "deployment.json").read_text())
    (folder / "Packages").write_text("other")
    said["sha256"]["Packages"] = hashlib.sha256(b"other").hexdigest()
    (folder / "deployment.json").write_text(json.dumps(said))
    assert found(binhost) == [f"{D2}/Packages.gz: it does not unpack to Packages"]


@pytest.fixture
def signed(binhost: Binhost, tmp_path: Path) -> Iterator[Binhost]:
    """The same, signed from now on: deployment 3 is."""
    keys = Keys(folder=tmp_path / "keys", home=tmp_path / "keys/signing")
    keys.make("one")
    made = replace(binhost, keys=keys)
    publish(made, Order(ring="canary", now=NOW))
    yield made
    keys.end_agent()


SEAL = "rings/canary/deployments/3/deployment.json.asc"


def test_a_signature_is_good_until_either_side_of_it_changes(signed: Binhost) -> None:
    assert found(signed, 1, 2) == []
    seal = signed.folder / SEAL
    text = seal.read_text()
    seal.unlink()
    assert found(signed, 2) == [f"{SEAL}: it is not there"]
    untrusted = f"{SEAL}: no key that blades trust signed that deployment.json"
    seal.write_text("")
    assert found(signed, 2) == [untrusted]
    seal.write_text(text)
    said = seal.with_suffix("")
    said.write_text(said.read_text().replace('"sequence": 3', '"sequence": 9'))
    assert found(signed, 2) == [untrusted]


def test_a_signature_by_a_key_that_is_trusted_no_more_is_not_missed(signed: Binhost) -> None:
    assert signed.keys
    old = signed.keys.signer()
    second = signed.keys.make("two")
    publish(signed, Order(ring="canary", now=NOW))
    signed.keys.use(second)
    signed.keys.drop(old)
    assert found(signed, 1, 2) == []


def test_a_tree_that_is_gone_is_named(binhost: Binhost, tmp_path: Path) -> None:
    (tmp_path / "tree").rmdir()
    [said] = found(binhost)
    assert said.startswith(f"{D2}/repos/gentoo: the tree ../")
    assert said.endswith("/tree is not there")


def mended(binhost: Binhost, *folders: Path) -> list[str]:
    """Where each damaged file was had from."""
    report = verify(binhost, binhost.generations.numbers())
    return [each.source for each in repair(binhost, report.findings, folders)]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("place", ["staging", "another class", "a folder"])
def test_a_package_is_put_back_from_a_file_of_its_digest(
    binhost: Binhost, tmp_path: Path, damage: Callable[[Path], None], place: str
) -> None:
    path = binhost.pool.folder / A
    good, mtime = path.read_bytes(), int(path.stat().st_mtime)
    other = {
        "staging": binhost.staging / A,
        "another class": tmp_path / "binhost/storage/pool" / A,
        "a folder": tmp_path / "from/some/where/else.gpkg.tar",
    }[place]
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(good)
    decoy = tmp_path / "from/a-1-1.gpkg.tar"  # the right size and name, another content
    decoy.parent.mkdir(exist_ok=True)
    decoy.write_bytes(bytes(len(good)))
    damage(path)
    bad = path.read_bytes() if path.exists() else None
    assert mended(binhost, tmp_path / "from") == [str(other)]
    assert (path.read_bytes(), int(path.stat().st_mtime)) == (good, mtime)
    assert found(binhost, 1, 2) == []
    aside = [each.read_bytes() for each in binhost.folder.glob("quarantine/*")]
    assert aside == ([] if bad is None else [bad])
    other.write_bytes(b"")  # the pool has a file of its own
    assert path.read_bytes() == good


def test_what_is_nowhere_stays_and_is_said(binhost: Binhost, tmp_path: Path) -> None:
    flip(binhost.pool.folder / A)
    before = (binhost.pool.folder / A).read_bytes()
    assert mended(binhost, tmp_path / "nowhere") == [""]
    assert (binhost.pool.folder / A).read_bytes() == before
    assert not (binhost.folder / "quarantine").exists()


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["Packages", "Packages.gz", "generation.json"])
def test_a_deployment_s_file_is_made_again_byte_for_byte(
    binhost: Binhost, damage: Callable[[Path], None], name: str
) -> None:
    path = binhost.folder / D2 / name
    good, mtime = path.read_bytes(), path.stat().st_mtime
    damage(path)
    assert "generation 2" in mended(binhost)
    assert (path.read_bytes(), path.stat().st_mtime) == (good, mtime)
    assert found(binhost, 1, 2) == []


def test_the_index_of_a_patched_package_is_made_again(
    binhost: Binhost, make_package: Any, finished: Any
) -> None:
    name = make_package(binhost.staging, "c-1", USER_PATCHES="app-misc/c/fix.patch")
    finished(binhost.build_folder, name)
    publish(binhost, Order(ring="canary", now=NOW))
    path = binhost.folder / "rings/canary/current/Packages"
    good = path.read_bytes()
    flip(path.resolve())
    assert mended(binhost) == ["generation 3"]
    assert path.read_bytes() == good


def test_entries_are_made_again_and_then_the_index_that_needs_them(binhost: Binhost) -> None:
    flip(binhost.folder / "generations/2/entries")
    flip(binhost.folder / D2 / "Packages")
    assert mended(binhost)[:2] == ["the pool's entries", "generation 2"]
    assert found(binhost, 1, 2) == []


def test_an_index_that_cannot_be_made_the_same_is_left(binhost: Binhost) -> None:
    moved = replace(binhost, pool_url="http://elsewhere/pool")
    path = binhost.folder / D2 / "Packages"
    path.unlink()
    assert mended(moved) == [""]
    assert not path.exists()


def test_a_repair_waits_for_no_publish(binhost: Binhost) -> None:
    with locked(binhost.lock, "headnode publish"), pytest.raises(BusyError):
        repair(binhost, [], [])
