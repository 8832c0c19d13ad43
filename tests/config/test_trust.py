"""The keyring that Portage checks against: made whole, and anew only when the keys change."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from binhost.keys import Keys
from config import trust


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(folder=tmp_path / "keys", home=tmp_path / "keys/signing")
    made.make("one")
    yield made
    made.end_agent()


def trusts(home: Path) -> set[str]:
    """The keys that gpg trusts ultimately in `home`, looked at as nobody, as Portage does."""
    argv = ["gpg", "--homedir", str(home), "--batch", "--no-autostart", "--no-auto-check-trustdb"]
    done = subprocess.run(
        [*argv, "--list-keys", "--with-colons"],
        capture_output=True,
        text=True,
        check=True,
        user="nobody",
    )
    lines = done.stdout.splitlines()
    trusted = [number for number, line in enumerate(lines) if line.startswith("pub:u:")]
    return {lines[number + 1].split(":")[9] for number in trusted}


def open_to_all(folder: Path) -> None:
    """Let nobody reach a test's folder."""
    for path in [folder, *folder.parents]:
        if path != Path("/tmp") and path != Path("/"):
            path.chmod(0o755)


def test_every_key_is_trusted_and_nobody_can_read_it(keys: Keys, tmp_path: Path) -> None:
    keys.make("two")
    home = tmp_path / "gnupg"
    trust.make_home(keys.keyring(), home)
    open_to_all(tmp_path)
    assert trusts(home) == set(keys.trusted())
    assert home.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o644}


def test_it_is_made_once_and_again_when_the_keys_change(keys: Keys, tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    trust.make_home(keys.keyring(), home)
    before = home.stat().st_ino
    trust.make_home(keys.keyring(), home)
    assert home.stat().st_ino == before
    second = keys.make("two")
    keys.use(second)
    keys.drop(next(key for key in keys.trusted() if key != second))
    trust.make_home(keys.keyring(), home)
    open_to_all(tmp_path)
    assert trusts(home) == {second}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gnupg", "keys"]


def test_what_a_killed_run_left_is_cleared(keys: Keys, tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    for name in (".gnupg.new", ".gnupg.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    trust.make_home(keys.keyring(), home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gnupg", "keys"]


def test_what_is_no_key_leaves_the_keyring_as_it_was(keys: Keys, tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    trust.make_home(keys.keyring(), home)
    with pytest.raises(trust.TrustError, match="no valid OpenPGP data found"):
        trust.make_home("no key\n", home)
    assert (home / trust.MARK).exists()


def test_as_a_program_it_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    script = tmp_path / "headnode-trust"
    shutil.copy(trust.__file__, script)
    text = script.read_text().replace("/etc/", f"{tmp_path}/etc/")
    script.write_text(text)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"headnode-trust: [Errno 2] No such file or directory: '{tmp_path}/etc/headnode/keys.asc'\n"
    )
    (tmp_path / "etc/headnode").mkdir(parents=True)
    (tmp_path / "etc/headnode/keys.asc").write_text("x")
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.stderr == "headnode-trust: no gpg: install app-crypt/gnupg\n"
