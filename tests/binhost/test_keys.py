"""Which key signs and which are trusted: every step can be taken back, none locks blades out."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from binhost.keys import Keys, gpg
from binhost.records import Generation
from binhost.rings import Ring
from binhost.signing import Signer, is_sealed, is_signed
from config.trust import make_home
from headnode.errors import ConfigError, PublishError

STRANGE = "0123456789ABCDEF0123456789ABCDEF01234567"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(folder=tmp_path / "keys", home=tmp_path / "keys/signing")
    yield made
    if made.home.exists():
        made.end_agent()


def test_without_a_key_it_is_said_how_to_get_one(keys: Keys) -> None:
    with pytest.raises(PublishError) as error:
        keys.signer()
    assert str(error.value) == (
        'There is no key to sign with. headnode keys add makes one; [signing] mode = "off" does '
        "without."
    )


def test_the_first_key_signs_and_the_second_waits(keys: Keys) -> None:
    first = keys.make("one")
    second = keys.make("two")
    assert keys.signer() == first
    assert set(keys.trusted()) == {first, second}
    assert keys.sealers() == [first, second]
    keys.use(second)
    assert keys.sealers() == [second, first]
    assert keys.home.stat().st_mode & 0o777 == 0o700


def test_keys_of_one_name_are_told_apart(keys: Keys) -> None:
    first, second = keys.make("headnode h"), keys.make("headnode h")
    assert set(keys.trusted()) == {first, second}
    assert keys.sealers() == [first, second]
    with pytest.raises(ConfigError) as error:
        keys.trust("headnode h")
    assert str(error.value) == (
        "headnode h is 2 public keys. Give one: its fingerprint, or a file of gpg --armor --export."
    )


def test_a_dropped_key_still_tells_those_that_know_no_other(keys: Keys, tmp_path: Path) -> None:
    first = keys.make("one")
    blade = tmp_path / "blade"
    make_home(keys.keyring(), blade)
    second = keys.make("two")
    keys.use(second)
    keys.drop(first)
    signer = Signer.of(keys)
    assert (signer.sealers, signer.leaving, signer.trusted) == ((second,), (first,), (second,))
    path = tmp_path / "deployment.json"
    path.write_text("{}")
    signer.seal(path)
    assert is_sealed(path, blade)
    assert is_sealed(path, signer.verify_home)
    keys.trust(first)
    assert (keys.leaving(), keys.sealers()) == ([], [second, first])


def test_a_dropped_key_that_cannot_sign_any_more_holds_nothing_up(
    keys: Keys, tmp_path: Path
) -> None:
    first, second = keys.make("one"), keys.make("two")
    keys.use(second)
    keys.drop(first)
    gpg(keys.home, "--yes", "--quick-set-expire", first, "seconds=1")
    time.sleep(2)
    signer = Signer.of(keys)
    path = tmp_path / "deployment.json"
    path.write_text("{}")
    signer.seal(path, told=(second,))
    assert is_sealed(path, signer.verify_home)
    # Blades that know the first alone would take nothing without it.
    with pytest.raises(PublishError, match=r"^deployment\.json could not be signed: "):
        signer.seal(path, told=(first,))
    gpg(keys.home, "--yes", "--delete-secret-keys", first)
    assert keys.leaving() == []


def test_one_of_two_dropped_keys_that_cannot_sign_leaves_the_other(
    keys: Keys, tmp_path: Path
) -> None:
    first, second, third = (keys.make(name) for name in ("one", "two", "three"))
    blade = tmp_path / "blade"
    make_home(keys.trusted()[second], blade)
    keys.use(third)
    keys.drop(first)
    keys.drop(second)
    signer = replace(Signer.of(keys), leaving=(first, second))
    gpg(keys.home, "--yes", "--delete-secret-keys", first)  # its card was taken out
    path = tmp_path / "deployment.json"
    path.write_text("{}")
    signer.seal(path, told=(second,))
    assert is_sealed(path, blade)
    assert is_sealed(path, signer.verify_home)


def test_the_key_that_signs_cannot_be_dropped(keys: Keys) -> None:
    first, second = keys.make("one"), keys.make("two")
    with pytest.raises(ConfigError) as error:
        keys.drop(first)
    assert str(error.value) == f"{first} signs. Let another sign first: headnode keys use."
    keys.drop(second)
    assert set(keys.trusted()) == {first}


def test_a_key_that_is_not_there_is_named(keys: Keys) -> None:
    first = keys.make("one")
    for act in (keys.use, keys.drop):
        with pytest.raises(ConfigError) as error:
            act(STRANGE)
        assert str(error.value) == f"{STRANGE} is not trusted. These are: {first}."
    with pytest.raises(ConfigError) as error:
        keys.trust(STRANGE)
    assert str(error.value) == (
        f"{STRANGE} is no public key. Give one: its fingerprint, or a file of gpg --armor --export."
    )


def test_a_key_of_ones_own_signs_when_cluster_toml_names_it(keys: Keys, tmp_path: Path) -> None:
    theirs = Keys(folder=tmp_path / "theirs", home=tmp_path / "home")
    key = theirs.make("mine")
    ours = Keys(folder=keys.folder, home=theirs.home, configured=key)
    with pytest.raises(PublishError) as error:
        ours.signer()
    assert str(error.value) == (
        f"The key {key} is to sign, and blades are not told to trust it. "
        f"Run headnode keys add {key}."
    )
    ours.trust(key)
    assert ours.sealers() == [key]
    with pytest.raises(ConfigError) as refused:
        ours.use(key)
    assert str(refused.value) == (
        f"cluster.toml names the key that signs: {key}. Change [signing] key."
    )
    theirs.end_agent()


def test_a_secret_that_is_not_at_hand_is_named(keys: Keys, tmp_path: Path) -> None:
    elsewhere = Keys(folder=tmp_path / "e", home=tmp_path / "e/signing")
    key = elsewhere.make("elsewhere")
    elsewhere.end_agent()
    keys.make("one")
    keys.take(elsewhere.keyring(), "a file")
    keys.use(key)
    with pytest.raises(PublishError) as error:
        keys.sealers()
    assert str(error.value) == (
        f"{keys.home} has no secret key {key}. Put it there, or name the one that signs: "
        "headnode keys use."
    )


def test_a_path_that_is_too_long_for_gpg_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    home = tmp_path / ("x" * 90)
    with pytest.raises(ConfigError) as error:
        Keys(folder=tmp_path, home=home).make("one")
    assert str(error.value) == (
        f"{home} is too long a path for gpg's socket. Set [signing] home to a shorter one."
    )
    assert not home.exists()


def test_a_package_is_signed_once_and_passes_portages_own_check(
    keys: Keys, tmp_path: Path, make_package: Any
) -> None:
    keys.make("one")
    signer = Signer.of(keys)
    path = tmp_path / make_package(tmp_path, "a-1")
    assert signer.verify([path]) == {path: "GnuPG verification failed"}
    assert not is_signed(path)
    signer.sign([path])
    assert is_signed(path)
    assert signer.verify([path]) == {}
    before = path.read_bytes()
    signer.sign([path])
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_package_that_is_not_as_it_must_be_is_found_with_the_reason(
    keys: Keys, tmp_path: Path, make_package: Any
) -> None:
    keys.make("one")
    signer = Signer.of(keys)
    bare = tmp_path / make_package(tmp_path, "a-1")
    altered = tmp_path / make_package(tmp_path, "b-1", image=b"some content")
    strange = tmp_path / make_package(tmp_path, "c-1")
    short = tmp_path / make_package(tmp_path, "d-1")
    signer.sign([altered, short])
    altered.write_bytes(altered.read_bytes().replace(b"metadata.tar.zst", b"metadata.tar.zsT", 1))
    short.write_bytes(short.read_bytes()[:2048])
    stranger = Keys(folder=tmp_path / "k", home=tmp_path / "k/signing")
    stranger.make("stranger")
    Signer.of(stranger).sign([strange])
    stranger.end_agent()
    found = signer.verify([bare, altered, strange, short])
    assert set(found) == {bare, altered, strange, short}
    assert all(found.values())


def test_what_cannot_be_signed_is_named_and_left_as_it_was(
    keys: Keys, tmp_path: Path, make_package: Any
) -> None:
    key = keys.make("one")
    signer = Signer.of(keys)
    path = tmp_path / make_package(tmp_path, "a-1")
    before = path.read_bytes()
    gpg(keys.home, "--yes", "--delete-secret-keys", key)
    with pytest.raises(PublishError, match=r"a-1-1\.gpkg\.tar could not be signed: "):
        signer.sign([path])
    assert path.read_bytes() == before


def test_an_xpak_is_refused_before_anything_is_signed(
    keys: Keys, tmp_path: Path, make_package: Any
) -> None:
    keys.make("one")
    names = [
        make_package(tmp_path / "s", "a-1"),
        make_package(tmp_path / "s", "b-1", suffix=".xpak"),
    ]
    paths = [tmp_path / "s" / name for name in names]
    with pytest.raises(PublishError) as error:
        Signer.of(keys).sign(paths)
    assert str(error.value) == (
        f"{paths[1]} cannot be signed: the older format has no place for it. "
        'Build it again as a gpkg; [signing] mode = "off" takes it as it is.'
    )
    assert not is_signed(paths[0])


def test_a_ring_whose_blades_were_never_told_of_a_key_gets_nothing_signed_by_it(
    keys: Keys, tmp_path: Path, finished: Any
) -> None:
    first = keys.make("one")
    result = finished(tmp_path, "app-misc/a/a-1-1.gpkg.tar")
    fields = result.model_dump(exclude={"built", "distributed", "finished", "packages", "seconds"})
    generation = Generation(
        number=1,
        parent=None,
        made=result.finished,
        why="",
        packages={},
        entries_sha256="",
        **fields,
    )
    ring = Ring(folder=tmp_path / "rings/canary", class_name="blade", name="canary")

    def deploy() -> tuple[str, ...]:
        return ring.deploy(
            generation,
            {},
            repos={},
            pool_url="http://h/pool",
            now=result.finished,
            valid=timedelta(days=1),
            signer=Signer.of(keys),
        ).keys

    assert deploy() == (first,)
    second = keys.make("two")
    keys.use(second)
    gpg(keys.home, "--yes", "--delete-secret-keys", first)
    with pytest.raises(PublishError) as error:
        deploy()
    assert str(error.value) == (
        f"The key {second} is to sign, and the blades of the ring canary were never told to trust "
        f"it; they trust {first}. Have one of those tell them (its secret in {keys.home}, headnode "
        f"keys add); or run headnode keys use {second} --by-hand, and give every blade its files "
        "again."
    )
    keys.use(second, by_hand=True)
    assert set(deploy()) == {first, second}
    keys.drop(first)
    assert deploy() == (second,)
    third = keys.make("three")
    keys.use(third)  # not by hand: the second is there to tell of it
    keys.drop(second)
    assert deploy() == (third,)
