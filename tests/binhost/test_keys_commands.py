"""`headnode keys` as it is typed, with real keys: what the rings tell, and who believes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from binhost.keys import Keys, gpg
from binhost.publish import Order, promote, publish
from binhost.signing import Signer, is_sealed
from config.load import load
from config.trust import make_home
from headnode.cli import run
from headnode.files import locked
from mirror import sets
from schedules.site import Site

RINGS = ("canary", "fleet")


@dataclass(frozen=True, kw_only=True)
class Here:
    """A headnode whose two rings have a generation, and what it prints."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def site(self) -> Site:
        return Site(cluster=load(self.folder / "cluster.toml"))

    def headnode(self, *words: str) -> tuple[int, str]:
        """Run a command: its exit code, and what it says."""
        code = run(list(words))
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def tells(self, ring: str) -> tuple[tuple[str, ...], Path]:
        """The keys that a ring's deployment tells of, and its file."""
        found = self.site.binhost("blade").ring(ring)
        current = found.current()
        assert current is not None
        return current.keys, found.folder / "current" / "deployment.json"

    def blade(self, name: str) -> Path:
        """The keyring of a blade that was told of what is trusted now."""
        home = self.folder / name
        make_home(self.site.keys.keyring(), home)
        return home


@pytest.fixture
def here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_package: Any,
    finished: Any,
) -> Iterator[Here]:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--state", "state"]) == 0
    made = Here(folder=tmp_path, capsys=capsys)
    binhost = made.site.binhost("blade")
    (made.site.state / "mirror/repos/gentoo/snapshots/1").mkdir(parents=True)
    names = sets.write_set(made.site.state, {"gentoo": "1"})
    finished(binhost.build_folder, make_package(binhost.staging, "a-1"), snapshots=names)
    now = datetime.now(UTC)
    publish(binhost, Order(ring="canary", now=now))
    promote(binhost, Order(ring="fleet", now=now), None)
    capsys.readouterr()
    yield made
    made.site.keys.end_agent()


def test_a_second_key_is_made_where_init_made_the_first(here: Here) -> None:
    (first,) = here.site.keys.trusted()
    code, said = here.headnode("keys", "add")
    (second,) = here.site.keys.trusted().keys() - {first}
    assert (code, said) == (
        0,
        f"Blades trust {second} from their ring's next deployment on.\n",
    )
    assert here.site.keys.signer() == first


def test_a_stolen_key_is_replaced_by_one_command_and_blades_that_know_only_it_follow(
    here: Here, tmp_path: Path
) -> None:
    old = here.site.keys.signer()
    before = here.blade("before")
    code, said = here.headnode("keys", "replace", old)
    (new,) = here.site.keys.trusted()
    assert new != old
    assert (code, said) == (
        0,
        "Ring canary of blade tells its blades.\n"
        "Ring fleet of blade tells its blades.\n"
        f"{new} signs. Blades trust {old} no more when they have pulled, nor any package that it "
        "signed.\n",
    )
    after = here.blade("after")
    for ring in RINGS:
        keys, path = here.tells(ring)
        assert keys == (new,)
        assert is_sealed(path, before)
        assert is_sealed(path, after)
    # Whoever has the old key convinces only those that did not pull yet.
    theirs = tmp_path / "deployment.json"
    theirs.write_text("{}")
    gpg(here.site.keys.home, f"--local-user={old}!", "--armor", "--detach-sign", theirs)
    assert is_sealed(theirs, before)
    assert not is_sealed(theirs, after)
    assert here.headnode("generations", "verify", "--all")[0] == 0
    # One that had missed all of it is still told, whatever is deployed meanwhile.
    assert here.headnode("keys", "add")[0] == 0
    promote(here.site.binhost("blade"), Order(ring="fleet", now=datetime.now(UTC)), None)
    keys, path = here.tells("fleet")
    assert len(keys) == 2
    assert is_sealed(path, before)


def test_a_replacement_that_was_cut_off_goes_on_and_makes_no_third_key(here: Here) -> None:
    old = here.site.keys.signer()
    with locked(here.site.binhost("blade").lock, "headnode publish"):
        assert here.headnode("keys", "replace", old)[0] == 1
    (new,) = here.site.keys.trusted()
    assert here.tells("canary")[0] == (old,)
    assert here.headnode("keys", "replace", old)[0] == 0
    assert list(here.site.keys.trusted()) == [new]
    assert [here.tells(ring)[0] for ring in RINGS] == [(new,)] * 2
    assert here.headnode("keys", "replace", old) == (
        0,
        f"{new} signs. Blades trust {old} no more when they have pulled, nor any package that it "
        "signed.\n",
    )


def test_a_replacement_that_was_killed_before_its_key_signed_takes_that_one(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = here.site.keys.signer()
    with monkeypatch.context() as patch:
        patch.setattr(Keys, "use", Mock(side_effect=KeyboardInterrupt))
        assert here.headnode("keys", "replace", old)[0] == 130
    (made,) = here.site.keys.trusted().keys() - {old}
    assert here.headnode("keys", "replace", old)[0] == 0
    assert list(here.site.keys.trusted()) == [made]


def test_a_key_that_does_not_sign_is_only_forgotten(here: Here) -> None:
    first = here.site.keys.signer()
    here.headnode("keys", "add")
    (second,) = here.site.keys.trusted().keys() - {first}
    assert here.headnode("keys", "replace", second)[0] == 0
    assert list(here.site.keys.trusted()) == [first]
    assert [here.tells(ring)[0] for ring in RINGS] == [(first,)] * 2
    assert here.headnode("keys", "replace", "0" * 40) == (
        2,
        f"headnode: {'0' * 40} is not trusted. These are: {first}.\n",
    )


def test_where_no_key_is_left_that_blades_know_they_are_given_another_by_hand(here: Here) -> None:
    old = here.site.keys.signer()
    before = here.blade("before")
    gpg(here.site.keys.home, "--yes", "--delete-secret-keys", old)
    assert here.headnode("keys", "replace", old) == (
        2,
        "headnode: No key is at hand that the blades of the ring canary of blade trust, so that "
        "none can tell them of another. Run headnode keys add, headnode keys use KEY --by-hand, "
        "headnode keys drop OLD, and give every blade its files again.\n",
    )
    here.headnode("keys", "add")
    (new,) = here.site.keys.trusted().keys() - {old}
    code, said = here.headnode("keys", "use", new)
    assert code == 2
    assert said.endswith(
        "If no key that they know is left, give every blade its files again after this with "
        "--by-hand.\n"
    )
    assert here.headnode("keys", "use", new, "--by-hand") == (0, f"{new} signs from now on.\n")
    assert here.headnode("keys", "drop", old)[0] == 0
    for ring in RINGS:
        assert here.headnode("promote", "--ring", ring)[0] == 0
        keys, path = here.tells(ring)
        assert keys == (new,)
        assert not is_sealed(path, before)
    assert new in Signer.of(here.site.keys).trusted
    assert "BEGIN PGP PUBLIC KEY" in here.headnode("blades", "config", "blade01")[1]
